"""Several ranks learn what one process learns, and all of them come to an end."""

import contextlib
import os
import signal
import time
from datetime import timedelta
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    PACBayesContrastiveTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    losses,
)
from sklearn_simclr._utils import ranks
from sklearn_simclr._utils.ranks import LostRankError, current, speaks, together
from sklearn_simclr.encoders import ProjectionHead
from sklearn_simclr.estimators import inference
from sklearn_simclr.images import ImageSource
from sklearn_simclr.training import Plan, loop, train, trainer, warmup_cosine
from sklearn_simclr.training.batch import Batch
from sklearn_simclr.training.batch_norm import norms_over
from sklearn_simclr.training.contrastive import ContrastiveObjective
from sklearn_simclr.training.part import divide

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
Y = np.arange(40) % 3


class Double(nn.Module):
    def forward(self, x):
        return x.double()


def encoder():
    # Without biases, which BatchNorm takes away: their gradients are rounding, of which Adam makes steps.
    first, second = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 8, 3, stride=2, bias=False)
    layers = [Double(), first, nn.BatchNorm2d(6), nn.ReLU(), second]
    return nn.Sequential(*layers, nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Flatten()).double()


def state(modules):
    return [tensor.numpy() for tensor in modules.state_dict().values()]


def learn_in_float64(optimizer="muon", loss="nt_xent", micro=None, fault=None, queue=0):
    """Return weights and loss curve after 20 steps in float64 on batches of 10 images."""
    if fault == "no synced BatchNorm":
        trainer.norms_over = lambda ranks, modules: contextlib.nullcontext()
    if fault == "no world factor":
        Batch.weight = loop.Part.weight = 1.0
    limit = {}
    if fault == "clocks that differ":
        limit = {"max_time": 3.0, "started": time.perf_counter() - 1.0 * int(os.environ["RANK"])}
    torch.manual_seed(0)
    head = ProjectionHead(32, 5, 2).double()
    augmentation = Augmentation().resolve((3, 8, 8))
    more = {"queue_size": queue}
    if loss == "supcon":  # with all that it can be combined with: labels, further views
        more |= {"labels": torch.from_numpy(np.where(Y == 2, -1, Y)), "small": augmentation, "n_small": 1}
    objective = ContrastiveObjective(encoder(), head, augmentation, getattr(losses, loss), **more)
    rate = {"muon": 0.02, "lars": 0.3}[optimizer]
    schedule = partial(warmup_cosine, warmup=0.1)
    plan = Plan(5, 10, optimizer, rate, schedule, seed=0, micro_batch_size=micro, keep_last=True, **limit)
    images = torch.from_numpy(IMAGES).movedim(3, 1).contiguous()
    with together():
        history = train(objective, ImageSource(images, (0, 255)), plan)
    return [*state(objective.modules), np.array([row["train_loss"] for row in history.rows])]


def furthest(found, expected):
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))


CASES = [
    (2, "muon", "nt_xent", None),
    (3, "lars", "nt_logistic", None),
    (4, "muon", "supcon", 5),
    (3, "lars", "nt_xent", 5),
    (2, "lars", "nt_xent", 5, 30),
]


@pytest.mark.parametrize("case", CASES)
def test_ranks_learn_what_one_process_learns(forked, case):
    size, optimizer, loss, micro, *queue = case
    found = forked.run(size, learn_in_float64, optimizer, loss, micro, None, *queue)
    alone = learn_in_float64(optimizer, loss, micro, None, *queue)
    assert furthest(found[0], alone) <= 1e-12
    assert all(furthest(other, found[0]) == 0 for other in found[1:])


@pytest.mark.parametrize("fault", ["no synced BatchNorm", "no world factor"])
def test_without_a_part_of_it_they_do_not(forked, fault):
    found = forked.run(3, learn_in_float64, "muon", "nt_xent", None, fault)
    assert furthest(found[0], learn_in_float64()) > 1e-6


def few(kind=SimCLRTransformer, **parameters):
    return kind(**{"batch_size": 14, "max_epochs": 2, "random_state": 0, **parameters})


def fitted(name):
    """Return what an estimator of each kind gives for images."""
    if name == "simclr":
        return few(loss="nt_logistic").fit(IMAGES).transform(IMAGES)
    if name == "supervised":  # with unlabelled rows, and a last batch smaller than the others
        y = np.where(np.arange(40) % 5, Y, -1)
        stopped = {"early_stopping": True, "validation_fraction": 0.3}
        return few(SupervisedTransformer, **stopped).fit(IMAGES, y).transform(IMAGES)
    if name == "autoencoder":
        return few(AutoencoderTransformer, augmentation=Augmentation()).fit(IMAGES).transform(IMAGES)
    if name == "pac_bayes":
        kind = PACBayesContrastiveTransformer(batch_size=14, max_epochs=2, random_state=0).fit(IMAGES)
        return kind.transform(IMAGES)
    tuned = few(SimCLRClassifier, pretrained=few(max_epochs=0).fit(IMAGES)).fit(IMAGES, Y)
    if name == "fine-tuned":
        return tuned.predict_proba(IMAGES)
    return few(DistilledClassifier, teacher=tuned, alpha=0.5).fit(IMAGES, Y).predict_proba(IMAGES)


ESTIMATORS = ["simclr", "supervised", "autoencoder", "pac_bayes", "fine-tuned", "distilled"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_trains_on_ranks(forked, name):
    first, second = forked.run(2, fitted, name)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, fitted(name), rtol=0.02, atol=0.02)


def fit_differently(what):
    rank = int(os.environ["RANK"])
    X, parameters = IMAGES, {"random_state": 0}
    if what == "the images" and rank == 1:
        X = IMAGES[::-1]
    if what == "the number of images" and rank == 2:
        X = IMAGES[:30]
    if what == "the parameters" and rank == 0:
        parameters["temperature"] = 0.3
    if what == "the seed":
        parameters["random_state"] = int(rank == 2)
    if what == "the weights they begin with":
        torch.manual_seed(rank == 2)
        parameters["encoder"] = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    if what == "what they train" and rank == 1:
        return few(AutoencoderTransformer).fit(X)
    if what == "the batch size":
        parameters["batch_size"] = 14 if rank else 12
    few(**parameters).fit(X)


ODD = {
    "the images": 1,
    "the number of images": 2,
    "the parameters": 0,
    "the seed": 2,
    "the weights they begin with": 2,
    "what they train": 1,
    "the batch size": 0,
}


@pytest.mark.parametrize("what", ODD)
def test_ranks_that_differ_are_named(forked, what):
    for error in forked.run(3, fit_differently, what):
        assert isinstance(error, ValueError)
        assert str(error).startswith(f"Ranks differ in {what}")
        assert f"on rank {ODD[what]} of 3" in str(error)


def fit_without_seed():
    return few(random_state=None).fit(IMAGES).transform(IMAGES)


def test_ranks_without_a_seed_share_one(forked):
    first, second = forked.run(2, fit_without_seed)
    np.testing.assert_array_equal(first, second)


class Trouble(Callback):
    """Make trouble on rank 1 in the second epoch."""

    def __init__(self, kind):
        self.kind = kind

    def on_epoch_begin(self, net, **known):
        if len(net.history) == 2 and os.environ["RANK"] == "1":
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("the callback divides by zero")


def fit_with_trouble(kind):
    """Fit where rank 1 fails, in one way or another, and fit again where that is possible."""
    estimator = few(callbacks=[Trouble(kind)], max_epochs=4)
    try:
        if kind == "bad X" and os.environ["RANK"] == "1":
            few().fit(np.full((4, 8, 8, 3), np.nan))
        if kind == "left" and os.environ["RANK"] == "1":
            few().fit(IMAGES)
            return "left"
        estimator.set_params(callbacks=None) if kind == "left" else None
        few().fit(IMAGES) if kind == "left" else None
        estimator.fit(IMAGES)
    except (ValueError, ZeroDivisionError, LostRankError) as error:
        message = f"{type(error).__name__}: {error}"
    if kind in ("killed", "left"):
        return message
    return message, few().fit(IMAGES).transform(IMAGES)


def test_a_rank_that_raises_ends_the_fit_of_all_and_they_can_fit_again(forked):
    for kind, words in [("raises", "divides by zero"), ("bad X", "NaN")]:
        found = forked.run(3, fit_with_trouble, kind)
        for rank, (message, h) in enumerate(found):
            assert words in message
            assert ("Rank 1 failed with" in message and f"rank {rank} of 3" in message) == (rank != 1)
            np.testing.assert_array_equal(h, found[0][1])


def test_a_rank_that_is_gone_ends_the_fit_of_the_others(forked):
    first, second, third = forked.run(3, fit_with_trouble, "killed")
    assert second is None
    assert "ended without an error message" in first and "ended without an error message" in third
    first, second, third = forked.run(3, fit_with_trouble, "left")
    assert second == "left"
    assert "ended without an error message" in first and "ended without an error message" in third


def test_what_was_sent_to_a_rank_that_failed_is_given_up(monkeypatch):
    done = []

    class Group:
        def abort(self):
            done.append("abort")

    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda group: done.append("destroy"))
    for failed in (True, False):
        one = ranks.Ranks(0, 2)
        one._accelerated = Group()
        one.close(failed=failed)
    assert done == ["abort", "destroy", "destroy"]


def test_exhausted_memory_is_no_lost_rank():
    with pytest.raises(torch.OutOfMemoryError), ranks.Ranks(0, 2)._asking():
        raise torch.OutOfMemoryError("out of memory")


def test_the_clock_of_rank_0_decides(forked):
    found = forked.run(2, learn_in_float64, "muon", "nt_xent", None, "clocks that differ")
    assert furthest(*found) == 0 and len(found[0][-1]) > 1


def fit_with_folders(folder, memory=False, epochs=4, stop=None):
    where = {"memory": folder} if memory else {"checkpoint_dir": folder}
    callbacks = [Trouble("raises")] if stop else None
    estimator = few(max_epochs=epochs, callbacks=callbacks, **where)
    with contextlib.suppress(ZeroDivisionError, LostRankError):
        estimator.fit(IMAGES)
        return estimator.transform(IMAGES), speaks()


def test_rank_0_keeps_the_cache(forked, tmp_path):
    (first, speaks_first), (second, speaks_second) = forked.run(2, fit_with_folders, tmp_path, True)
    assert speaks_first and not speaks_second
    files = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")]
    again = forked.run(3, fit_with_folders, tmp_path, True)
    assert len(files) == 1
    assert files == [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")]
    for h in (second, *(h for h, _ in again), fit_with_folders(tmp_path, True)[0]):
        np.testing.assert_array_equal(h, first)


@pytest.mark.parametrize("size", [1, 3])
def test_a_checkpoint_of_two_ranks_goes_on_with_others(forked, tmp_path, size):
    assert forked.run(2, fit_with_folders, tmp_path, False, 4, True) == [None, None]
    resumed = forked.run(size, fit_with_folders, tmp_path) if size > 1 else [fit_with_folders(tmp_path)]
    whole = forked.run(2, fit_with_folders, tmp_path / "other")
    np.testing.assert_allclose(resumed[0][0], whole[0][0], rtol=0.02, atol=0.02)
    for other, _ in resumed:
        np.testing.assert_array_equal(other, resumed[0][0])


def transform_many(only=None):
    """Transform more images than a rank does alone; return the result and how many this rank computed."""
    computed = []
    infer_here = inference._infer_here

    def counted(function, modules, source, device, layout):
        computed.append(len(source))
        return infer_here(function, modules, source, device, layout)

    inference._infer_here = counted
    ranks._SHARING_WAIT = timedelta(seconds=0.3)
    estimator = few(max_epochs=1).fit(IMAGES)
    X = np.concatenate([IMAGES] * 30)
    computed.clear()
    if only is not None and os.environ["RANK"] != str(only):
        return None
    result = estimator.transform(X)
    return result, [*computed, len(estimator.transform(X[:40]))]


def test_ranks_share_a_transform(forked):
    (first, counts), (second, others) = forked.run(2, transform_many)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:40], first[40:80])
    assert counts == others == [600, 40]


def test_a_rank_may_transform_alone(forked):
    first, second = forked.run(2, transform_many, 1)
    assert first is None
    assert second[1] == [1200, 40]


def search(backend):
    transformer = few(max_epochs=1)
    grid = {"simclrtransformer__temperature": [0.1, 0.5]}
    search = GridSearchCV(make_pipeline(transformer, LogisticRegression()), grid, cv=2, n_jobs=2)
    with joblib.parallel_config(backend=backend):
        return search.fit(IMAGES, Y).cv_results_["mean_test_score"]


def test_workers_of_a_rank_are_no_ranks(forked):
    first, second = forked.run(2, search, "threading")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, search("threading"))


def in_a_group():
    """Fit in a group that the script has made, as accelerate and Lightning do."""
    torch.distributed.init_process_group("gloo")
    h = few().fit(IMAGES).transform(IMAGES)
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return h, float(total)


def test_a_group_of_the_script_is_used_and_left_as_it_is(forked):
    (first, total), (second, _) = forked.run(2, in_a_group)
    np.testing.assert_array_equal(first, second)
    assert total == 2


def started_again():
    """Fit where the addresses of ranks that have ended lie in the store, as torchrun leaves them."""
    torch.distributed.init_process_group("gloo")
    store = torch.distributed.distributed_c10d._get_default_store()
    torch.distributed.destroy_process_group()
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    if os.environ["RANK"] == "1":
        time.sleep(0.5)
    epochs = few().fit(IMAGES).n_iter_
    del store  # only now: without its last user it would forget the addresses
    return epochs


def test_ranks_that_are_started_again_do_not_look_for_those_that_ended(forked):
    first, second = forked.run(2, started_again)
    assert first == second >= 1


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_ranks_is_that_of_all_rows(forked, shape, affine):
    parts = forked.run(3, normalise, shape, affine)
    for name, expected in normalise_all(shape, affine).items():
        found = [part[name] for part in parts]
        if name in ("y", "dx"):
            found = np.concatenate(found)
        elif name.startswith("d"):
            found = sum(found)
        else:
            found = found[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def case(shape, affine):
    rng = np.random.default_rng(1)
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1], affine=affine).double()
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(0))
    return norm, torch.from_numpy(rng.normal(3, 2, shape)), torch.from_numpy(rng.normal(size=shape))


def normalise(shape, affine):
    norm, x, dy = case(shape, affine)
    with together() as together_now, norms_over(together_now, norm):
        rows = slice(*[(0, 1), (1, 4), (4, 7)][together_now.rank])
        x = x[rows].requires_grad_()
        y = norm(x)
        y.backward(dy[rows])
    known = {"y": y, "dx": x.grad, "mean": norm.running_mean, "variance": norm.running_var}
    known |= {"dw": norm.weight.grad, "db": norm.bias.grad} if affine else {}
    return {name: tensor.detach().numpy() for name, tensor in known.items()}


def normalise_all(shape, affine):
    """The same with nothing but NumPy."""
    norm, x, dy = case(shape, affine)
    x, dy = x.numpy(), dy.numpy()
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    n, form = x.size / x.shape[1], (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = x.mean(axes), x.var(axes)
    scale = 1 / np.sqrt(variance + norm.eps)
    z = (x - mean.reshape(form)) * scale.reshape(form)
    weight = norm.weight.detach().numpy() if affine else np.ones(x.shape[1])
    dz = dy * weight.reshape(form)
    centred = dz - dz.mean(axes, keepdims=True) - z * (dz * z).mean(axes, keepdims=True)
    known = {"y": z * weight.reshape(form), "dx": scale.reshape(form) * centred}
    known |= {"mean": 0.1 * mean, "variance": 0.9 + 0.1 * variance * n / (n - 1)}
    return known | ({"dw": (dy * z).sum(axes), "db": dy.sum(axes)} if affine else {})


def test_outside_of_a_launcher_a_process_is_alone():
    with together() as alone:
        assert alone.size == 1 and current() is alone and speaks()


def divided():
    """Return what each rank computes of five tensors, and what it gets."""
    computed = []

    def compute(rows):
        computed.extend(rows)
        return [torch.full((k + 1, 2), float(k)) for k in rows]

    like = [torch.empty(k + 1, 2) for k in range(5)]
    with together() as all_of_us:
        found = divide(all_of_us, like, [9, 1, 1, 1, 5], compute)
    return sorted(computed), [tensor.numpy() for tensor in found]


def test_work_is_divided_by_its_cost(forked):
    results = forked.run(3, divided)
    assert [computed for computed, _ in results] == [[0], [4], [1, 2, 3]]
    for _, found in results:
        for k, tensor in enumerate(found):
            np.testing.assert_array_equal(tensor, np.full((k + 1, 2), k))
