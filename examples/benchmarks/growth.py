"""Growth: speed of fit by number of images, batch size and image size; cost of the loss by its batch."""

import time

from harness import main, point
from loss import losses, step
from photographs import crops
from skorch.callbacks import Callback
from timing import in_fresh_process, interleaved, synchronize

from sklearn_simclr import SimCLRTransformer

SPEED = "speed of fit (images/s)"


class Stopwatch(Callback):
    """Takes the time of every epoch."""

    def __init__(self, device):
        self.device = device

    def on_train_begin(self, net, **kwargs):
        self.seconds = []

    def on_epoch_begin(self, net, **kwargs):
        synchronize(self.device)
        self.started = time.perf_counter()

    def on_epoch_end(self, net, **kwargs):
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.started)


def speeds(images, epochs, device, **parameters):
    """Return the images/s of every epoch of a training but the first."""
    stopwatch = Stopwatch(device)
    simclr = SimCLRTransformer(
        max_epochs=epochs + 1, optimizer="sgd", precision="float32",
        device=device, callbacks=[stopwatch], random_state=0, **parameters,
    )  # fmt: skip
    simclr.fit(images)
    batch_size = min(simclr.batch_size, len(images))
    return [len(images) // batch_size * batch_size / s for s in stopwatch.seconds[1:]]


def run(settings):
    """Return the points of the curves."""
    device, rounds = settings.device, settings.rounds(3)
    quick = settings.quick
    points = []
    encoder = "auto: compact network"
    for n in (16,) if quick else (512, 1024, 2048):
        found = speeds(crops(n, 32), 2, device, batch_size=min(256, n))
        points.append(point("n", "images", SPEED, encoder, n, found))
    for batch_size in (8,) if quick else (32, 64, 128, 256, 512):
        found = speeds(crops(16 if quick else 512, 32), 2, device, batch_size=batch_size)
        points.append(point("batch size", "images per step", SPEED, encoder, batch_size, found))
    for size, n in ((24, 8),) if quick else [(size, 256) for size in (16, 32, 48, 64, 96, 224)]:
        found = speeds(crops(n, size), 2, device, batch_size=min(128, n))
        points.append(point("image size", "side (pixels)", SPEED, encoder, size, found))
    for n in (16,) if quick else (256, 1024, 4096):
        names = [name for name in ("ours", "lightly", "dense torch") if name in losses()]
        seconds = interleaved({name: step(losses()[name], n, device) for name in names}, rounds, device)
        for name in names:
            points.append(point("loss time", "pairs", "forward and backward (s)", name, n, seconds[name]))
            held = in_fresh_process("loss", "peak_memory", name=name, n=n, device=device)
            points.append(point("loss memory", "pairs", "peak (MiB)", name, n, [max(held, 4096) / 2**20]))
    return points


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
