"""Losses that see labels, losses with weights of their own, and small views, in the loop."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils import get_tags
from torch import nn

from sklearn_simclr import Augmentation, ExternalViews, SimCLRClassifier, SimCLRTransformer
from sklearn_simclr.estimators.views import smaller_views
from sklearn_simclr.inspection import representation_report
from sklearn_simclr.losses import dcl, hard_nt_xent, supcon
from sklearn_simclr.training import Batch, Plan
from sklearn_simclr.training.contrastive import ContrastiveObjective

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
Y = np.array(["b", None, "a"] * 4, dtype=object)
TINY = {"max_epochs": 1, "batch_size": 6, "random_state": 0, "projection_dim": 5}


class Sides(nn.Module):
    """Images of any size to numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Recorded:
    def __init__(self):
        self.labels = []

    def __call__(self, z, labels):
        self.labels.append(labels)
        return supcon(z, labels)


class Scaled(nn.Module):
    """A loss with a temperature that is learnt."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, z):
        z = nn.functional.normalize(z)
        logits = (self.scale.exp() * z @ z.T).fill_diagonal_(-1e9)
        return nn.functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def gradients(micro_batch_size, labels, n_small, loss=supcon):
    """Return loss and gradients of a batch, and what made them."""
    torch.manual_seed(0)
    encoder, head = Sides().double(), nn.Linear(6, 3).double()
    views = Augmentation(size=8).resolve((1, 8, 8))
    small = smaller_views(views, encoder.float(), (1, 8, 8))
    encoder.double()
    objective = ContrastiveObjective(
        encoder, head, AsDouble(views), loss, labels=labels, small=AsDouble(small), n_small=n_small
    )
    plan = Plan(1, 12, "sgd", 0.1, lambda fraction: 1.0, seed=0, micro_batch_size=micro_batch_size)
    index = torch.tensor([3, 1, 5, 0, 2, 9])
    pixels = torch.from_numpy(IMAGES)[index, None]
    batch = Batch(index, pixels, torch.Generator().manual_seed(1), plan)
    step = objective.step(batch)
    if not step.has_gradients:
        step.loss.backward()
    generator = torch.Generator().manual_seed(1)
    made = [views.apply(pixels, views.draw(12, (1, 8, 8), generator=generator))]
    if n_small:
        made.append(small.apply(pixels, small.draw(n_small * 6, (1, 8, 8), generator=generator)))
    z = torch.cat([head(encoder(some.double())) for some in made]).chunk(2 + n_small)
    return step.loss.item(), [p.grad.clone() for p in objective.modules.parameters()], z, index


class AsDouble:
    """Views in float64."""

    def __init__(self, views):
        self.views = views

    def __getattr__(self, name):
        return getattr(self.views, name)

    def apply(self, images, draws):
        return self.views.apply(images, draws).double()


@pytest.mark.parametrize("n_small", [0, 3])
def test_a_step_is_the_mean_over_pairs_of_views_with_any_micro_batch(n_small):
    labels = torch.tensor([0, 1, -1, 0, 1, -1, 1, 0, 0, 1, -1, 1])
    found, expected, z, index = gradients(None, labels, n_small)
    pairs = [(0, 1), *itertools.product((0, 1), range(2, 2 + n_small))]
    assert len(pairs) == 1 + 2 * n_small
    losses = [supcon(torch.cat([z[a], z[b]]), labels[index]).item() for a, b in pairs]
    assert found == pytest.approx(np.mean(losses), rel=1e-9)
    assert n_small == 0 or z[2].shape == z[0].shape
    in_parts, parts, *_ = gradients(2, labels, n_small)
    assert in_parts == pytest.approx(found, rel=1e-12)
    for one, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_labels_reach_the_loss_row_by_row(tmp_path):
    paths = []
    for i, image in enumerate(IMAGES):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    paths[4].write_bytes(b"broken")
    loss = Recorded()
    model = SimCLRTransformer(Sides(), loss=loss, on_error="nan", **{**TINY, "batch_size": 11})
    with pytest.warns(UserWarning, match="1 of 12 images"):
        model.fit(paths, Y)
    counts = np.bincount(loss.labels[-1].numpy() + 1, minlength=3)
    assert counts.tolist() == [3, 4, 4]  # one without a label could not be read
    assert loss.labels[-1].shape == (11,)
    with pytest.raises(ValueError, match="loss=Recorded learns from labels, but y is None. Pass y to fit"):
        model.fit(paths)


@pytest.mark.parametrize("loss", ["supcon", "dcl", "hard_nt_xent"])
def test_losses_by_name(loss):
    encoder = Sides()
    by_name = SimCLRTransformer(encoder, loss=loss, temperature=0.3, **TINY).fit(IMAGES, Y)
    function = {"supcon": supcon, "dcl": dcl, "hard_nt_xent": hard_nt_xent}[loss]
    given = partial(function, temperature=0.3)
    by_function = SimCLRTransformer(encoder, loss=given, **TINY).fit(IMAGES, Y)
    assert by_name.loss_curve_ == by_function.loss_curve_
    assert by_name.history_["chance_level"].iloc[0] == pytest.approx(
        by_function.history_["chance_level"].iloc[0], rel=1e-5
    )
    assert get_tags(by_name).target_tags.required == (loss == "supcon")
    if loss == "supcon":
        with pytest.raises(ValueError, match="loss='supcon' learns from labels, but y is None"):
            by_name.fit(IMAGES)
        other = clone(by_name).fit(IMAGES, np.roll(Y, 1))
        assert other.loss_curve_ != by_name.loss_curve_
        representation_report(by_name, IMAGES)
        classifier = SimCLRClassifier(clone(by_name), max_epochs=1, random_state=0).fit(IMAGES, Y)
        assert classifier.pretrained_.loss_curve_ == by_name.loss_curve_


def test_a_loss_with_weights_is_trained_as_a_copy():
    loss = Scaled()
    model = SimCLRTransformer(Sides(), loss=loss, warm_start=True, **TINY).fit(IMAGES)
    assert loss.scale.item() == 2.0 and model.loss_.scale.item() != 2.0
    before = model.loss_.scale.item()
    model.fit(IMAGES)
    assert model.loss_.scale.item() not in (2.0, before)
    assert clone(model).fit(IMAGES).loss_.scale.item() == before


def test_small_views_have_half_the_side_and_small_crops():
    views = Augmentation(size=(24, 17), crop_scale=(0.3, 1.0), blur_probability=0.1).resolve((3, 32, 32))
    small = smaller_views(views, Sides(), (1, 32, 32))
    assert small.size == (12, 8) and small.crop_scale == pytest.approx((0.1, 0.3))
    assert small.blur_probability == 0.1
    model = SimCLRTransformer(Sides(), small_views=2, micro_batch_size=3, **TINY).fit(IMAGES)
    other = SimCLRTransformer(Sides(), **TINY).fit(IMAGES)
    assert model.loss_curve_ != other.loss_curve_ and model.n_iter_ == 1
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"encoder \(Sequential\) does not take small_views of 4 x 4 pixels"):
        SimCLRTransformer(flat, small_views=2, **TINY).fit(IMAGES)
    with pytest.raises(ValueError, match="small_views are made by the built-in Augmentation.*ExternalViews"):
        SimCLRTransformer(Sides(), small_views=2, augmentation=ExternalViews(lambda x: x), **TINY).fit(IMAGES)
