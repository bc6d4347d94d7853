"""Representations: SimCLRTransformer.transform, compared with the bare forward pass of its encoder.

The bare forward gets floats that lie ready on the device, in the batch size and memory format, of those
tried, at which it is fastest. Both take each image once, without its mirror image; how long it takes with it,
as the compact encoder does by itself, is one more row.
"""

import itertools

import torch
from harness import main, speed_row
from networks import resnet20, untrained
from photographs import crops
from timing import interleaved

SIZE = 32
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
FORMATS = (torch.contiguous_format, torch.channels_last)


def bare_forward(simclr, images, device):
    """Return the fastest function that sends all images through the encoder, and its batch size."""
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).to(device)
    encoder = simclr.encoder_.eval().to(device)

    def make(batch_size, memory_format):
        batches = [b.contiguous(memory_format=memory_format) for b in pixels.split(batch_size)]

        def work():
            with torch.inference_mode():
                for batch in batches:
                    encoder(batch)
            return len(images)

        return work

    sizes = [size for size in BATCH_SIZES if size <= len(images)] or [len(images)]
    choices = {choice: make(*choice) for choice in itertools.product(sizes, FORMATS)}
    trial = interleaved(choices, 1, device)
    best = min(trial, key=lambda choice: min(trial[choice]))
    return choices[best], best[0]


def compare(name, encoder, n, rounds, device, mirror=False, target=">= 0.95"):
    """Return the row of one encoder."""
    images = crops(n, SIZE)
    # Two fits of the same seed: the encoder that transform uses stays where transform left it.
    parameters = {"device": device, "precision": "float32", "mirror": mirror}
    simclr, other = (untrained(encoder, images, **parameters) for _ in range(2))
    bare, batch_size = bare_forward(other, images, device)

    def ours():
        simclr.transform(images)
        return n

    seconds = interleaved({"ours": ours, "bare": bare}, rounds, device)
    case = f"{name}, {SIZE} px" + (", with mirror images" if mirror else "")
    return speed_row(
        "transform", case, f"bare forward, batch {batch_size}", seconds["ours"], seconds["bare"], target
    )


def run(settings):
    """Return the rows of this comparison."""
    rounds = settings.rounds(5)
    if settings.quick:
        return [compare("ResNet (8 layers)", resnet20(blocks=1), 8, rounds, settings.device)]
    many = 1 if settings.device == "cpu" else 16
    return [
        compare("compact", "compact", 1024 * many, rounds, settings.device),
        compare("compact", "compact", 1024 * many, rounds, settings.device, mirror=True, target=""),
        compare("ResNet-20", resnet20(), 512 * many, rounds, settings.device),
        compare("ResNet-18", "resnet18", 64 * many, rounds, settings.device),
    ]


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
