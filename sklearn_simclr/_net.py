"""The training loop: a skorch net whose images stay on the device and whose batches are index draws."""

import contextlib
import dis
import math
import time

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn

from ._gradcache import cached_backward
from .diagnostics import _contrastive_accuracy_tensor, rankme
from .optimizers import make_optimizer, warmup_cosine

__all__ = ["ContrastiveModule", "ContrastiveNet"]

# Rows that the effective rank is estimated from, once an epoch.
_RANK_ROWS = 256

# Seconds between two updates of the progress bar; reading the loss waits for the device.
_REFRESH = 0.5

_PER_STEP = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class ContrastiveModule(nn.Module):
    """Encoder and projection head as one module.

    Parameters
    ----------
    encoder : nn.Module
        Images (N, C, H, W) to representations h (N, d).
    projector : nn.Module
        Representations to projections z (N, projection_dim).
    """

    def __init__(self, encoder, projector):
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, x):
        """Return the projections of images."""
        return self.projector(self.encoder(x))


class _Loss(nn.Module):
    """The loss as skorch wants it: a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


class ContrastiveNet(NeuralNet):
    """A skorch net that is trained on pairs of views; skorch's callbacks work with it.

    Parameters
    ----------
    module : ContrastiveModule
        Trained in place.
    loss : callable
        Projections (2N, d), rows i and i + N a pair, to a 0-d tensor.
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
    micro_batch_size : int or None
        Images a forward; None is all of the step's.
    max_epochs : int
        Passes over the images.
    deadline : (float, float) or None
        Start and end of the training on ``time.perf_counter``'s clock; replaces max_epochs.
    autocast : torch.dtype or None
        Precision of the forward.
    channels_last : bool
        Whether the encoder takes images in that memory format, in which convolutions are faster.
    chance_level : float
        Loss of a module that cannot tell images apart, for the progress bar and the history.
    callbacks : list or None
        skorch's.
    verbose : int
        Whether to draw a progress bar.
    device : torch.device
        Where to train.
    """

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
        decay,
        epochs_before,
        batch_size,
        micro_batch_size,
        max_epochs,
        deadline,
        autocast,
        channels_last,
        chance_level,
        callbacks,
        verbose,
        device,
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
        self.micro_batch_size = micro_batch_size
        self.deadline = deadline
        self.autocast = autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.chance_level = chance_level

    @property
    def _default_callbacks(self):
        return []

    def _validate_params(self):
        """Leave validation to the estimator, which knows what its user wrote."""

    def initialize_optimizer(self, triggered_directly=None):
        """Build the optimizer from its name."""
        self.optimizer_ = make_optimizer(
            self.optimizer, [self.module_], lr=self.lr, weight_decay=self.weight_decay
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
        ContrastiveNet
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
        source = X.to(torch.device(self.device))
        per_step = any(_overrides_step(callback) for _, callback in self.callbacks_)
        clock = _Clock(self, len(source))
        with clock:
            while not clock.over():
                self.notify("on_epoch_begin", dataset_train=source, dataset_valid=None)
                self._run_epoch(source, clock, per_step)
                try:
                    self.notify("on_epoch_end", dataset_train=source, dataset_valid=None)
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
        return self

    def _run_epoch(self, source, clock, per_step):
        self.module_.train()
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(source), generator=self.generator, device=self.generator.device)
        size = min(self.batch_size, len(source))
        started, steps = time.perf_counter(), 0
        for index in order[: len(order) // size * size].view(-1, size):
            self._set_learning_rate(clock.fraction())
            if per_step:
                self.notify("on_batch_begin", batch=(index, None), training=True)
            loss, h, z = self._step(source, index, per_step)
            total += loss
            steps += 1
            if per_step:
                self.history.record_batch("train_loss", loss.item())
                self.history.record_batch("train_batch_size", size)
                self.notify("on_batch_end", batch=(index, None), training=True, loss=loss, y_pred=z)
            clock.tick(loss)
            if clock.over():
                break
        self._record(total / steps, h, z, steps * size, time.perf_counter() - started)

    def _step(self, source, index, per_step=False):
        """Take one step of the optimizer; return the loss, and the h and z of (some of) the views."""
        self.optimizer_.zero_grad(set_to_none=True)
        micro = self.micro_batch_size
        shape = source.shape
        draws = self.augmentation.draw(2 * len(index), shape, generator=self.generator, device=self.device)
        kept = {}

        def forward(views):
            with self._precision():
                h = self.module_.encoder(views.contiguous(memory_format=self.memory_format))
                kept["h"] = h.detach()
                return self.module_.projector(h)

        if micro is None or micro >= len(index):
            images = source.take(index)
            z = forward(self.augmentation.apply(torch.cat([images, images]), draws))
            loss = self.loss(z)
            if not (isinstance(loss, torch.Tensor) and loss.ndim == 0 and loss.requires_grad):
                raise ValueError(f"loss must return a scalar tensor computed from z, got {loss!r}.")
            loss.backward()
        else:

            def chunk(start):
                part = torch.arange(start, min(start + micro, len(index)), device=index.device)
                images = source.take(index[part])
                rows = draws.rows(torch.cat([part, part + len(index)]))
                return self.augmentation.apply(torch.cat([images, images]), rows)

            chunks = [lambda start=start: chunk(start) for start in range(0, len(index), micro)]
            loss, z = cached_backward(forward, chunks, self.loss, module=self.module_)
        if per_step:
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.module_.named_parameters()),
                X=index,
                y=None,
                training=True,
            )
        self.optimizer_.step()
        return loss.detach(), kept["h"], z.detach()

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

    def _record(self, loss, h, z, images, seconds):
        """Write the row of an epoch; the only place where the host waits for the device."""
        loss = loss.item()
        if not math.isfinite(loss):
            raise ValueError(
                f"The training diverged: the loss of epoch {len(self.history)} is {loss}. "
                f"Pass a smaller learning_rate than {self.lr:g}, or a longer warmup."
            )
        pairs = min(len(z) // 2, _RANK_ROWS)
        first = z[: len(z) // 2][:pairs]
        second = z[len(z) // 2 :][:pairs]
        best = min([row["train_loss"] for row in self.history[:-1]], default=math.inf)
        if not self.history[-1]["batches"]:  # Checkpoint looks for a last batch
            self.history.new_batch()
            self.history.record_batch("train_loss", loss)
        record = self.history.record
        record("train_loss", loss)
        record("train_loss_best", loss < best)
        record("chance_level", self.chance_level)
        record("contrastive_accuracy", _contrastive_accuracy_tensor(torch.cat([first, second])).item())
        record("images_per_second", images / seconds)
        record("effective_rank", float(rankme(h[:_RANK_ROWS].float())))
        record("lr", self.optimizer_.param_groups[0]["lr"])
        record("dur", seconds)


class _Clock:
    """How far the training is, by steps or by the time; draws the progress bar."""

    def __init__(self, net, n_images):
        size = min(net.batch_size, n_images)
        self.steps_an_epoch = n_images // size
        self.n_steps = net.max_epochs * self.steps_an_epoch
        self.deadline = net.deadline
        self.size = size
        self.chance_level = net.chance_level
        self.steps = 0
        self.step_time = 0.0
        self.verbose = net.verbose
        self.cuda = torch.device(net.device).type == "cuda"
        self.events = []

    def __enter__(self):
        self.last = self.shown = time.perf_counter()
        self.bar = None
        if self.verbose:
            from tqdm.auto import tqdm

            if self.deadline is None:
                total, unit = self.n_steps * self.size, "image"
                layout = None
            else:
                total, unit = round(self.deadline[1] - self.deadline[0], 1), "s"
                layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"
            self.bar = tqdm(total=total, unit=unit, desc="SimCLR", bar_format=layout, mininterval=0.0)
        return self

    def __exit__(self, *exception):
        if self.bar is not None:
            self.bar.close()

    def fraction(self):
        """Return the part of the training that is done, in [0, 1]."""
        if self.deadline is None:
            return (self.steps + 0.5) / self.n_steps  # the middle of a step: a lone one is not at rate 0
        start, end = self.deadline
        return min(1.0, (time.perf_counter() - start) / (end - start))

    def over(self):
        """Return whether there is no time for another step."""
        if self.deadline is None:
            return self.steps >= self.n_steps
        return self.steps > 0 and time.perf_counter() + self.step_time / 2 > self.deadline[1]

    def tick(self, loss):
        """Count a step."""
        self.steps += 1
        if self.deadline is not None and self.cuda:
            # The host runs ahead of the device; two steps ahead is enough to keep it busy.
            self.events.append(torch.cuda.Event())
            self.events[-1].record()
            if len(self.events) > 2:
                self.events.pop(0).synchronize()
        now = time.perf_counter()
        # A running mean: a single slow step must not end the training early.
        step = now - self.last
        self.step_time = step if self.steps == 1 else 0.8 * self.step_time + 0.2 * step
        self.last = now
        if self.bar is not None and (now - self.shown > _REFRESH or self.over()):
            self.shown = now
            done = self.steps * self.size if self.deadline is None else round(now - self.deadline[0], 1)
            rate = self.size / self.step_time if self.step_time > 0 else 0.0
            self.bar.set_postfix_str(
                f"{rate:.0f} images/s, loss {loss.item():.3f} (chance {self.chance_level:.3f})", refresh=False
            )
            self.bar.update(min(done, self.bar.total) - self.bar.n)
            self.bar.refresh()


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
