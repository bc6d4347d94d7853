"""Two views of every image: ours, lightly's, kornia's, torchvision's.

lightly and torchvision work image by image in a DataLoader with two workers, as their documentation shows;
the workers are started before the clock and kept. kornia and ours work on batches. Ours has two forms: the
default's, which changes colours by one matrix, and the operations of the others, one after the other.
"""

import recipes
import torch
from harness import main, missing_row, speed_row
from photographs import PillowImages, TwoViews, crops
from timing import interleaved, optional
from torch.utils.data import DataLoader

WORKERS = 2

# Side of the images: how many, how many a batch, and the targets.
CASES = {
    32: (1024, 256, {"lightly": ">= 20", "kornia": ">= 7"}),
    96: (256, 64, {"lightly": ">= 5", "kornia": ">= 4"}),
    224: (96, 24, {"lightly": ">= 2", "kornia": ">= 3"}),
}


def loader(dataset, batch_size, workers=WORKERS):
    """Return a DataLoader whose workers stay between passes."""
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=workers > 0,
    )  # fmt: skip


def competitors(size, n, batch_size, device):
    """Return {name: function that makes two views of all the images and returns how many there are}."""
    images = crops(n, size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    resident = pixels.to(device)
    # Ours is so much faster at 32 pixels that one pass is too short for the clock.
    passes = 4 if size <= 32 else 1

    def ours(implementation):
        augmentation = recipes.ours(size, implementation)

        def work():
            for _ in range(passes):
                for batch in resident.split(batch_size):
                    augmentation(batch, n_views=2)
            return passes * n

        return work

    def consume(batches):
        def work():
            for views, *_ in batches:
                [view.to(device) for view in views]
            return n

        return work

    work = {"ours": ours("linear"), "ours in turn": ours("torchvision")}
    if optional("lightly"):
        from lightly.data import LightlyDataset

        dataset = LightlyDataset.from_torch_dataset(PillowImages(images), transform=recipes.lightly(size))
        work["lightly"] = consume(loader(dataset, batch_size))
    if optional("kornia"):
        sequence = recipes.kornia(size).to(device)

        def kornia():
            for batch in resident.split(batch_size):
                batch = batch.float() / 255
                sequence(batch), sequence(batch)
            return n

        work["kornia"] = kornia
    pairs = TwoViews(pixels, recipes.torchvision(size))
    batches = loader(pairs, batch_size)

    def torchvision():
        for pair in batches:
            [view.to(device) for view in pair]
        return n

    work["torchvision"] = torchvision
    return work


def run(settings):
    """Return the rows of this comparison."""
    rows = []
    for size, (n, batch_size, targets) in CASES.items():
        if settings.quick:
            n, batch_size = 8, 4
        work = competitors(size, n, batch_size, settings.device)
        seconds = interleaved(work, settings.rounds(5), settings.device)
        case = f"{size} px, batches of {batch_size}"
        for peer in ("lightly", "kornia", "torchvision"):
            target = targets.get(peer, "")
            if peer not in seconds:
                rows.append(missing_row("two views", case, peer, target))
                continue
            rows.append(speed_row("two views", case, peer, seconds["ours"], seconds[peer], target))
            case_in_turn = f"{case}, colours in turn"
            rows.append(speed_row("two views", case_in_turn, peer, seconds["ours in turn"], seconds[peer]))
    return rows


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
