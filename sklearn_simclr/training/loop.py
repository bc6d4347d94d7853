"""The training loop: a skorch net whose images stay on the device and whose batches are index draws."""

import contextlib
import dis
import math
import time

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn

from .clock import Clock
from .feed import make_feed
from .forecast import predict_loss
from .optimizers import make_optimizer, warmup_cosine

__all__ = ["TrainingLoop"]

_PER_STEP = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class _Loss(nn.Module):
    """The loss as skorch wants it: a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


class TrainingLoop(NeuralNet):
    """A skorch net that is trained on batches of images; skorch's callbacks work with it.

    A subclass says in ``_step`` what a step of the training is.

    Parameters
    ----------
    module : nn.Module
        Trained in place.
    loss : callable
        What the module returns to a 0-d tensor.
    augmentation : Augmentation
        With concrete values.
    generator : torch.Generator
        On the device; for the order of the images and the views.
    optimizer : {"lars", "sgd", "adamw", "muon"}
        Name of the optimizer.
    lr, weight_decay : float
        Peak learning rate and weight decay.
    warmup : float
        Fraction of the training over which the learning rate rises.
    decay : bool
        Whether the learning rate falls after the warm-up, by a half cosine to 0. If not, warmup counts
        epochs, of which epochs_before lie behind.
    epochs_before : int
        Epochs done in earlier trainings.
    batch_size : int
        Images a step.
    max_epochs : int
        Passes over the images.
    deadline : (float, float) or None
        Start and end of the training on ``time.perf_counter``'s clock; replaces max_epochs.
    autocast : torch.dtype or None
        Precision of the forward.
    channels_last : bool
        Whether the encoder takes images in that memory format, in which convolutions are faster.
    chance_level : float or None
        Loss of a module that cannot tell images apart, for the progress bar.
    callbacks : list or None
        skorch's.
    verbose : int
        Whether to draw a progress bar.
    device : torch.device
        Where to train.
    checkpoint : Checkpoint or None
        Where the state of the training is kept, and where it may go on from.
    """

    _title = "Training"

    def __init__(
        self,
        module,
        loss,
        *,
        augmentation,
        generator,
        optimizer,
        lr,
        weight_decay,
        warmup,
        decay=True,
        epochs_before=0,
        batch_size,
        max_epochs,
        deadline,
        autocast,
        channels_last,
        chance_level=None,
        callbacks,
        verbose,
        device,
        checkpoint=None,
    ):
        super().__init__(
            module,
            _Loss(loss),
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_split=None,
            callbacks=callbacks,
            verbose=verbose,
            device=device,
        )
        self.loss = loss
        self.augmentation = augmentation
        self.generator = generator
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.decay = decay
        self.epochs_before = epochs_before
        self.deadline = deadline
        self.autocast = autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.chance_level = chance_level
        self.checkpoint = checkpoint

    @property
    def _default_callbacks(self):
        return []

    def _validate_params(self):
        """Leave validation to the estimator, which knows what its user wrote."""

    def initialize_optimizer(self, triggered_directly=None):
        """Build the optimizer from its name."""
        self.optimizer_ = make_optimizer(
            self.optimizer, [self.module_], lr=self.lr, weight_decay=self.weight_decay, dtype=self.autocast
        )
        return self

    def train(self, source, optimizer_state=None):
        """Train on images.

        Parameters
        ----------
        source : ImageSource
            Of at least two images.
        optimizer_state : dict, default=None
            State of an optimizer of the same kind, to continue from.

        Returns
        -------
        TrainingLoop
            Itself; what happened is in ``history``, a row an epoch.
        """
        self.initialize()
        if optimizer_state is not None:
            self.optimizer_.load_state_dict(optimizer_state)
        self.module_.to(memory_format=self.memory_format)
        self.notify("on_train_begin", X=source, y=None)
        self.fit_loop(source)
        self.notify("on_train_end", X=source, y=None)
        self.module_.to(memory_format=torch.contiguous_format)
        return self

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Run the epochs; a callback may end them early."""
        self.feed_ = make_feed(X, torch.device(self.device))
        per_step = any(_overrides_step(callback) for _, callback in self.callbacks_)
        self.clock_ = Clock(self, len(X))
        position = self._resume()
        with self.clock_ as clock:
            while not (clock.over() or self._enough()):
                self.notify("on_epoch_begin", dataset_train=X, dataset_valid=None)
                self._run_epoch(len(X), clock, per_step, position)
                position = None
                try:
                    self.notify("on_epoch_end", dataset_train=X, dataset_valid=None)
                except KeyboardInterrupt as interrupt:
                    if not _raised_by_callback(interrupt, self.callbacks_):
                        raise
                    break
                except KeyError as error:
                    known = sorted(name for name in self.history[-1] if name != "batches")
                    raise ValueError(
                        f"One of callbacks looked for something that training does not record: {error}. "
                        f"Monitor one of {known}, for instance EarlyStopping(monitor='train_loss')."
                    ) from error
                if self.checkpoint is not None:
                    self.checkpoint.save(self._state(), last=clock.over() or self._enough())
        if self.verbose:
            self._print_prediction()
        return self

    def _print_prediction(self):
        """Print what the loss curve says about a longer training, where it is long enough to say anything."""
        import pandas as pd

        curve = pd.DataFrame(
            {"loss": self.history[:, "train_loss"], "learning_rate": self.history[:, "lr"]}, dtype=float
        )
        with contextlib.suppress(ValueError):
            print(f"{self._title}: {predict_loss(curve)}")

    def _enough(self):
        """Return whether training on is of no use; asked between epochs."""
        return False

    def _run_epoch(self, n_images, clock, per_step, position=None):
        self.module_.train()
        size = min(self.batch_size, n_images)
        if position is None:
            order = torch.randperm(n_images, generator=self.generator, device=self.generator.device)
            order = order[: n_images // size * size].view(-1, size)
            total, done = torch.zeros((), device=self.device), 0
        else:
            order, total, done = position["order"], position["total"], position["done"]
        started, first = time.perf_counter(), done
        for index, images in self.feed_.batches(order[done:]):
            self._set_learning_rate(clock.fraction())
            if per_step:
                self.notify("on_batch_begin", batch=(index, None), training=True)
            loss, *outputs = self._step(index, images, per_step)
            total += loss
            done += 1
            if per_step:
                self.history.record_batch("train_loss", loss.item())
                self.history.record_batch("train_batch_size", size)
                y_pred = outputs[-1] if outputs else None
                self.notify("on_batch_end", batch=(index, None), training=True, loss=loss, y_pred=y_pred)
            clock.tick(loss)
            if clock.over():
                break
            if self.checkpoint is not None and done < len(order) and self.checkpoint.due():
                self.checkpoint.save(self._state({"order": order, "total": total, "done": done}))
        self._record(total / done, outputs, (done - first) * size, time.perf_counter() - started)

    def _step(self, index, images, per_step=False):
        """Take one step of the optimizer; return the loss and what else `_record_outputs` needs."""
        raise NotImplementedError

    def _update(self, loss, index, per_step):
        """Send a loss back, and move the weights."""
        if not (isinstance(loss, torch.Tensor) and loss.ndim == 0 and loss.requires_grad):
            raise ValueError(f"loss must return a scalar tensor computed from z, got {loss!r}.")
        loss.backward()
        self._move(index, per_step)

    def _move(self, index, per_step):
        if per_step:
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.module_.named_parameters()),
                X=index,
                y=None,
                training=True,
            )
        self.optimizer_.step()

    def _precision(self):
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.autocast)

    def _set_learning_rate(self, fraction):
        if self.decay:
            rate = warmup_cosine(fraction, self.warmup)
        else:
            rate = min(1.0, (self.epochs_before + fraction) / self.warmup) if self.warmup > 0 else 1.0
        for group in self.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * rate

    def _record(self, loss, outputs, images, seconds):
        """Write the row of an epoch; the only place where the host waits for the device."""
        loss = loss.item()
        if not math.isfinite(loss):
            decay = f", a smaller weight_decay than {self.weight_decay:g}" if self.weight_decay else ""
            raise ValueError(
                f"The training diverged: the loss of epoch {len(self.history)} is {loss}. "
                f"Pass a smaller learning_rate than {self.lr:g}{decay}, or a longer warmup."
            )
        best = min([row["train_loss"] for row in self.history[:-1]], default=math.inf)
        if not self.history[-1]["batches"]:  # Checkpoint looks for a last batch
            self.history.new_batch()
            self.history.record_batch("train_loss", loss)
        record = self.history.record
        record("train_loss", loss)
        record("train_loss_best", loss < best)
        record("images_per_second", images / seconds)
        record("lr", self.optimizer_.param_groups[0]["lr"])
        record("dur", seconds)
        self._record_outputs(*outputs)

    def _record_outputs(self, *outputs):
        """Record what the outputs of the last step tell about the epoch."""

    def _state(self, position=None):
        """Return all that the rest of the training depends on."""
        return {
            "module": self.module_.state_dict(),
            "optimizer": self.optimizer_.state_dict(),
            "generator": self.generator.get_state(),
            "random": _global_states(torch.device(self.device)),
            "position": position,
            "steps": self.clock_.steps,
            "elapsed": self.clock_.elapsed(),
            "history": [
                {k: v for k, v in row.items() if k != "batches"} for row in self.history if "dur" in row
            ],
        }

    def _resume(self):
        """Take the state that a checkpoint holds; return the position within its epoch, if any."""
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return None
        self._take_state(state)
        position = state["position"]
        if position is None:
            return None
        device = torch.device(self.device)
        return {
            "order": position["order"].to(device),
            "total": position["total"].to(device),
            "done": position["done"],
        }

    def _take_state(self, state):
        """Go on from what `_state` returned."""
        self.module_.load_state_dict(state["module"])
        self.optimizer_.load_state_dict(state["optimizer"])
        self._match_formats()
        self.generator.set_state(state["generator"].cpu())
        _set_global_states(state["random"], torch.device(self.device))
        self.clock_.resume(state["steps"], state["elapsed"])
        for row in state["history"]:
            self.history.new_epoch()
            self.history.new_batch()
            self.history.record_batch("train_loss", row["train_loss"])
            for name, value in row.items():
                self.history.record(name, value)

    def _match_formats(self):
        """Lay the optimizer's buffers out as its parameters: sums depend on the order in memory."""
        for parameter, buffers in self.optimizer_.state.items():
            for name, buffer in buffers.items():
                if isinstance(buffer, torch.Tensor) and buffer.shape == parameter.shape:
                    with torch.no_grad():
                        buffers[name] = torch.empty_like(parameter, dtype=buffer.dtype).copy_(buffer)


def _global_states(device):
    """Return the states of the global generators that dropout and the like draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_global_states(states, device):
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def _overrides_step(callback):
    return any(getattr(type(callback), name, None) is not getattr(Callback, name) for name in _PER_STEP)


def _raised_by_callback(interrupt, callbacks):
    """Tell the KeyboardInterrupt by which skorch's callbacks end a training from the user's Ctrl-C.

    The user's can arrive while a callback runs, but not by a ``raise`` statement of its own.
    """
    trace = interrupt.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code, offset = trace.tb_frame.f_code, trace.tb_lasti
    raises = dis.opname[code.co_code[offset]] == "RAISE_VARARGS"
    owner = trace.tb_frame.f_locals.get("self")
    return raises and any(owner is callback for _, callback in callbacks)
