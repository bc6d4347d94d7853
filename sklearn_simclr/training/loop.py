"""The training loop: order of the images, optimizer, schedule, checkpoint and callbacks, as a skorch net."""

import contextlib
import math
import reprlib
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn

from .._utils.devices import is_cpu, send, synchronize
from .._utils.progress import setting_up
from .._utils.ranks import current
from .._utils.warn import warn
from ..encoders.description import encoder_name, not_finite
from ..images.source import ImageSource
from .batch import Batch
from .checkpoint import Checkpoint
from .clock import Clock
from .ctrl_c import KeepOnCtrlC, ended_by_callback, noted_ctrl_c
from .feed import make_feed
from .forecast import predict_loss
from .graphs import RepeatedStep, can_be_recorded
from .identity import content_of
from .objective import Epoch, History, Objective, Step
from .optimizers import make_optimizer, never_wait
from .pace import Pace, fit_into_time, measure_pace
from .part import Part, part_of
from .plan import Plan
from .state import Position, as_it_was, check_state, restore, state_of
from .watch import ViewsWatch

__all__ = ["Loop"]

# Images of each rank in the first trial of a step.
_TRIAL_OF_A_RANK = 16

_PER_STEP = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class _Loss(nn.Module):
    """Fill the place where skorch wants a loss: the objective computes the loss."""


class Loop(NeuralNet):
    """The training of an objective as a skorch net, with which skorch's callbacks work."""

    def __init__(self, objective: Objective, plan: Plan, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(
            # Views of the same modules, in the order in which images go through.
            nn.Sequential(OrderedDict(objective.modules.items())),
            _Loss(),
            lr=plan.learning_rate,
            max_epochs=plan.max_epochs,
            batch_size=plan.batch_size,
            train_split=None,
            callbacks=list(plan.callbacks) or None,
            verbose=plan.verbose,
            device=plan.device,
        )
        self.objective = objective
        self.plan = plan
        self.checkpoint = checkpoint
        self.ranks = current()
        # Gradients of float16 vanish below 6e-8: they are computed of a multiple of the loss.
        self.scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision is torch.float16)
        self.generator = torch.Generator().manual_seed(plan.seeds[2])  # of the CPU: all devices draw the same
        self.views_watch = ViewsWatch(objective.augmentation)

    @property
    def _default_callbacks(self) -> list:
        return []

    def _validate_params(self) -> None:
        """Leave validation to the estimator, which knows what its user wrote."""

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> "Loop":
        """Build the optimizer from its name."""
        plan = self.plan
        self.optimizer_ = make_optimizer(
            plan.optimizer,
            [self.module_],
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            # The range of float16 is too small for products of small numbers.
            dtype=None if plan.precision is torch.float16 else plan.precision,
        )
        return self

    def run(self, images: ImageSource, optimizer_state: Mapping[str, Any] | None = None) -> History:
        """Train on images."""
        with setting_up("first layer and speed", bool(self.plan.verbose)):
            self.objective.begin(images, self.plan, self.generator)
            for tensor in self.module.state_dict().values():
                self.ranks.copy(tensor)
            odd = not_finite(self.module.state_dict())
            if odd:
                raise ValueError(
                    f"The network begins with weights that are not finite: {odd!r}. Pass other weights."
                )
            if self.plan.max_epochs == 0:
                return History([])
            self.initialize()
            self.module_.to(memory_format=self.objective.memory_format)
            self.feed_ = make_feed(images, self.plan.device)
            state = None if self.checkpoint is None else self.checkpoint.load()
            known = state is not None or self.plan.max_time is None
            if state is None:
                self.plan.check_time()
            pace = Pace(0.0, 0.0) if known else self._measure_pace(len(images))
        if self.checkpoint is not None and state is not None:
            with self.checkpoint.refusing():
                check_state(state)
                self._resize(state["batch_size"], len(images))
        elif not known:
            self._foresee(pace, len(images))
        if optimizer_state is not None:
            self.optimizer_.load_state_dict(dict(optimizer_state))
        self.known_callbacks_ = self._describe_callbacks()
        self.notify("on_train_begin", X=images, y=None)
        self.fit_loop(images, state=state, pace=pace)
        self.notify("on_train_end", X=images, y=None)
        self.module_.to(memory_format=torch.contiguous_format)
        self.objective.end()
        odd = not_finite(self.module.state_dict())
        if odd:
            raise self._diverged(f"{odd!r} is not finite after the last step")
        rows = [{name: float(row[name]) for name in self.objective.columns} for row in self.history]
        extended = self.checkpoint is not None and self.checkpoint.extended
        return History(rows, self.optimizer_.state_dict(), not (extended or self.pressed_))

    def _describe_callbacks(self) -> str:
        """Return a digest of the callbacks before the training, nothing if it is not needed or not known."""
        if self.checkpoint is None:
            return ""
        try:
            return content_of(list(self.plan.callbacks))
        except TypeError:
            return ""

    def _measure_pace(self, n_images: int) -> Pace:
        """Return how long steps take; the trials leave no trace."""
        size = min(self.plan.batch_size, n_images)
        with as_it_was(self):
            (left,) = self.ranks.lead((self.plan.time_left(),))
            # A rank that fails alone would leave the others waiting, so no trial of several ranks may fail.
            least = None if self.ranks.size == 1 else min(size, _TRIAL_OF_A_RANK * self.ranks.size)
            return measure_pace(partial(self._try_step, n_images), size, left, least)

    def _foresee(self, pace: Pace, n_images: int) -> None:
        """Take a smaller batch, warn or raise if few steps fit into the time."""
        name = encoder_name(self.objective.modules["encoder"])
        smaller = ["smaller images or views (image_size, Augmentation(size=...))", "a smaller encoder"]
        smaller[1] += "" if name.startswith("compact") else " than " + name + ", such as 'compact'"
        (left,) = self.ranks.lead((self.plan.time_left(),))
        plan = fit_into_time(self.plan, n_images, pace, left, " or ".join(smaller))
        self._resize(plan.batch_size, n_images)

    def _try_step(self, n_images: int, n: int) -> tuple[float, float]:
        """Take a step on some images; return the seconds of the gradient and of the optimizer."""
        device = self.plan.device
        rows = torch.arange(n, device=device) * (n_images // n)
        times = [_now(device)]
        part = self._part(n)
        for index, images in self.feed_.batches([part.select(rows)]):
            self._gradient(index, images, part)
            times.append(_now(device))
            self._update()
        times.append(_now(device))
        gradient, update = self.ranks.lead((times[1] - times[0], times[2] - times[1]))
        return gradient, update

    def _part(self, n: int) -> Part:
        """Return what this rank computes of a batch of n images."""
        return part_of(n, self.plan.micro_batch_size, self.ranks)

    def _resize(self, batch_size: int, n_images: int) -> None:
        """Go on with another batch size, and what depends on it."""
        if batch_size == self.plan.batch_size:
            return
        self.plan = self.plan.resized(batch_size)
        self.batch_size, self.lr = batch_size, self.plan.learning_rate
        self.initialize_optimizer()
        self.objective.adapt(self.plan, n_images)

    def fit_loop(
        self, X: ImageSource, y: None = None, epochs: int | None = None, **fit_params: Any
    ) -> "Loop":
        """Run the epochs; a callback may end them early."""
        objective = self.objective
        per_step = any(_overrides_step(callback) for _, callback in self.callbacks_)
        self.clock_ = Clock(self.plan, len(X), objective.title, objective.chance_level, fit_params["pace"])
        position, state = None, fit_params["state"]
        if self.checkpoint is not None and state is not None:
            with self.checkpoint.refusing():
                position = restore(self, state)
            if state["callbacks"] != self.known_callbacks_ and self.clock_.over():
                warn(
                    f"The training in checkpoint_dir={str(self.checkpoint.folder)!r} is over, and had other "
                    "callbacks than this fit, whose callbacks have no effect now. Pass another "
                    "checkpoint_dir to train with them."
                )
        self.keeps_ = any(isinstance(callback, KeepOnCtrlC) for _, callback in self.callbacks_)
        with self.clock_ as clock, noted_ctrl_c(self.keeps_) as pressed, self._repeating():
            self.pressed_ = pressed
            while not self._agreed(clock.over() or objective.enough(len(self.history)) or bool(pressed)):
                self.notify("on_epoch_begin", dataset_train=X, dataset_valid=None)
                self._run_epoch(len(X), clock, per_step, position)
                position = None
                with ended_by_callback() as ended, _known_columns(self):
                    self.notify("on_epoch_end", dataset_train=X, dataset_valid=None)
                if self._agreed(bool(ended)):
                    break
                # An epoch that Ctrl-C has cut short is no state from which the same training can go on.
                if self.checkpoint is not None and self.ranks.rank == 0 and not pressed:
                    last = clock.over() or objective.enough(len(self.history))
                    self.checkpoint.save(state_of(self), last=last)
        if pressed and self.history:
            warn(
                f"Ctrl-C ended the training in epoch {len(self.history)} of {self.plan.max_epochs}; the "
                "weights learnt so far are kept. The learning rate had not yet come down: a training that is "
                "planned with fewer epochs learns more in the same time."
            )
        if self.plan.verbose:
            self._print_prediction()
        return self

    def _agreed(self, over: bool) -> bool:
        """Return whether rank 0 says that the training, or an epoch, is over."""
        return bool(self.ranks.lead((float(over),))[0])

    def _print_prediction(self) -> None:
        """Print what the loss curve predicts for a longer training, if it is long enough to predict "
        "anything."""
        import pandas as pd

        curve = {"loss": self.history[:, "train_loss"], "learning_rate": self.history[:, "lr"]}
        with contextlib.suppress(ValueError):
            print(f"{self.objective.title}: {predict_loss(pd.DataFrame(curve, dtype=float))}")

    def _run_epoch(self, n_images: int, clock: Clock, per_step: bool, position: Position | None) -> None:
        self.module_.train()
        size = min(self.plan.batch_size, n_images)
        if position is None:
            order = torch.randperm(n_images, generator=self.generator)
            order = order if self.plan.keep_last else order[: n_images // size * size]
            (order,) = send([order], self.plan.device)
            position = Position(order, torch.zeros(2, device=self.plan.device))
        done, batches = position.done, position.order.split(size)
        parts = {n: self._part(n) for n in {len(index) for index in batches}}
        own = [parts[len(index)].select(index) for index in batches]
        seen = before = sum(len(index) for index in batches[:done]) / size
        started, timed = time.perf_counter(), self.plan.max_time is not None
        for whole, (index, images) in zip(batches[done:], self.feed_.batches(own[done:]), strict=True):
            part = parts[len(whole)]
            fraction = clock.fraction()
            if timed:
                (fraction,) = self.ranks.lead((fraction,))
            for group in self.optimizer_.param_groups:
                group["lr"] = group["initial_lr"] * self.plan.schedule(fraction)
            if per_step:
                self.notify("on_batch_begin", batch=(index, None), training=True)
            if self.repeated_ is not None and part.n == size:
                loss, outputs = self.repeated_.step(index, images)
            else:
                loss, outputs = self._step(index, images, part, per_step)
            position.count(loss, part.n / size, overflows=self.scaler.is_enabled())
            seen += part.n / size
            if per_step:
                self.history.record_batch("train_loss", loss.item())
                self.history.record_batch("train_batch_size", len(index))
                y_pred = list(outputs.values())[-1] if outputs else None
                self.notify("on_batch_end", batch=(index, None), training=True, loss=loss, y_pred=y_pred)
            clock.tick(loss)
            # All ranks count the same steps; on accelerators they learn here in time if another one is gone.
            over = clock.over() or bool(self.pressed_)
            asks = timed or self.keeps_ or not is_cpu(self.plan.device)
            if self._agreed(over) if asks else over:
                break
            writes = self.ranks.rank == 0 and position.done < len(batches)
            if self.checkpoint is not None and writes and self.checkpoint.due():
                self.checkpoint.save(state_of(self, position))
        images_seen = round((seen - before) * size)
        seconds = time.perf_counter() - started
        outputs = {name: part.gather_output(tensor) for name, tensor in outputs.items()}
        total, left_out = position.total
        self._record(total / (seen - left_out), outputs, images_seen, seconds)
        self.views_watch.see_epoch(images, seconds)

    @contextlib.contextmanager
    def _repeating(self) -> Iterator[None]:
        """Let the device repeat steps by itself, if it can, until the context ends."""
        self.repeated_ = self._repeated_step()
        try:
            yield
        finally:
            self.repeated_ = None  # holds this loop, and memory of the device

    def _repeated_step(self) -> RepeatedStep | None:
        repeats = can_be_recorded(self.objective, self.plan)
        never_wait(self.optimizer_, repeats or self.scaler.is_enabled())
        if not repeats:
            return None

        def compute(index: torch.Tensor, images: torch.Tensor, drawn: Any) -> tuple:
            return self._step(index, images, self._part(len(index)), False, drawn)

        return RepeatedStep(compute, self.module_, self.optimizer_, self.generator, self.plan.device)

    def _step(
        self, index: torch.Tensor, images: torch.Tensor, part: Part, per_step: bool, drawn: Any = None
    ) -> tuple:
        """Take one step of the optimizer; return the loss and the outputs, detached."""
        loss, outputs = self._gradient(index, images, part, drawn)
        if not self.clock_.steps and not any(p.grad is not None for p in self.module_.parameters()):
            raise ValueError(
                "The loss gives no parameter of the modules a gradient, so nothing would be learnt. Compute "
                "the loss from the outputs of the modules, and set requires_grad of the parameters to learn."
            )
        if per_step:
            self.scaler.unscale_(self.optimizer_)
            named = list(self.module_.named_parameters())
            self.notify("on_grad_computed", named_parameters=named, X=index, y=None, training=True)
        self._update()
        return loss, outputs

    def _update(self) -> None:
        """Change the weights by their gradients, unless a gradient of float16 has overflowed."""
        self.scaler.step(self.optimizer_)
        self.scaler.update()
        self.objective.after_step()

    def _gradient(self, index: torch.Tensor, images: torch.Tensor, part: Part, drawn: Any = None) -> tuple:
        """Compute the gradients of a batch; return its loss and outputs, detached."""
        self.optimizer_.zero_grad(set_to_none=True)
        scaled: list[bool] = []

        def scale(loss: torch.Tensor) -> torch.Tensor:
            scaled.append(True)
            return self.scaler.scale(loss)

        layout = self.objective.memory_format
        step = self.objective.step(
            Batch(index, images, self.generator, self.plan, layout, part, scale, drawn)
        )
        if not isinstance(step, Step):
            name = type(self.objective).__name__
            raise TypeError(f"step of {name} must return a Step(loss), got {_shown(step)}.")
        loss = step.loss
        if not step.has_gradients and not (
            isinstance(loss, torch.Tensor) and loss.ndim == 0 and loss.requires_grad
        ):
            raise ValueError(
                "loss must return a scalar tensor computed from the outputs of the modules, got "
                f"{_shown(loss)}. Take the mean of a vector, and leave out .item() and .detach()."
            )
        loss = loss if part.whole else loss * part.weight
        value = loss.detach()
        if not step.has_gradients:
            loss = scale(loss)
            loss.backward()
        elif self.scaler.is_enabled() and not scaled:
            raise ValueError(
                f"step of {type(self.objective).__name__} computes gradients by itself, from a loss that is "
                "not scaled for float16. Compute the gradients of batch.scale(loss), or pass another "
                "precision."
            )
        return part.add_up(value, self.module_.parameters()), step.outputs

    def _record(
        self, mean: torch.Tensor, outputs: Mapping[str, torch.Tensor], images: int, seconds: float
    ) -> None:
        """Write the row of an epoch; the only place where the host waits for the device."""
        loss = mean.item()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss of epoch {len(self.history)} is {loss}")
        best = min([row["train_loss"] for row in self.history[:-1]], default=math.inf)
        if not self.history[-1]["batches"]:  # Checkpoint looks for a last batch
            self.history.new_batch()
            self.history.record_batch("train_loss", loss)
        epoch = Epoch(len(self.history), loss, self.clock_.steps, self.clock_.fraction())
        measured = self.ranks.broadcast(dict(self.objective.measure(outputs, epoch)))
        row = {
            "train_loss": loss,
            "train_loss_best": loss < best,
            "images_per_second": images / seconds,
            "lr": self.optimizer_.param_groups[0]["lr"],
            "dur": seconds,
        }
        self._check_columns(row.keys(), measured.keys())
        row |= measured
        for name, value in row.items():
            self.history.record(name, value)

    def _diverged(self, sign: str) -> ValueError:
        plan = self.plan
        decay = f", a smaller weight_decay than {plan.weight_decay:g}" if plan.weight_decay else ""
        return ValueError(
            f"The training diverged: {sign}. "
            f"Pass a smaller learning_rate than {plan.learning_rate:g}{decay}, or a longer warmup."
        )

    def _check_columns(self, own: Collection[str], measured: Collection[str]) -> None:
        """Raise if `measure` and `columns` of the objective do not fit together."""
        name, columns = type(self.objective).__name__, self.objective.columns
        wrong = sorted(set(measured) & set(own)) + sorted(set(measured) - set(columns))
        if wrong:
            raise ValueError(
                f"measure of {name} returns {wrong[0]!r}, which is recorded already or is not in columns. "
                "Return the value under another name, and add this name to columns."
            )
        missing = sorted(set(columns) - set(own) - set(measured))
        if missing or "epoch" in columns.values():
            raise ValueError(
                f"columns of {name} must name values that are recorded, {sorted(own)} or those that measure "
                f"returns, and no column can be called 'epoch'; found {dict(columns)}."
            )


def _now(device: torch.device) -> float:
    """Return the time, once a device has done what it was given."""
    synchronize(device)
    return time.perf_counter()


def _shown(value: object) -> str:
    """Describe a value in one line."""
    if isinstance(value, torch.Tensor):
        grad = "with" if value.requires_grad else "without"
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}, {grad} a gradient"
    return f"{reprlib.repr(value)} of type {type(value).__name__}"


def _overrides_step(callback: Callback) -> bool:
    return any(getattr(type(callback), name, None) is not getattr(Callback, name) for name in _PER_STEP)


@contextlib.contextmanager
def _known_columns(net: Loop) -> Iterator[None]:
    """Turn a callback's KeyError about the history into words."""
    try:
        yield
    except KeyError as error:
        known = sorted(name for name in net.history[-1] if name != "batches")
        raise ValueError(
            f"One of the callbacks looks for {error}, which the training does not record. "
            f"Monitor one of {known}, for instance EarlyStopping(monitor='train_loss')."
        ) from error
