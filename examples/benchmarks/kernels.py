"""Kernels: what one training step of SimCLR asks an accelerator for, counted without one.

A GPU needs some microseconds to start a kernel, whatever is in it: with small images that is what a step
takes. The step runs on torch's device "meta", which computes nothing and goes the way of a GPU through the
package. Each operation that a device would run counts as one kernel; views of tensors and new memory count
nothing; operations on lists of tensors count as many kernels as CUDA starts for them. Copies to the device,
and moments in which the host would wait for the device, have columns of their own.

    python examples/benchmarks/kernels.py                          # print the table
    python examples/benchmarks/kernels.py --out docs/benchmarks    # and write kernels.csv

Rows that were counted with other code stay in the file; ``--code`` names the code that runs.
"""

import argparse
import collections
import contextlib
import csv
import math
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sklearn_simclr import Augmentation
from sklearn_simclr.encoders.heads import ProjectionHead
from sklearn_simclr.encoders.make import make_encoder
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training import Batch, Plan
from sklearn_simclr.training.contrastive import ContrastiveObjective
from sklearn_simclr.training.optimizers import make_optimizer

CASES = [
    (network, side, optimizer)
    for network, side in [("compact", 32), ("compact", 96), ("resnet18", 32), ("resnet50", 32)]
    for optimizer in ("muon", "lars")
]
PHASES = ("views", "forward", "loss", "backward", "optimizer")
COLUMNS = ("code", "network", "image", "optimizer", "copies", "waits", *PHASES, "step")

# How many tensors CUDA's kernels for lists take at a time, by the number of lists (MultiTensorApply.cuh), and
# how many blocks of how many numbers.
_TENSORS_A_KERNEL = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_A_KERNEL = 320
_NUMBERS_A_BLOCK = 65536

# What only takes memory, or only says something about a tensor.
_NO_KERNEL = ("empty", "new_empty", "lift", "is_same_size", "resize", "set_")


class Counter(TorchDispatchMode):
    """Counts what tensors on the device "meta" are asked for, by the phase of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "other"
        self.kernels = collections.Counter()
        self.names = collections.defaultdict(collections.Counter)
        self.copies = self.waits = 0

    @contextlib.contextmanager
    def during(self, phase):
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = any(x.is_meta for x in given)
        name = func._schema.name.removeprefix("aten::")
        if name == "_local_scalar_dense" and on_device:
            self.waits += 1
            return 1.0
        if name == "_to_copy" and on_device and torch.device(kwargs.get("device") or "meta").type != "meta":
            self.waits += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        found = func(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        if not on_device and not any(x.is_meta for x in made):
            return found  # the CPU's
        if name in ("_to_copy", "copy_") and not given[-1].is_meta:
            self.copies += 1
        elif not _is_view(func) and not name.startswith(_NO_KERNEL):
            n = _kernels_of_lists(args, name) if name.startswith(("_foreach", "_fused")) else 1
            self.kernels[self.phase] += n
            self.names[self.phase][name] += n
        return found


def _is_view(func):
    returned = [r.alias_info for r in func._schema.returns]
    return any(info is not None and not info.is_write for info in returned) or func._schema.name in (
        "aten::_unsafe_view",
        "aten::_reshape_alias",
    )


def _kernels_of_lists(args, name):
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], torch.Tensor)]
    first = lists[0]
    if not all(
        x.shape == y.shape and x.stride() == y.stride() for a in lists for x, y in zip(first, a, strict=False)
    ):
        return len(first)
    blocks = sum(math.ceil(max(1, x.numel()) / _NUMBERS_A_BLOCK) for x in first)
    most = _TENSORS_A_KERNEL[min(5, len(lists))]
    # A norm is zeroed before and summed up after the kernel.
    further = 2 if "norm" in name else 0
    return further + max(math.ceil(len(first) / most), math.ceil(blocks / _BLOCKS_A_KERNEL))


class CountedViews:
    """An augmentation, with its part of the count."""

    def __init__(self, augmentation, counter) -> None:
        self.augmentation, self.counter, self.size = augmentation, counter, augmentation.size

    def draw(self, *args, **keywords):
        with self.counter.during("views"):
            return self.augmentation.draw(*args, **keywords)

    def apply(self, *args):
        with self.counter.during("views"):
            return self.augmentation.apply(*args)


def count(network, side, optimizer, n=8):
    """Return the counter of the second step, in which all memory of the optimizer is there."""
    device = torch.device("meta")
    encoder, dim = make_encoder(network, 3, (side, side))
    dim = getattr(encoder, "read_dim", dim)
    views = Augmentation().resolve((3, side, side), largest=48 if network == "compact" else None)
    plan = Plan(1, n, optimizer, 0.01, lambda fraction: 1.0, seed=0)
    objective = ContrastiveObjective(
        encoder, ProjectionHead(dim, 128, 2), views, lambda z: nt_xent(z, 0.2), initialize=False
    )
    objective.channels_last = True  # as estimators have it
    modules = objective.modules.to(device).to(memory_format=objective.memory_format).train()
    stepper = make_optimizer(optimizer, [modules], lr=0.01, weight_decay=0.0)
    images = torch.empty(n, 3, side, side, dtype=torch.uint8, device=device)
    batch = Batch(torch.arange(n, device=device), images, torch.Generator(), plan, objective.memory_format)
    loss = objective.loss
    for _ in range(2):
        counter = Counter()

        def counted_loss(z, counter=counter):
            with counter.during("loss"):
                return loss(z)

        objective.kinds, objective.loss = [(CountedViews(views, counter), 2)], counted_loss
        # The device "meta" has no autocast, which is off here.
        with counter, mock.patch("torch.autocast", lambda *args, **keywords: contextlib.nullcontext()):
            stepper.zero_grad(set_to_none=True)
            with counter.during("forward"):
                step = objective.step(batch)
            with counter.during("backward"):
                step.loss.backward()
            with counter.during("optimizer"):
                stepper.step()
                objective.after_step()
    return counter


def row(code, case, counter):
    """Return the line of the table for a step."""
    network, side, optimizer = case
    values = [counter.kernels[phase] for phase in PHASES]
    return [code, network, f"{side} px", optimizer, counter.copies, counter.waits, *values, sum(values)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of kernels.csv")
    parser.add_argument("--code", default="now", help="name of the code that runs, in the first column")
    parser.add_argument("--names", action="store_true", help="also print which operations they are")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        counter = count(*case)
        rows.append(row(options.code, case, counter))
        print(*rows[-1], sep="\t", flush=True)
        if options.names:
            for phase in PHASES:
                print(f"    {phase}: {dict(counter.names[phase].most_common())}")
    if options.out is not None:
        path = options.out / "kernels.csv"
        before = []
        if path.exists():
            with open(path, newline="") as file:
                before = [line for line in csv.reader(file) if line[0] not in ("code", options.code)]
        with open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *before, *rows])
        print(f"written: {path}")


if __name__ == "__main__":
    main()
