"""Files: images decoded per second, compared with torchvision and Pillow; epochs on files and on arrays.

ImageFolder and ours decode the same JPEGs, which lie in the page cache, each in a new process that has
imported what it needs: what a process does once, such as starting workers, counts. ImageFolder goes through
torch's DataLoader with two workers and gives tensors of bytes, the cheapest it can. Photographs of 4,000
pixels are brought to the size that an estimator gives them by default; Pillow and torchvision decode the
whole of each, in as many threads as there are cores, and resize it to that size. The epochs are those of a
fit after the first, with and without a folder of decoded images.
"""

import argparse
import contextlib
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from growth import speeds
from harness import add_options, describe, measure, settings_of, speed_row
from joblib import cpu_count
from photographs import crops
from PIL import Image
from sklearn.datasets import load_sample_images
from timing import in_fresh_process

from sklearn_simclr.images import load_image_paths, load_images

SIZE = 32
BATCH_SIZE = 256

# Width of the large photographs.
LARGE = 4000


@contextlib.contextmanager
def generated(n):
    """Give the path of a folder with n JPEGs of two classes, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        for k, image in enumerate(crops(n, SIZE)):
            path = Path(folder, "ab"[k % 2], f"{k}.jpg")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path, quality=90)
        yield folder


def decode_ours(folder, n):
    """Return the seconds an image for the decoding of n files of a folder."""
    paths = _in_page_cache(folder, n)
    started = time.perf_counter()
    pixels = load_images(paths, image_size=None)
    return (time.perf_counter() - started) / len(pixels)


def decode_theirs(folder, n):
    """Return the seconds an image that ImageFolder and a DataLoader take for n files of a folder."""
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import PILToTensor

    paths = _in_page_cache(folder, n)
    data = ImageFolder(folder, PILToTensor())
    places = {path: k for k, (path, _) in enumerate(data.samples)}
    started = time.perf_counter()
    loader = DataLoader(Subset(data, [places[path] for path in paths]), BATCH_SIZE, num_workers=2)
    done = sum(len(images) for images, _ in loader)
    return (time.perf_counter() - started) / done


def _in_page_cache(folder, n):
    paths = load_image_paths(folder, shuffle=True, random_state=0).data[:n].tolist()
    for path in paths:
        Path(path).read_bytes()
    return paths


def write_photographs(folder, n, width):
    """Write n JPEGs of photographs, enlarged to a width and made a little noisy, as cameras do."""
    generator = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for k in range(n):
        photograph = photographs[k % len(photographs)]
        height = round(width * photograph.height / photograph.width)
        pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + generator.normal(0, 4, pixels.shape).astype(np.float32)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(Path(folder, f"{k}.jpg"), quality=90)


def decode_large(folder, how):
    """Return the seconds an image for the decoding of all JPEGs of a folder to the size of training."""
    paths = _in_page_cache(folder, None)
    size = load_images(paths[:1]).shape[1:3]
    function = {"Pillow": _by_pillow, "torchvision": _by_torchvision}.get(how)
    decode = function and function(size)
    started = time.perf_counter()
    if decode is None:
        done = len(load_images(paths))
    else:
        with ThreadPoolExecutor(cpu_count()) as pool:
            done = len(list(pool.map(decode, paths)))
    return (time.perf_counter() - started) / done


def _by_pillow(size):
    def decode(path):
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))

    return decode


def _by_torchvision(size):
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2.functional import resize

    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
    torch.set_num_threads(1)  # the images are decoded by several threads
    return lambda path: resize(decode_jpeg(read_file(path), ImageReadMode.RGB), size, antialias=True)


def compare_large(n, rounds, width):
    """Return the rows of the decoding of n large photographs."""
    seconds = {"ours": [], "Pillow": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder, n, width)
        for _ in range(rounds):
            for how, found in seconds.items():
                found.append(in_fresh_process("files", "decode_large", folder=folder, how=how))
    case = f"JPEGs {width:,} pixels wide, to the size of training"
    return [
        speed_row("files", case, how, seconds["ours"], seconds[how], ">= 1")
        for how in ("Pillow", "torchvision")
    ]


def compare_decoding(folder, n, rounds):
    """Return the row of the decoding of n files."""
    seconds = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, found in seconds.items():
            found.append(in_fresh_process("files", f"decode_{name}", folder=str(folder), n=n))
    case = f"{n} JPEGs, decoded once"
    return speed_row("files", case, "ImageFolder", seconds["ours"], seconds["theirs"], ">= 1")


def compare_epochs(folder, n, rounds, device):
    """Return the rows of the epochs on n files and on an array of the same images."""
    paths = load_image_paths(folder, shuffle=True, random_state=0).data[:n]
    array = load_images(paths, image_size=None)
    seconds = {"array": [], "files": [], "files, cache_dir": []}
    batch_size = min(BATCH_SIZE, len(array))
    with tempfile.TemporaryDirectory() as cache:
        cases = {"array": (array, None), "files": (paths, None), "files, cache_dir": (paths, cache)}
        for _ in range(rounds):
            for name, (X, cache_dir) in cases.items():
                found = speeds(X, 1, device, batch_size=batch_size, cache_dir=cache_dir)
                seconds[name] += [1 / speed for speed in found]
    return [
        speed_row("files", f"{name}, an epoch of {n}", "array", seconds[name], seconds["array"], ">= 0.95")
        for name in cases
        if name != "array"
    ]


def run(settings, folder=None):
    """Return the rows of this comparison, of the images of a folder or of generated ones."""
    n_decoded, n_trained, n_large = (16, 16, 2) if settings.quick else (40_000, 10_000, 32)
    rounds = settings.rounds(3)
    with contextlib.nullcontext(folder) if folder else generated(n_decoded) as place:
        rows = [compare_decoding(place, n_decoded, rounds)]
        rows += compare_large(n_large, rounds, 400 if settings.quick else LARGE)
        return rows + compare_epochs(place, n_trained, rounds, settings.device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="of images in sub-folders; without it they are generated")
    add_options(parser)
    options = parser.parse_args()
    for line in describe(measure(lambda settings: run(settings, options.folder), settings_of(options))):
        print(line)
