"""NT-Xent, forward and backward: time and peak memory, ours and that of others.

Memory is the peak above what the process holds with its input, each in a process of its own.
"""

import torch
from harness import Row, cost_row, main, missing_row
from timing import PeakMemory, Spread, in_fresh_process, interleaved, optional
from torch.nn.functional import cross_entropy, normalize

from sklearn_simclr.losses import nt_xent

TEMPERATURE = 0.5
WIDTH = 128
GIB = 2**30


def dense(first, second):
    """NT-Xent as it is usually written: the whole matrix, a cross-entropy."""
    n = len(first)
    z = normalize(torch.cat([first, second]))
    logits = z @ z.T / TEMPERATURE
    logits.fill_diagonal_(-torch.inf)
    return cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def losses():
    """Return {name: function of two batches of projections}; only of what is installed."""
    found = {
        "ours": lambda first, second: nt_xent(torch.cat([first, second]), TEMPERATURE),
        "dense torch": dense,
    }
    if optional("lightly"):
        from lightly.loss import NTXentLoss

        found["lightly"] = NTXentLoss(temperature=TEMPERATURE)
    if optional("pytorch_metric_learning"):
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        found["pytorch-metric-learning"] = SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))
    return found


def projections(n, device):
    """Return the projections of two views of n images: correlated, as those of an encoder in training."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(n, WIDTH, generator=generator)
    second = first + torch.randn(n, WIDTH, generator=generator)
    return first.to(device).requires_grad_(), second.to(device).requires_grad_()


def step(loss, n, device):
    """Return a function that computes a loss and its gradient."""
    first, second = projections(n, device)

    def work():
        first.grad = second.grad = None
        loss(first, second).backward()
        return 1

    return work


def peak_memory(name, n, device):
    """Return the bytes that a loss needs at its peak above its input."""
    step(losses()[name], 64, device)()  # what torch sets up once is not the loss's
    work = step(losses()[name], n, device)
    with PeakMemory(device) as memory:
        work()
    return memory.bytes


def compare(n, peers, settings, rounds):
    """Return the rows of time and memory at n pairs; peers are {name: (target of time, of memory)}."""
    case = f"{n:,} pairs, d {WIDTH}"
    found = losses()
    names = ["ours", *(peer for peer in peers if peer in found)]
    for name in names:
        step(found[name], 64, settings.device)()  # warms up in a moment instead of half a minute
    work = {name: step(found[name], n, settings.device) for name in names}
    seconds = interleaved(work, rounds, settings.device, warm_up=False)
    held = {
        name: in_fresh_process("loss", "peak_memory", name=name, n=n, device=settings.device) / GIB
        for name in names
    }
    # A page is the least that can be told from nothing.
    held = {name: max(gib, 4096 / GIB) for name, gib in held.items()}
    rows = []
    for peer, (time_target, memory_target) in peers.items():
        if peer not in found:
            rows.append(missing_row("NT-Xent, time", case, peer, time_target))
            rows.append(missing_row("NT-Xent, memory", case, peer, memory_target))
            continue
        rows.append(cost_row("NT-Xent, time", case, peer, "s", seconds["ours"], seconds[peer], time_target))
        memory = ([held["ours"]], [held[peer]])
        rows.append(cost_row("NT-Xent, memory", case, peer, "GiB", *memory, memory_target))
    return rows


def run(settings):
    """Return the rows of this comparison."""
    large, small, huge = (64, 16, 256) if settings.quick else (8192, 256, 65536)
    rows = compare(
        large, {"lightly": ("<= 0.25", "<= 0.05"), "dense torch": ("", "")}, settings, settings.rounds(3)
    )
    # The matrices of pairs of pairs that it makes do not fit in memory at a few thousand.
    rows += compare(small, {"pytorch-metric-learning": ("", "")}, settings, settings.rounds(3))
    if settings.full or settings.quick:
        rows += alone(huge, settings)
    return rows


def alone(n, settings):
    """Return the rows of ours at a batch at which nobody else's fits."""
    case = f"{n:,} pairs, d {WIDTH}"
    seconds = interleaved({"ours": step(losses()["ours"], n, settings.device)}, 1, settings.device, False)
    gib = in_fresh_process("loss", "peak_memory", name="ours", n=n, device=settings.device) / GIB
    return [
        Row("NT-Xent, time", case, "", "s", ours=Spread.of(seconds["ours"]).median),
        Row("NT-Xent, memory", case, "1 GB", "GiB", gib, 1e9 / GIB, gib / (1e9 / GIB),
            target="<= 1"),
    ]  # fmt: skip


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
