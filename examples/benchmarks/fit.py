"""Training steps: SimCLRTransformer.fit, the bare step of the same network, lightly's training loop.

All take turns with the same encoder, projection head, batch size and SGD in float32. The bare step works
on one pair of views that lies ready, in the memory format that is faster: what remains of a training when
nothing is fed, augmented, scheduled or recorded. lightly's loop is that of its documentation, with two
workers. Where ``precision="auto"`` means bfloat16, the training runs once more with it, compared with the
bare step in bfloat16 and with lightly's loop as before.
"""

import copy
import time

import recipes
import torch
from harness import main, missing_row, speed_row
from networks import resnet20, untrained
from photographs import PillowImages, crops
from skorch.callbacks import Callback
from timing import interleaved, optional, synchronize
from torch import nn
from views import loader

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._utils.devices import resolve_precision
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training import make_optimizer

SIZE = 32
TEMPERATURE = 0.5
LEARNING_RATE = 0.06
WEIGHT_DECAY = 1e-4

# Seconds for the workers of another's loader to end, before the clock starts again.
_REST = 1.0


class TakeTurns(Callback):
    """Times the epochs of a fit, and has the other competitors work between two of them.

    The first epoch warms up, as do the first turns of the others.
    """

    def __init__(self, others, device):
        self.others = others
        self.device = device

    def on_train_begin(self, net, **kwargs):
        self.seconds = {name: [] for name in ("ours", *self.others)}

    def on_epoch_begin(self, net, **kwargs):
        synchronize(self.device)
        self.started = time.perf_counter()

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        synchronize(self.device)
        self.seconds["ours"].append((time.perf_counter() - self.started) / len(dataset_train))
        for name, work in self.others.items():
            turn = interleaved({name: work}, 1, self.device, warm_up=False)
            self.seconds[name] += turn[name]
        time.sleep(_REST)

    def measured(self):
        """Return {name: seconds an image, a value a round}, without the first."""
        return {name: values[1:] for name, values in self.seconds.items()}


def bare_step(simclr, images, batch_size, steps, device, autocast=None):
    """Return a function that steps on one batch of views."""
    kind = torch.device(device).type
    views = torch.from_numpy(images[:batch_size]).permute(0, 3, 1, 2).to(device)
    augmentation = recipes.ours(SIZE)
    views = torch.cat([augmentation(views), augmentation(views)])

    def make(memory_format):
        network = nn.Sequential(copy.deepcopy(simclr.encoder_), copy.deepcopy(simclr.projector_))
        network.to(device, memory_format=memory_format).train()
        batch = views.contiguous(memory_format=memory_format)
        optimizer = make_optimizer("sgd", [network], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def work(n=steps):
            for _ in range(n):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(kind, dtype=autocast, enabled=autocast is not None):
                    z = network(batch)
                nt_xent(z, TEMPERATURE).backward()
                optimizer.step()
            return n * batch_size

        return work

    formats = [make(layout) for layout in (torch.contiguous_format, torch.channels_last)]
    trial = interleaved({k: lambda work=work: work(1) for k, work in enumerate(formats)}, 1, device)
    return formats[min(trial, key=lambda k: min(trial[k]))]


def lightly_loop(simclr, images, batch_size, device):
    """Return a function that trains for an epoch, as lightly's example of SimCLR does."""
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss

    network = nn.Sequential(copy.deepcopy(simclr.encoder_), copy.deepcopy(simclr.projector_)).to(device)
    network.train()
    dataset = LightlyDataset.from_torch_dataset(PillowImages(images), transform=recipes.lightly(SIZE))
    batches = loader(dataset, batch_size)
    criterion = NTXentLoss(temperature=TEMPERATURE)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY
    )

    def work():
        total = 0.0
        for (first, second), *_ in batches:
            first, second = first.to(device), second.to(device)
            loss = criterion(network(first), network(second))
            total += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        float(total)
        return len(images)

    return work


def compare(name, encoder, batch_size, steps, rounds, device, precision="float32"):
    """Return the rows of one encoder: images per second, compared with the bare step and with lightly."""
    images = crops(batch_size * steps, SIZE)
    simclr = untrained(encoder, images)
    autocast = resolve_precision(precision, torch.device(device))
    others = {"bare step": bare_step(simclr, images, batch_size, steps, device, autocast)}
    if optional("lightly"):
        others["lightly"] = lightly_loop(simclr, images, batch_size, device)
    turns = TakeTurns(others, device)
    SimCLRTransformer(
        encoder,
        augmentation=recipes.ours(SIZE),
        temperature=TEMPERATURE,
        batch_size=batch_size,
        max_epochs=rounds + 1,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        precision=precision,
        device=device,
        callbacks=[turns],
        random_state=0,
    ).fit(images)
    seconds = turns.measured()
    case = f"{name}, {SIZE} px, batch {batch_size}" + (", bfloat16" if autocast else "")
    rows = [speed_row("fit", case, "bare step", seconds["ours"], seconds["bare step"], ">= 0.95")]
    if "lightly" in seconds:
        peer = "lightly in float32" if autocast else "lightly"
        rows.append(speed_row("fit", case, peer, seconds["ours"], seconds["lightly"], ">= 1.2"))
    else:
        rows.append(missing_row("fit", case, "lightly", ">= 1.2"))
    return rows


def run(settings):
    """Return the rows of this comparison."""
    rounds = settings.rounds(3)
    if settings.quick:
        return compare("ResNet (8 layers)", resnet20(blocks=1), 8, 2, rounds, settings.device)
    # (batch size, steps per epoch), of each encoder: an epoch of few steps would measure its bookkeeping.
    small, large = ((128, 8), (32, 6)) if settings.device == "cpu" else ((256, 20), (256, 20))
    rows = [
        *compare("ResNet-20", resnet20(), *small, rounds, settings.device),
        *compare("ResNet-18", "resnet18", *large, rounds, settings.device),
    ]
    if resolve_precision("auto", torch.device(settings.device)):
        rows += compare("ResNet-18", "resnet18", *large, rounds, settings.device, "auto")
    return rows


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
