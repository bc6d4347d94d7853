"""Large batches: 4,096 images per step in chunks of 256, compared with 256 images per step.

Each training runs in a process of its own; memory is the peak above what the process holds before fit.
"""

import time

from harness import cost_row, main
from networks import resnet20
from photographs import crops
from timing import PeakMemory, in_fresh_process, synchronize

SIZE = 32


def train(n, batch_size, micro_batch_size, device, encoder="compact"):
    """Train for an epoch; return {"seconds": an image, "bytes": the peak}."""
    from skorch.callbacks import Callback

    from sklearn_simclr import SimCLRTransformer

    class Stopwatch(Callback):
        def on_epoch_begin(self, net, **kwargs):
            synchronize(device)
            self.started = time.perf_counter()

        def on_epoch_end(self, net, **kwargs):
            synchronize(device)
            self.seconds = time.perf_counter() - self.started

    stopwatch = Stopwatch()
    images = crops(n, SIZE)
    simclr = SimCLRTransformer(
        resnet20(blocks=1) if encoder == "tiny" else encoder,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        max_epochs=1,
        optimizer="sgd",
        precision="float32",
        device=device,
        callbacks=[stopwatch],
        random_state=0,
    )
    with PeakMemory(device) as memory:
        simclr.fit(images)
    return {"seconds": stopwatch.seconds / n, "bytes": memory.bytes}


def run(settings):
    """Return the rows of this comparison."""
    n, small = (32, 8) if settings.quick else (4096, 256)
    encoder = "tiny" if settings.quick else "compact"
    setups = {"large": (n, small), "small": (small, None)}
    measured = {name: [] for name in setups}
    for _ in range(settings.rounds(3)):
        for name, (batch_size, micro_batch_size) in setups.items():
            measured[name].append(
                in_fresh_process(
                    "large_batch",
                    "train",
                    n=n,
                    batch_size=batch_size,
                    micro_batch_size=micro_batch_size,
                    device=settings.device,
                    encoder=encoder,
                )
            )
    case = f"{encoder}, {SIZE} px, batch {n:,} in chunks of {small}"
    peer = f"batch {small}"
    microseconds = [[1e6 * m["seconds"] for m in measured[name]] for name in setups]
    # A page is the least that can be told from nothing.
    mebibytes = [[max(m["bytes"], 4096) / 2**20 for m in measured[name]] for name in setups]
    return [
        cost_row("large batch, memory", case, peer, "MiB", *mebibytes, "<= 1.3"),
        cost_row("large batch, time an image", case, peer, "us", *microseconds, "<= 1.4"),
    ]


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
