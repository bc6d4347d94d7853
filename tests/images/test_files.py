"""Images as people have them: every format and container, and files that are damaged or hostile."""

import io
import os
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_simclr import (
    AutoencoderTransformer,
    DistilledClassifier,
    HOGTransformer,
    PixelTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr.images import decode as _decode
from sklearn_simclr.images import files, reading_time, threads
from sklearn_simclr.images import store as _store
from sklearn_simclr.images.decode import ImageError, convert, decode, strict_decoders
from sklearn_simclr.images.folders import image_rows, load_image_paths
from sklearn_simclr.images.items import as_rows
from sklearn_simclr.images.reading import read_rows
from sklearn_simclr.images.sizes import Target


@pytest.fixture(scope="module")
def photo():
    """A photograph (427, 640, 3), uint8."""
    return load_sample_images().images[0]


def encoded(array, name, **options):
    file = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(file, name, **options)
    return file.getvalue()


def random_images(n, shape=(16, 16, 3), dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (n, *shape), dtype=dtype, endpoint=True)


def pixels(rows, **options):
    decoded = read_rows(list(rows), **options)
    return decoded.pixels if decoded.rows is None else decoded.pixels[decoded.rows]


def write_png(path, array):
    Image.fromarray(array).save(path)
    return str(path)


# Folders


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_are_classes_in_natural_order(tmp_path):
    touch(tmp_path, "c10/img10.png", "c10/img9.PNG", "c2/deep/er/x.jpeg", "c2/a.jpg", "c2/notes.txt")
    touch(tmp_path, "c2/.hidden.png", ".cache/a.png", "readme.md")
    found = load_image_paths(tmp_path)
    assert found.target_names == ["c2", "c10"]
    assert [name.replace(os.sep, "/") for name in found.filenames] == [
        "c2/a.jpg",
        "c2/deep/er/x.jpeg",
        "c10/img9.PNG",
        "c10/img10.png",
    ]
    assert found.target.tolist() == [0, 0, 1, 1]
    assert all(os.path.exists(path) for path in found.data)
    assert "4 images of 2 classes" in found.DESCR
    X, y = load_image_paths(tmp_path, categories=["c10"], extensions=["png"], return_X_y=True)
    assert len(X) == 2 and y.tolist() == [0, 0]
    shuffled = load_image_paths(tmp_path, shuffle=True, random_state=3)
    again = load_image_paths(str(tmp_path), shuffle=True, random_state=3)
    assert shuffled.data.tolist() == again.data.tolist() != found.data.tolist()
    names = dict(zip(found.data, found.target, strict=True))
    assert [names[path] for path in shuffled.data] == shuffled.target.tolist()


def test_a_flat_folder_has_no_classes(tmp_path):
    touch(tmp_path, "b.png", "a.png")
    found = load_image_paths(tmp_path)
    assert found.target is None and found.target_names == []
    assert found.filenames.tolist() == ["a.png", "b.png"]


def test_refused_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_image_paths(tmp_path / "no")
    touch(tmp_path, "a/x.txt")
    with pytest.raises(ValueError, match="holds no images.*extensions="):
        load_image_paths(tmp_path)
    touch(tmp_path, "b/x.png")
    with pytest.raises(ValueError, match=r"sub-folders \['a'\].*categories="):
        load_image_paths(tmp_path)
    touch(tmp_path, "top.png")
    with pytest.raises(ValueError, match="1 images, such as 'top.png', next to.*categories="):
        load_image_paths(tmp_path)
    with pytest.raises(ValueError, match="sub-folders are .*'a', 'b'.*got"):
        load_image_paths(tmp_path, categories=["x"])
    with pytest.raises(NotADirectoryError):
        load_image_paths(tmp_path / "top.png")
    with pytest.raises(TypeError, match="lists of str"):
        load_image_paths(tmp_path, categories="a")


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "a/x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    assert len(load_image_paths(tmp_path).data) == 1


def test_files_that_are_left_out_are_counted(tmp_path):
    touch(
        tmp_path, "cat/1.jpg", "cat/2.HEIC", "cat/3.heic", "dog/4.jpg", "dog/5.cr2", "dog/6", "dog/notes.txt"
    )
    with pytest.warns(UserWarning, match="4 files.*left out; 2 images.*2 of .heic, 1 of .cr2") as caught:
        assert len(load_image_paths(tmp_path).data) == 2
    assert "1 of no extension" in str(caught[0].message) and "pillow-heif" in str(caught[0].message)
    # Who says what images are, knows.
    assert len(load_image_paths(tmp_path, extensions=["jpg", "heic"]).data) == 4
    touch(tmp_path / "phone", "1.heic")
    with pytest.raises(ValueError, match="1 of .heic.*pillow-heif"):
        load_image_paths(tmp_path / "phone")


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Val", "Test"), ("training", "validation")])
def test_parts_of_a_data_set_are_no_classes(names, tmp_path):
    touch(tmp_path, *(f"{name}/{kind}/1.png" for name in names for kind in ("cat", "dog")))
    with pytest.raises(ValueError, match="parts of a data set.*Pass one of them.*categories="):
        load_image_paths(tmp_path)
    assert load_image_paths(tmp_path / names[0]).target_names == ["cat", "dog"]
    assert load_image_paths(tmp_path, categories=names).target_names == list(names)


def test_formats_of_plugins_are_read(tmp_path, monkeypatch):
    """As pillow_heif does it."""

    class Opener(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._mode, self._size, self.tile = "L", (2, 2), [("raw", (0, 0, 2, 2), 12, ("L", 0, 1))]

    data = b"\0\0\0\x18ftypheic" + bytes([1, 2, 3, 4])
    touch(tmp_path, "a.heic", "b.jpg")
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(ImageError, match="HEIC needs pip install pillow-heif"):
        decode(data)
    Image.init()
    for name in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("HEIF", Opener, lambda prefix: prefix[4:12] == b"ftypheic")
    Image.register_extension("HEIF", ".heic")
    files = load_image_paths(tmp_path).data
    assert len(files) == 2
    np.testing.assert_array_equal(pixels(files[:1])[0, :, :, 0], [[1, 2], [3, 4]])


def test_paths_that_other_programs_understand(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    [image] = random_images(1)
    (tmp_path / "a b").mkdir()
    write_png(tmp_path / "a b" / "1.png", image)
    address = (tmp_path / "a b" / "1.png").as_uri()
    for cache_dir in (None, "~/cache"):
        for row in ("~/a b/1.png", Path("~/a b/1.png"), address, {"path": address, "label": 0}):
            np.testing.assert_array_equal(pixels([row], cache_dir=cache_dir)[0], image)
    assert (tmp_path / "cache" / "images.sqlite").exists()
    for folder in ("~/a b", (tmp_path / "a b").as_uri()):
        assert len(load_image_paths(folder).data) == 1


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.png", "https://x.org/a.png?size=9", Path("gs://bucket/a")]
)
def test_addresses_whose_libraries_are_missing(address, tmp_path, monkeypatch):
    for missing in ("s3fs", "gcsfs", "aiohttp", "fsspec"):
        monkeypatch.setitem(sys.modules, missing, None)
        for cache_dir in (None, tmp_path):
            with pytest.raises(ValueError, match="it is an address, for which|it is not an address") as error:
                read_rows([address], cache_dir=cache_dir)
    assert "sklearn-simclr[remote]" in str(error.value) or isinstance(address, Path)
    with pytest.raises(ValueError, match="only local folders are listed; list the address with"):
        load_image_paths(address)


@pytest.fixture
def remote(photo):
    """Addresses in the file system that fsspec keeps in memory, the last of a file that is none."""
    fsspec = pytest.importorskip("fsspec", reason='needs the extra "remote"')
    files = fsspec.filesystem("memory")
    contents = [encoded(photo[:48, :40], "PNG"), encoded(photo[8:72, :64], "JPEG"), b"<html>"]
    for k, content in enumerate(contents):
        files.pipe(f"/images/{k}", content)
    yield [f"memory://images/{k}" for k in range(3)], contents
    files.rm("/images", recursive=True)


def test_files_at_addresses_are_read(remote, tmp_path, monkeypatch):
    addresses, contents = remote
    expected = read_rows(contents[:2], image_size="auto").pixels
    for cache_dir in (None, tmp_path, tmp_path):
        found = read_rows(addresses[:2], image_size="auto", cache_dir=cache_dir)
        np.testing.assert_array_equal(found.pixels[[0, 1] if found.rows is None else found.rows], expected)
    with pytest.raises(
        ValueError, match=r"(?s)row 1, 'memory://images/2': it is no image.*row 2.*no such file at"
    ):
        read_rows([*addresses[::2], "memory://images/none"], image_size=16)
    # One that changes is not taken for what it was.
    import fsspec

    fsspec.filesystem("memory").pipe("/images/0", contents[1])
    found = read_rows(addresses[:1], image_size=16, cache_dir=tmp_path)
    np.testing.assert_array_equal(found.pixels[-1], read_rows(contents[1:2], image_size=16).pixels[0])


def test_addresses_that_lead_elsewhere_or_to_too_much_are_refused(remote, monkeypatch):
    addresses, _ = remote
    for chain in ("simplecache::memory://images/0", "memory://a::memory://images/0"):
        with pytest.raises(ValueError, match="no such file|it is not an address that can be read"):
            read_rows([chain])
    with pytest.raises(ValueError, match=r"cannot be read at this address \(ValueError: Protocol not known"):
        read_rows(["nonsense://images/0"])
    monkeypatch.setattr("sklearn_simclr.images.remote._MOST", 1000)
    with pytest.raises(ValueError, match="it has more than the 0 MiB that are read from an address"):
        read_rows(addresses[:1])


# Formats


@pytest.mark.parametrize(
    ("name", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("PPM", {})]
    + [("WEBP", {"lossless": True}), ("JPEG2000", {"irreversible": False})],
)
def test_lossless_formats_give_their_pixels(name, options):
    for array in random_images(2, (9, 13, 3)):
        np.testing.assert_array_equal(decode(encoded(array, name, **options)), array)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 47), (427, 640)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_what_pillow_makes_of_them(photo, size, mode):
    for options in ({"quality": 30}, {"quality": 95, "subsampling": 0}, {"progressive": True}):
        data = encoded(Image.fromarray(photo).convert(mode).resize(size[::-1]), "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data))).reshape(*size, -1)
        np.testing.assert_array_equal(decode(data), expected)


def test_sixteen_bits_are_kept():
    grey = random_images(1, (8, 9), np.uint16)[0]
    for data in (encoded(grey, "PNG"), encoded(grey, "TIFF"), encoded(grey, "TIFF", compression="tiff_lzw")):
        np.testing.assert_array_equal(decode(data)[:, :, 0], grey)
        assert decode(data).dtype == np.uint16


def png16(array, color):
    height, width = array.shape[:2]
    raw = array.astype(">u2").reshape(height, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in raw)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_sixteen_bit_colour_pngs_are_read_whole():
    array = random_images(1, (8, 9, 3), np.uint16)[0]
    np.testing.assert_array_equal(decode(png16(array, 2)), array)
    opaque = np.concatenate([array, np.full((8, 9, 1), 65535, dtype=np.uint16)], axis=2)
    np.testing.assert_array_equal(decode(png16(opaque, 6)), array)
    np.testing.assert_array_equal(decode(png16(opaque[:, :, 2:], 4)), array[:, :, 2:])
    clear = opaque.copy()
    clear[:, :, 3] = 0
    assert (decode(png16(clear, 6)) == 65535).all()


def test_sixteen_bit_colour_pngs_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r'16 bits, is not installed: pip install "sklearn-simclr\[tiff\]"'):
        decode(png16(random_images(1, (8, 9, 3), np.uint16)[0], 2))
    grey = random_images(1, (8, 9), np.uint16)[0]
    np.testing.assert_array_equal(decode(encoded(grey, "PNG"))[:, :, 0], grey)


def test_sixteen_bit_colour_pngs_are_never_half_images():
    array = random_images(1, (8, 9, 3), np.uint16)[0]
    data = png16(array, 2)
    for end in range(len(data)):
        try:
            found = decode(data[:end])
        except ImageError:
            continue
        np.testing.assert_array_equal(found, array)


def test_modes_become_grey_or_colour(photo):
    color = Image.fromarray(photo[:20, :30])
    palette = color.quantize(8)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(
        decode(encoded(color.convert("CMYK"), "TIFF")), np.asarray(color.convert("CMYK").convert("RGB"))
    )
    assert decode(encoded(color.convert("CMYK"), "JPEG")).shape == (20, 30, 3)
    bits = color.convert("1")
    np.testing.assert_array_equal(decode(encoded(bits, "PNG"))[:, :, 0], np.asarray(bits) * 255)


def test_transparent_parts_are_white():
    array = random_images(1, (6, 5, 4))[0]
    array[0, :, 3], array[1, :, 3] = 0, 255
    found = decode(encoded(array, "PNG"))
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1], array[1, :, :3])
    alpha = array[:, :, 3:] / 255.0
    np.testing.assert_allclose(found, array[:, :, :3] * alpha + 255 * (1 - alpha), atol=1)


def test_first_frame_of_animations(photo):
    frames = [Image.fromarray(photo[i : i + 20, :30]).quantize(16) for i in (0, 100)]
    first = np.asarray(frames[0].convert("RGB"))
    for name in ("GIF", "PNG", "TIFF"):
        data = encoded(frames[0], name, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decode(data), first)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    array = random_images(1, (8, 12))[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = [
        array,
        array[:, ::-1],
        array[::-1, ::-1],
        array[::-1],
        array.T,
        np.rot90(array, -1),
        array[::-1, ::-1].T,
        np.rot90(array),
    ]
    for name in ("PNG", "TIFF"):
        found = decode(encoded(array, name, exif=exif))
        np.testing.assert_array_equal(found[:, :, 0], expected[orientation - 1])
    assert decode(encoded(array, "JPEG", exif=exif)).shape[:2] == expected[orientation - 1].shape


def by_path(path):
    return str(path)


def opened(path):
    return Image.open(path)


def loaded(path):
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


def converted(path):
    return Image.open(path).convert("RGB")


def transposed(path):
    return ImageOps.exif_transpose(Image.open(path))


def in_a_dataset(path):
    return {"image": Image.open(path), "label": 0}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_photo_is_turned_however_it_comes(orientation, name, tmp_path):
    array = np.kron(random_images(1, (4, 6, 3))[0], np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{name}"
    path.write_bytes(encoded(array, name, exif=exif))
    expected = pixels([by_path(path)])
    assert expected.shape[1:3] == ((64, 96) if orientation < 5 else (96, 64))
    for how in (opened, loaded, converted, transposed, in_a_dataset):
        row = how(path)
        before = row.size if isinstance(row, Image.Image) else None
        np.testing.assert_array_equal(pixels([row]), expected)
        assert before is None or name == "TIFF" or row.size == before
        # Also the size that is chosen for all.
        assert pixels([how(path)], image_size="auto").shape == pixels([path], image_size="auto").shape


def test_orientation_beside_exif_tags_that_pillow_cannot_write():
    # The name of the maker, as a fraction.
    tags = struct.pack("<HHII", 0x010F, 5, 1, 38) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<III", 0, 1, 3)
    assert decode(encoded(random_images(1, (8, 12))[0], "JPEG", exif=exif)).shape == (12, 8, 1)


# Sizes


def test_image_size_is_the_antialiased_centre(photo):
    square = photo[:, 106:534].copy()
    found = decode(encoded(photo, "PNG"), Target(64, 64, crop=True)).astype(float)
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (64, 64), mode="bilinear", antialias=True)
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).mean() < 1.5
    whole = decode(encoded(photo, "PNG"), Target(32, 64, crop=False))
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (32, 64), mode="bilinear", antialias=True)
    np.testing.assert_allclose(whole, expected[0].permute(1, 2, 0).numpy(), atol=1.01)


def test_large_jpegs_are_decoded_at_a_reduced_scale_but_look_the_same(photo):
    target = Target(48, 48, crop=True)
    full, reduced = decode(encoded(photo, "PNG"), target), decode(encoded(photo, "JPEG", quality=98), target)
    assert np.abs(full.astype(int) - reduced).mean() < 2
    assert _decode._draft_size(640, 427, target) == (144, 96)
    # Where more than half of the pixels matter, all of them are decoded.
    data, target = encoded(photo, "JPEG"), Target(300, 300, crop=True)
    np.testing.assert_array_equal(decode(data, target), decode(encoded(decode(data), "PNG"), target))


@pytest.mark.parametrize("image_size", ["auto", 40, (60, 40)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpegs_that_lie_are_decoded_at_a_reduced_scale_too(photo, monkeypatch, image_size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = Image.fromarray(photo).resize((1280, 854))
    upright = large if orientation == 1 else large.transpose(Image.Transpose.ROTATE_270)
    loaded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: (load(image), loaded.append(image.size))[0]
    )
    (found,) = pixels([encoded(large, "JPEG", quality=98, exif=exif)], image_size=image_size)
    assert max(loaded[0]) <= 640
    (expected,) = pixels([encoded(upright, "PNG")], image_size=image_size)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("size", [(1, 1), (3, 20000), (20000, 1)])
def test_extreme_sizes(size):
    array = random_images(1, (*size, 3))[0]
    assert decode(encoded(array, "PNG"), Target(8, 8, crop=True)).shape == (8, 8, 3)
    np.testing.assert_array_equal(decode(encoded(array, "PNG")), array)


def test_mixed_sizes_name_rows_and_sizes(tmp_path):
    paths = [write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(random_images(3))]
    paths.insert(2, write_png(tmp_path / "odd.png", random_images(1, (16, 17, 3))[0]))
    for cache_dir in (None, tmp_path / "cache", tmp_path / "cache"):
        with pytest.raises(ValueError, match=r"(?s)Row 0, .*16 x 16.*row 2, .*odd.png.*16 x 17.*image_size="):
            read_rows(paths, cache_dir=cache_dir)
    assert pixels(paths, image_size=8).shape == (4, 8, 8, 3)


# Containers


def test_all_containers_give_the_same_pixels(tmp_path):
    images = random_images(5)
    paths = [write_png(tmp_path / f"{i}.png", image) for i, image in enumerate(images)]
    pillow = [Image.fromarray(image) for image in images]
    data = [Path(path).read_bytes() for path in paths]
    pairs = [(image, 1) for image in pillow]
    mixed = [paths[0], Path(paths[1]), pillow[2], data[3], images[4]]

    class Column:
        """A column of Hugging Face's datasets."""

        def __len__(self):
            return 5

        def __getitem__(self, i):
            return {"image": pillow[i], "label": i}

    for X in [
        paths,
        tuple(map(Path, paths)),
        np.array(paths),
        np.array(paths, dtype=object)[:, None],
        pd.Series(paths, index=list("abcde")),
        pd.DataFrame({"path": paths}),
        pillow,
        data,
        list(map(memoryview, data)),
        pairs,
        Column(),
        image_rows(Column()),
        [[image, 1] for image in pillow],
        [{"image": path, "label": 0} for path in paths],
        image_rows(pairs)[np.arange(5)],
        [{"bytes": d, "path": None} for d in data],
        [{"bytes": None, "path": p} for p in paths],
        [{"image": {"bytes": d, "path": "x"}, "label": 0} for d in data],
        mixed,
    ]:
        rows = as_rows(X)
        assert rows is not None, X
        for cache_dir in (None, tmp_path / "cache"):
            np.testing.assert_array_equal(pixels(rows, cache_dir=cache_dir), images)


def test_what_is_not_made_of_images_is_left_to_others():
    for X in [
        [[0, 1], [1, 0]],
        np.zeros((3, 4)),
        np.array([["a", "b"], ["c", "d"]]),
        pd.DataFrame({"a": ["x"], "b": ["y"]}),
        pd.Series([1.0, 2.0]),
        [np.zeros((8, 8))],
        torch.zeros(3, 4),
        [],
        None,
    ]:
        assert as_rows(X) is None
    tensors = as_rows(torch.utils.data.TensorDataset(torch.rand(3, 3, 8, 8), torch.zeros(3)))
    assert [row.shape for row in tensors] == [(3, 8, 8)] * 3
    for X, message in [("folder", "one path.*load_image_paths"), (Image.new("L", (2, 2)), "one image")]:
        with pytest.raises(ValueError, match=message):
            as_rows(X)
    with pytest.raises(TypeError, match="length and items.*generator"):
        image_rows(image for image in [])


@pytest.mark.parametrize("cached", [False, True])
def test_mixed_kinds_get_one(tmp_path, cached, tiff):
    cache_dir = tmp_path if cached else None
    color, grey = random_images(1)[0], random_images(1, (16, 16))[0]
    deep = random_images(1, (16, 16), np.uint16)[0]
    data = {"c": encoded(color, "PNG"), "g": encoded(grey, "PNG"), "d": encoded(deep, "PNG")}
    for order in ("cg", "gc", "g" * 40 + "c"):
        found = pixels([data[k] for k in order], cache_dir=cache_dir)
        np.testing.assert_array_equal(found[order.index("g")], np.stack([grey] * 3, axis=-1))
        np.testing.assert_array_equal(found[order.index("c")], color)
    found = pixels([data["g"], data["d"]], cache_dir=cache_dir)
    np.testing.assert_array_equal(found[..., 0], [grey * np.uint16(257), deep])
    found = pixels([data["c"], data["d"]], cache_dir=cache_dir)
    assert found.shape == (2, 16, 16, 3) and found.dtype == np.uint16
    with pytest.warns(UserWarning, match="turned to grey"):
        found = pixels([data["c"]], cache_dir=cache_dir, kind=(1, "uint8"))
    np.testing.assert_array_equal(found[0, :, :, 0], np.asarray(Image.fromarray(color).convert("L")))
    many = tiff(random_images(1, (16, 16, 5))[0])
    for rows, kind in [([many, data["c"]], None), ([many], (3, "uint8"))]:
        with pytest.raises(ValueError, match="5.*channels"):
            pixels(rows, cache_dir=cache_dir, kind=kind)


def test_eight_and_sixteen_bits_go_there_and_back():
    images = random_images(2)
    np.testing.assert_array_equal(convert(convert(images, 3, "uint16"), 3, "uint8"), images)


def test_images_that_exceed_the_memory_go_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "memory_limit", lambda: 1000)
    images = random_images(30)
    found = read_rows([encoded(image, "PNG") for image in images]).pixels
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, images)


# Each file is decoded once


def test_cache_decodes_each_file_once(tmp_path, monkeypatch):
    paths = [write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(random_images(12))]
    decoded = []
    monkeypatch.setattr(threads, "decode", lambda data, size=None: decoded.append(1) or decode(data, size))
    cache = tmp_path / "cache"
    first = pixels(paths[:8], cache_dir=cache)
    assert len(decoded) == 8
    np.testing.assert_array_equal(pixels([*paths[4:], paths[0], paths[0]], cache_dir=cache)[:4], first[4:])
    assert len(decoded) == 12
    pixels(paths[::-1], cache_dir=cache)
    assert len(decoded) == 12
    pixels(paths, cache_dir=cache, image_size=8)
    assert len(decoded) == 24
    new = write_png(paths[3], random_images(1, seed=9)[0])
    os.utime(new, ns=(1, time.time_ns() + 1))
    np.testing.assert_array_equal(pixels(paths, cache_dir=cache)[3], random_images(1, seed=9)[0])
    assert len(decoded) == 25


def test_grid_search_over_files_decodes_each_once(tmp_path, monkeypatch):
    images = random_images(24, (8, 8, 3))
    paths = np.array([write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(images)], dtype=object)
    y = np.arange(24) % 2
    decoded = []
    monkeypatch.setattr(threads, "decode", lambda data, size=None: decoded.append(1) or decode(data, size))
    simclr = SimCLRTransformer(max_epochs=1, batch_size=8, random_state=0, cache_dir=str(tmp_path / "cache"))
    search = GridSearchCV(
        make_pipeline(simclr, LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2
    ).fit(paths, y)
    assert len(decoded) == 24
    from_array = GridSearchCV(
        make_pipeline(simclr, LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2
    ).fit(images, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], from_array.cv_results_["mean_test_score"]
    )


def test_representations_of_files_are_those_of_their_pixels(tmp_path):
    images = random_images(10, (8, 8, 3))
    paths = [write_png(tmp_path / f"{i}.png", image) for i, image in enumerate(images)]
    options = {"max_epochs": 1, "random_state": 0}
    by_array = SimCLRTransformer(**options).fit(images)
    expected = by_array.transform(images)
    for cache_dir in (None, tmp_path / "cache", tmp_path / "cache"):
        by_path = SimCLRTransformer(cache_dir=cache_dir, **options).fit(paths)
        np.testing.assert_array_equal(by_path.transform(paths), expected)
        np.testing.assert_array_equal(by_path.transform(images), expected)
        np.testing.assert_array_equal(by_path.transform(paths[::-1]), expected[::-1])
    np.testing.assert_array_equal(by_array.transform(paths), expected)
    assert by_path.image_shape_ == (8, 8, 3) and by_path.n_features_in_ == 192


def test_transform_asks_for_the_size_of_fit(tmp_path):
    small = [encoded(image, "PNG") for image in random_images(6, (8, 8, 3))]
    large = [encoded(image, "PNG") for image in random_images(6, (10, 12, 3))]
    simclr = SimCLRTransformer(max_epochs=0, random_state=0, image_size=None).fit(small)
    with pytest.raises(ValueError, match=r"height 10 and width 12.*height 8 and width 8.*image_size='auto'"):
        simclr.transform(large)
    simclr = SimCLRTransformer(max_epochs=0, random_state=0, image_size=8).fit(small)
    with pytest.raises(ValueError, match="height 9 and width 9.*height 8 and width 8"):
        simclr.set_params(image_size=9).transform(small)
    simclr = SimCLRTransformer(max_epochs=0, random_state=0, image_size=(8, 10)).fit(small + large)
    assert simclr.image_shape_ == (8, 10, 3)
    assert len(simclr.transform(large[:1])) == 1
    for image_size in (0, (1, 2, 3), (4.5, 4), (8,) * 0):
        with pytest.raises(ValueError, match="image_size"):
            SimCLRTransformer(image_size=image_size).fit(small)


# Hostile files


@pytest.fixture
def hostile(tmp_path, photo):
    """Bad files by the reason that has to be given."""
    jpeg, png = encoded(photo[:64, :64], "JPEG"), encoded(photo[:64, :64], "PNG")
    bomb = png16(np.zeros((2, 2, 3), dtype=np.uint16), 2)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = bomb[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + bomb[33:]
    found = {"no such file": tmp_path / "missing.png", "it is a folder": tmp_path}
    for i, (reason, data) in enumerate(
        {
            "the file is empty": b"",
            "no image of a known format": b"<html>" * 100,
            "truncated": jpeg[: len(jpeg) // 2],
            "damaged": png[: len(png) // 2],
            "max_image_pixels": bomb,
            "damaged at its start": jpeg[:20],
        }.items()
    ):
        found[reason] = tmp_path / f"{i}.png"
        found[reason].write_bytes(data)
    if hasattr(os, "mkfifo"):
        found["not a regular file"] = tmp_path / "pipe.png"
        os.mkfifo(found["not a regular file"])
    return found


def test_bad_files_are_listed_with_their_reasons(hostile, photo):
    good = encoded(photo[:64, :64], "JPEG")
    rows = [good, *map(str, hostile.values()), good, "nul\0.png"]
    with pytest.raises(ValueError, match=f"{len(hostile) + 1} of {len(rows)} images cannot be read") as error:
        read_rows(rows)
    assert not isinstance(error.value, OSError)
    lines = str(error.value).splitlines()
    for i, (reason, path) in enumerate(hostile.items(), 1):
        [line] = [line for line in lines if line.startswith(f"  row {i},")]
        assert reason in line.lower() and repr(str(path)) in line


def test_missing_files_are_also_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"12 of 12.*row 9,.*and 2 more"[:8]) as error:
        read_rows([str(tmp_path / f"{i}.png") for i in range(12)])
    assert isinstance(error.value, ValueError)
    assert str(error.value).count("no such file") == 10 and "and 2 more" in str(error.value)


def test_permission_denied(tmp_path, monkeypatch):
    path = write_png(tmp_path / "a.png", random_images(1)[0])

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(ValueError, match="permission denied"):
        read_rows([path])


def test_the_content_decides_not_the_name(tmp_path):
    [image] = random_images(1)
    (tmp_path / "a.jpg").write_bytes(encoded(image, "PNG"))
    np.testing.assert_array_equal(pixels([tmp_path / "a.jpg"])[0], image)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_truncated_files_are_never_half_images(photo, name):
    data = encoded(photo[:48, :48], name)
    with strict_decoders():
        whole = decode(data)
        for end in [*range(0, len(data) - 16, len(data) // 60), *range(len(data) - 16, len(data))]:
            try:
                found = decode(data[:end])
            except ImageError:
                continue
            # What is missing can only be what comes after the pixels.
            np.testing.assert_array_equal(found, whole)


def test_truncated_files_are_read_if_pillow_was_told_so(photo, monkeypatch, tmp_path):
    (tmp_path / "half.jpg").write_bytes((data := encoded(photo, "JPEG"))[: len(data) // 2])
    for name in ("JPEG", "PNG"):
        data = encoded(photo, name)
        half = data[: len(data) // 2]
        for rows in ([half], [Image.open(io.BytesIO(half))], [tmp_path / "half.jpg"]):
            with pytest.raises(ValueError, match="truncated"):
                read_rows(rows, cache_dir=tmp_path / "cache")
            with monkeypatch.context() as told:
                told.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
                with pytest.warns(UserWarning, match="LOAD_TRUNCATED_IMAGES is True.*rest.*Set it to False"):
                    [found] = pixels(rows, cache_dir=tmp_path / "cache")
                assert np.abs(found[:150].astype(int) - decode(data)[:150]).mean() < 5
                assert ImageFile.LOAD_TRUNCATED_IMAGES
            if rows == [half]:
                with pytest.raises(ValueError, match="truncated"):
                    read_rows(rows, cache_dir=tmp_path / "cache")


@pytest.mark.filterwarnings("ignore:.* images cannot be read")
@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_nan(hostile, tmp_path, photo, cached):
    good = [encoded(photo[i : i + 64, i : i + 64], "JPEG") for i in range(0, 60, 10)]
    bad = list(map(str, hostile.values()))
    rows = [good[0], *bad, *good[1:], None]
    options = {"max_epochs": 1, "random_state": 0, "cache_dir": tmp_path / "cache" if cached else None}
    simclr = SimCLRTransformer(on_error="nan", **options)
    with pytest.warns(UserWarning, match=f"{len(bad) + 1} of {len(rows)} images cannot be read") as caught:
        simclr.fit(rows)
    assert len(caught) == 1 and str(rows[1]) in str(caught[0].message)
    expected = SimCLRTransformer(**options).fit(good).transform(good)
    found = simclr.transform(rows)
    is_bad = np.array([row not in good for row in rows])
    assert np.isnan(found[is_bad]).all()
    np.testing.assert_array_equal(found[~is_bad], expected)
    assert np.isnan(simclr.transform(bad)).all()
    assert simclr.score(rows) == simclr.score(good)
    with pytest.raises(ValueError, match="Only 0 of .* can be read"):
        simclr.fit(bad)


@pytest.fixture
def damaged(tmp_path):
    """Rows of which three cannot be read, which ones can, the pixels of these, and labels."""
    images = random_images(12, (8, 8, 3))
    rows = [write_png(tmp_path / f"{i}.png", image) for i, image in enumerate(images)]
    for bad in (2, 5, 11):
        Path(rows[bad]).write_bytes(b"no image")
    good = np.setdiff1d(np.arange(12), [2, 5, 11])
    return np.array(rows, dtype=object), good, images[good], np.array(list("aabbcaabbbbd"))


TINY = {"max_epochs": 2, "batch_size": 4, "random_state": 0}


def fine_tuned(on_error, frozen_on=None):
    simclr = SimCLRTransformer(on_error=on_error, **TINY)
    if frozen_on is not None:
        simclr = FrozenEstimator(simclr.fit(frozen_on))
    return SimCLRClassifier(simclr, class_weight="balanced", **TINY)


def distilled(on_error, teacher_views="image"):
    student = SimCLRTransformer(on_error=on_error)
    teacher = SupervisedTransformer(**TINY)
    return DistilledClassifier(teacher, student, alpha=0.5, teacher_views=teacher_views, **TINY)


@pytest.mark.filterwarnings("ignore:.* can(not)? be read")
@pytest.mark.parametrize(
    "make",
    [
        lambda on_error, images: SupervisedTransformer(on_error=on_error, **TINY),
        lambda on_error, images: fine_tuned(on_error),
        lambda on_error, images: fine_tuned(on_error, frozen_on=images),
        lambda on_error, images: distilled(on_error),
        lambda on_error, images: distilled(on_error, "same"),
    ],
    ids=["supervised", "fine-tuned", "fine-tuned, frozen", "distilled", "distilled, same views"],
)
def test_classifiers_leave_out_what_cannot_be_read(make, damaged):
    rows, good, images, y = damaged
    with pytest.raises(ValueError, match="3 of 12 images cannot be read:\n  row 2"):
        make("raise", images).fit(rows, y)
    classifier = make("nan", images)
    with pytest.warns(UserWarning, match="3 of 12 images cannot be read:\n  row 2") as caught:
        classifier.fit(rows, y)
    # The only image of class d cannot be read.
    lost = [str(one.message) for one in caught if "will not know" in str(one.message)]
    assert len(caught) == 2 and "None of the labelled images of 'd' (row 11) can be read" in lost[0]
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    expected = make("raise", images).fit(images, y[good])
    odds = classifier.predict_proba(rows)
    assert np.isnan(np.delete(odds, good, axis=0)).all()
    np.testing.assert_array_equal(odds[good], expected.predict_proba(images))
    assert np.isnan(np.delete(classifier.decision_function(rows), good, axis=0)).all()
    np.testing.assert_array_equal(classifier.predict(rows[good]), expected.predict(images))
    with pytest.raises(ValueError, match=r"predicted: rows \[2, 5, 11\]\. Leave these rows") as refused:
        classifier.predict(rows)
    # The parameter is named where it is set.
    holder = {SimCLRClassifier: "pretrained", DistilledClassifier: "student"}.get(type(classifier))
    grey = f"{holder}=SimCLRTransformer(..., on_error='grey')" if holder else " on_error='grey'"
    assert grey in str(refused.value) and grey in str(caught[0].message)
    with pytest.raises(ValueError, match="cannot be read|None of the .* can be read|Only 0 of"):
        make("nan", images).fit(rows[[2, 5, 11]], y[[0, 1, 2]])


@pytest.mark.filterwarnings("ignore:.* can(not)? be read")
def test_features_of_baselines_are_nan_where_nothing_can_be_read(damaged):
    rows, good, images, y = damaged
    for baseline in (SupervisedTransformer, AutoencoderTransformer):
        with pytest.raises(ValueError, match="3 of 12 images cannot be read"):
            baseline(**TINY).fit(rows, y)
        with pytest.warns(UserWarning, match="3 of 12 images cannot be read"):
            found = baseline(on_error="nan", **TINY).fit(rows, y)
        expected = baseline(**TINY).fit(images, y[good])
        features = found.transform(rows)
        assert np.isnan(np.delete(features, good, axis=0)).all()
        np.testing.assert_array_equal(features[good], expected.transform(images))
    again = found.reconstruct(rows)
    assert np.isnan(again[2]).all() and np.isfinite(again[good]).all()


def test_one_broken_file_in_a_pipeline(damaged):
    rows, good, images, _ = damaged
    y = np.arange(12) % 2
    for features in (PixelTransformer, HOGTransformer, SimCLRTransformer):
        own = TINY if features is SimCLRTransformer else {}
        model = make_pipeline(features(on_error="nan", **own), LogisticRegression())
        # What is refused further on is named before, with the way out.
        with (
            pytest.warns(UserWarning, match=r"(?s)row 2, '.*2\.png': .*on_error='grey'"),
            pytest.raises(ValueError, match="Input X contains NaN"),
        ):
            model.fit(rows, y)
        model.set_params(**{f"{features.__name__.lower()}__on_error": "grey"})
        with pytest.warns(UserWarning, match=r"(?s)3 of 12 images cannot be read:\n  row 2, '.*grey images"):
            model.fit(rows, y)
        with pytest.warns(UserWarning, match="3 of 12 images cannot be read"):
            H = model[:-1].transform(rows)
        np.testing.assert_array_equal(H[good], model[:-1].transform(images))
        # Rows that cannot be read are grey, and equal.
        if features is PixelTransformer:
            assert (H[2] == 0.5).all()
        assert np.isfinite(H).all() and (H[[5, 11]] == H[2]).all()
        assert np.array_equal(images, damaged[2])
        with pytest.warns(UserWarning, match="cannot be read"):
            assert set(model.predict(rows)) <= {0, 1}


def test_a_pipeline_reads_files_once_and_warns_once(damaged, monkeypatch):
    rows, good, images, _ = damaged
    decoded = []
    original = threads._decode_one
    monkeypatch.setattr(threads, "_decode_one", lambda *args: decoded.append(1) or original(*args))
    with pytest.warns(UserWarning, match="3 of 12 images cannot be read") as said:
        H = PixelTransformer(on_error="grey").fit_transform(rows)
    assert len(said) == 1 and len(decoded) <= len(rows)
    np.testing.assert_array_equal(H[good], PixelTransformer().fit_transform(images))


@pytest.mark.parametrize(
    "make",
    [PixelTransformer, SimCLRTransformer, AutoencoderTransformer, SupervisedTransformer, SimCLRClassifier],
)
def test_labels_of_another_number_are_refused_before_anything_is_read(make, tmp_path):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 2\]"):
        make().fit([tmp_path / "missing"] * 3, [0, 1])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 4\]"):
        make().fit(np.arange(192.0).reshape(3, 8, 8), pd.Series([0, 1, 0, 1]))


@pytest.mark.filterwarnings("ignore:.* images cannot be read")
def test_one_broken_file_in_searches_and_classifiers(damaged):
    rows, good, images, _ = damaged
    y = np.arange(12) % 2
    model = make_pipeline(PixelTransformer(on_error="grey"), LogisticRegression())
    search = GridSearchCV(model, {"logisticregression__C": [0.1, 1]}, cv=2, error_score="raise").fit(rows, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    classifier = SupervisedTransformer(on_error="grey", **TINY).fit(rows, y)
    expected = SupervisedTransformer(**TINY).fit(images, y[good])
    odds = classifier.predict_proba(rows)
    np.testing.assert_array_equal(odds[good], expected.predict_proba(images))
    grey = expected.set_params(pixel_range=(0, 255)).predict_proba(np.full((1, 8, 8, 3), 128, np.uint8))
    np.testing.assert_allclose(odds[2], grey[0], atol=0.02)
    assert classifier.predict(rows)[2] == classifier.classes_[odds[2].argmax()]


def test_baselines_resize_and_keep_files_as_simclr_does(tmp_path, monkeypatch):
    rows = [encoded(image, "PNG") for image in (*random_images(5, (9, 12, 3)), *random_images(5, (16, 8, 3)))]
    y = np.arange(10) % 2
    decoded = []
    monkeypatch.setattr(threads, "decode", lambda data, size=None: decoded.append(1) or decode(data, size))
    for baseline in (SupervisedTransformer, AutoencoderTransformer):
        found = baseline(image_size=8, cache_dir=tmp_path, **TINY).fit(rows, y)
        assert found.image_shape_ == (8, 8, 3)
        expected = baseline(**TINY).fit(pixels(rows, image_size=8), y)
        np.testing.assert_array_equal(found.transform(rows), expected.transform(pixels(rows, image_size=8)))
    assert len(decoded) == 10 + 40


def webp(kind, width, height):
    if kind == "VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    body = kind.encode() + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def avif(width, height):
    data = encoded(np.zeros((64, 96, 3), np.uint8), "AVIF")
    return data.replace(
        b"ispe" + struct.pack(">III", 0, 96, 64), b"ispe" + struct.pack(">III", 0, width, height)
    )


@pytest.mark.parametrize(
    "data",
    [webp("VP8X", 1 << 24, 1 << 24), webp("VP8L", 1 << 14, 1 << 14), webp("VP8 ", 16383, 16383)]
    + [pytest.param(lambda: avif(60_000, 60_000), id="avif")],
)
def test_sizes_are_looked_at_before_pillow_takes_memory(data, monkeypatch):
    data = data() if callable(data) else data
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        decode(data)


def test_sizes_in_heads_are_those_of_images(photo):
    """Of images that are read, the size that is looked at first is the size."""
    for name, options in (("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"a"}), ("AVIF", {})):
        data = encoded(photo, name, **options)
        with patch.object(_decode, "_check_size") as check:
            assert decode(data).shape == photo.shape
        assert {call.args for call in check.call_args_list} == {photo.shape[1::-1]}


def test_mutated_files_raise_nothing_else(photo, capsys, tiff):
    rng = np.random.default_rng(0)
    small = photo[100:132, 200:232]
    files = [
        encoded(small, "JPEG"),
        encoded(
            small,
            "JPEG",
            progressive=True,
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
        ),
        encoded(small, "PNG"),
        png16(small.astype(np.uint16) * 257, 2),
        encoded(small, "TIFF"),
        encoded(small, "TIFF", compression="tiff_lzw"),
        tiff(np.concatenate([small, small], axis=2), compression="deflate", predictor=True),
        tiff(np.concatenate([small, small], axis=2), compression="lzw", rowsperstrip=5),
        tiff(np.moveaxis(np.tile(small, 2), 2, 0), planarconfig="separate", tile=(16, 16), bigtiff=True),
    ]
    refused = 0
    with warnings.catch_warnings(), strict_decoders():
        # Those of the filters of the tests: any other is an error.
        for k in range(1500):
            data = bytearray(files[k % len(files)])
            for _ in range(rng.integers(1, 5)):
                # Heads matter most.
                last = len(data) if rng.random() < 0.5 else min(len(data), 200)
                data[rng.integers(last)] = rng.integers(256)
            if rng.random() < 0.1:
                del data[rng.integers(len(data)) :]
            try:
                image = decode(bytes(data), 16 if k % 3 == 0 else None)
            except ImageError:
                refused += 1
            else:
                assert image.ndim == 3 and image.dtype in (np.uint8, np.uint16)
    assert 150 < refused < 1470
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:.* images cannot be read")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files by /proc")
def test_open_files_do_not_pile_up(tmp_path):
    paths = [write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(random_images(4))]
    counts = []
    for _ in range(50):
        read_rows(paths)
        read_rows([*paths, tmp_path / "missing"], cache_dir=tmp_path / "cache", on_error="nan")
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1]


def test_many_images_decoded_between_two_looks_are_no_error(monkeypatch):
    monkeypatch.setattr(reading_time, "_BETWEEN_MARKS", 1e9)  # as where a chunk takes no time
    progress = reading_time.Progress(None, total=1000, max_time=1000.0, kept=False)
    for _ in range(100):
        progress.count()
    progress.check()
    assert progress.decoded == 100 and not progress.warned
