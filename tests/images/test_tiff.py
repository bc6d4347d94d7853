"""TIFFs that Pillow does not read whole: their pixels, bit by bit, and files that lie about their size."""

import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.datasets import load_sample_images

from sklearn_simclr import PixelTransformer
from sklearn_simclr.images import files, load_images
from sklearn_simclr.images.decode import ImageError, decode, strict_decoders
from sklearn_simclr.images.reading import read_rows
from sklearn_simclr.images.sizes import Target


def random_bands(shape=(23, 37, 5), dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype=dtype, endpoint=True)


def directory(tags, body=b""):
    """Return a TIFF of tags {tag: numbers}, all of type LONG, with a body at byte 8."""
    at = 8 + len(body)
    tail = at + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        raw = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(raw) > 4:
            raw, values = struct.pack("<I", tail + len(values)), values + raw
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + raw
    return (
        b"II*\0" + struct.pack("<I", at) + body + struct.pack("<H", len(tags)) + entries + bytes(4) + values
    )


# Pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 5, 13])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 5},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"compression": "deflate", "predictor": True, "rowsperstrip": 5},
        {"compression": "deflate", "byteorder": ">", "tile": (16, 32)},
        {"compression": "lzw", "predictor": True, "tile": (32, 16)},
        {"compression": "packbits"},
        {"compression": "lzma"},
        {"compression": "zstd", "predictor": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("planar", [False, True])
def test_every_layout_gives_the_pixels_that_were_tiff(dtype, channels, layout, planar, tiff):
    array = random_bands((23, 37, channels), dtype)
    if planar:
        data = tiff(np.moveaxis(array, 2, 0), planarconfig="separate", **layout)
    else:
        data = tiff(array, **layout)
    found = decode(data)
    assert found.dtype == dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_colours_of_sixteen_bits_and_a_fourth_band(tiff):
    array = random_bands((11, 7, 4), np.uint16)
    np.testing.assert_array_equal(decode(tiff(array[:, :, :3], photometric="rgb")), array[:, :, :3])
    infrared = random_bands((11, 7, 4))
    data = tiff(infrared, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode(data), infrared)


@pytest.mark.parametrize(("kind", "premultiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_transparent_parts_are_white(kind, premultiplied, tiff):
    array = random_bands((11, 7, 4), np.uint16)
    array[0, :, 3], array[1, :, 3] = 0, 65535
    if premultiplied:
        array[:, :, :3] = np.minimum(array[:, :, :3], array[:, :, 3:])
    found = decode(tiff(array, photometric="rgb", extrasamples=[kind]))
    colors, alpha = array[:, :, :3].astype(float), array[:, :, 3:] / 65535
    expected = (colors if premultiplied else colors * alpha) + 65535 * (1 - alpha)
    np.testing.assert_allclose(found, expected, atol=1)
    assert (found[0] == 65535).all()


def test_transparency_takes_little_memory(tiff):
    array = np.zeros((1000, 1000, 4), np.uint16)
    data = tiff(array, photometric="rgb", extrasamples=["unassalpha"], compression="deflate")
    decode(data)  # imports
    tracemalloc.start()
    try:
        assert (decode(data) == 65535).all()
        assert tracemalloc.get_traced_memory()[1] < 4 * array.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(orientation, tiff):
    array = random_bands((8, 12, 5))
    tag = [(274, "H", 1, orientation, True)]
    found = decode(tiff(array, extratags=tag))
    for channel in range(5):
        expected = decode(tiff(array[:, :, channel], extratags=tag))
        np.testing.assert_array_equal(found[:, :, channel], expected[:, :, 0])


def test_bands_are_resized_as_colours_are(tiff):
    photo = load_sample_images().images[0]
    bands = np.concatenate([photo, photo[:, :, :2]], axis=2)
    target = Target(50, 60, crop=False)
    found, expected = decode(tiff(bands), target), decode(tiff(photo, photometric="rgb"), target)
    assert np.abs(found[:, :, :3].astype(int) - expected).max() <= 1
    assert decode(tiff(bands.astype(np.uint16) * 257), target).dtype == np.uint16


# Numbers


@pytest.mark.parametrize(
    ("dtype", "found"),
    [("i1", "i2"), ("<i2", "i2"), (">i2", "i2"), ("f2", "f4"), ("<f4", "f4"), (">f4", "f4"), ("f8", "f4")]
    + [("<i4", "f4"), (">u4", "f4")],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("layout", [{}, {"compression": "deflate", "predictor": True, "rowsperstrip": 5}])
def test_signed_and_floating_point_numbers_stay_what_they_are(dtype, found, channels, layout, tiff):
    scale = 1 << 20 if dtype[1] in "ui" and dtype[2:] == "4" else 40
    array = np.random.default_rng(0).standard_normal((23, 37, channels)) * scale
    array = (np.abs(array) if "u" in dtype else array).astype(dtype)
    image = decode(
        tiff(
            array[:, :, 0] if channels == 1 else array,
            byteorder=np.dtype(dtype).byteorder.replace("|", "<"),
            **layout,
        )
    )
    assert image.dtype == found and image.dtype.isnative
    np.testing.assert_array_equal(image, array.astype(found))


def test_numbers_that_are_none_are_refused(tiff):
    array = np.zeros((8, 8), np.float32)
    array[2, 3], array[4, 5] = np.nan, np.inf
    with pytest.raises(ImageError, match="2 of its 64 numbers are NaN or infinite"):
        decode(tiff(array))


def test_files_of_measurements_and_arrays_give_the_same_representations(tmp_path, tiff):
    """Signs survive reading, resizing, the cache and the search for a range."""
    rng = np.random.default_rng(0)
    for dtype, array in (
        ("int16", rng.integers(-1024, 3000, (8, 12, 12))),
        ("float32", rng.standard_normal((8, 12, 12))),
    ):
        array = array.astype(dtype)
        files = [tiff(image) for image in array]
        by_array = PixelTransformer().fit(array)
        for cache_dir in (None, tmp_path, tmp_path):
            by_file = PixelTransformer(cache_dir=cache_dir).fit(files)
            np.testing.assert_array_equal(by_file.transform(files), by_array.transform(array))
            np.testing.assert_array_equal(by_file.transform(array), by_array.transform(array))
            np.testing.assert_array_equal(by_array.transform(files), by_array.transform(array))
        assert load_images(files).dtype == dtype
        pixels = read_rows(files, image_size=Target(6, 6, crop=True)).pixels
        assert pixels.dtype == dtype and pixels.min() < 0


def test_measurements_and_pictures_are_not_mixed(tiff):
    rng = np.random.default_rng(0)
    pictures = [tiff(rng.integers(0, 255, (8, 8), dtype=np.uint8)) for _ in range(3)]
    scans = [tiff(rng.integers(-9, 9, (8, 8)).astype(np.int16)) for _ in range(3)]
    fractions = [tiff((40 * rng.standard_normal((8, 8))).astype(np.float32)) for _ in range(3)]
    with pytest.raises(ValueError, match="int16 and uint8: their numbers have different meanings"):
        read_rows(pictures + scans)
    for first, second in ((pictures, scans), (scans, pictures), (scans, fractions)):
        with pytest.raises(ValueError, match=r"images of .* but images of .* were seen in fit"):
            PixelTransformer().fit(first).transform(second)
    assert read_rows(scans + fractions).pixels.dtype == np.float32
    same = PixelTransformer().fit(fractions + scans)
    assert same.transform(scans + fractions).shape == (6, 64)


# Pages


def pages(array, pillow=False, **options):
    """Return a TIFF with a page for each image (n, H, W) or (n, H, W, C)."""
    file = io.BytesIO()
    if pillow:
        first, *others = map(Image.fromarray, array)
        first.save(file, "TIFF", save_all=True, append_images=others, **options)
    else:
        photometric = "rgb" if array.shape[-1] == 3 else "minisblack"
        with tifffile.TiffWriter(
            file, **{key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
        ) as writer:
            for page in array:
                writer.write(page, **{"metadata": None, "photometric": photometric} | options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("n", [2, 3, 4, 11])
@pytest.mark.parametrize(
    "options",
    [{"pillow": True}, {}, {"compression": "deflate", "predictor": True}, {"tile": (16, 16)}]
    + [{"bigtiff": True}, {"byteorder": ">"}, {"subfiletype": 2}],
    ids=str,
)
def test_grey_pages_of_one_size_are_channels(dtype, n, options, tiff):
    array = (np.random.default_rng(0).random((n, 9, 13)) * 200).astype(dtype)
    if options.get("pillow") and dtype in ("i2", "f4"):
        options = {}
    image = decode(pages(array, **options))
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, np.moveaxis(array, 0, -1))


@pytest.mark.parametrize("kind", ["imagej", "one page", "ome", "shaped", "truncated"])
def test_stacks_of_other_programs(kind):
    array = random_bands((2, 3, 9, 13), np.uint16)
    file = io.BytesIO()
    if kind == "one page":  # as ImageJ writes large ones: all planes behind one page
        data = array.astype(">u2").tobytes()
        text = b"ImageJ=1.53\nimages=6\nchannels=3\nslices=2\n\0"
        with tifffile.TiffWriter(file, byteorder=">") as writer:
            writer.write(array[0, 0], metadata=None, description=text[:-1].decode(), photometric="minisblack")
        at = file.seek(0, 2)
        start = file.getvalue().index(array[0, 0].astype(">u2").tobytes())
        assert start + array[0, 0].nbytes == at
        file.write(data[array[0, 0].nbytes :])
    else:
        options = {"imagej": {"imagej": True}, "ome": {"ome": True}, "truncated": {"truncate": True}}.get(
            kind, {}
        )
        more = {} if "imagej" in options else {"photometric": "minisblack"}
        tifffile.imwrite(
            file, array, **options, **more, metadata={"axes": "ZCYX"} if kind != "truncated" else {}
        )
    np.testing.assert_array_equal(decode(file.getvalue()), np.moveaxis(array.reshape(6, 9, 13), 0, -1))


def test_planes_that_are_not_there_are_refused():
    file = io.BytesIO()
    text = "ImageJ=1.53\nimages=6000\n"
    tifffile.imwrite(file, random_bands((9, 13)), metadata=None, description=text)
    with pytest.raises(ImageError, match="claims 6000 planes"):
        decode(file.getvalue())


def test_truncated_stacks_are_never_half_images():
    array = random_bands((5, 9, 13))
    for data in (pages(array), pages(array, pillow=True)):
        with strict_decoders():
            for end in range(0, len(data), 7):
                try:
                    found = decode(data[:end])
                except ImageError:
                    continue
                np.testing.assert_array_equal(found, np.moveaxis(array, 0, -1))


def mixed(*arrays, **options):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for k, array in enumerate(arrays):
            photometric = "rgb" if array.shape[-1] == 3 else "minisblack"
            writer.write(array, metadata=None, photometric=photometric, **(options if k else {}))
    return file.getvalue()


GREY, COLOR = random_bands((9, 13)), random_bands((9, 13, 3))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (pages(random_bands((4, 9, 13, 3))), "4 pages, of which the first is not grey"),
        (pages(random_bands((3, 9, 13, 5)), planarconfig="contig"), "3 pages, of which the first is not"),
        (pages(random_bands((4, 9, 13)) > 99), "4 pages, whose pixels have 1 bits and sample format 1: ch"),
        (mixed(GREY, GREY[:5]), "2 pages, which differ in size"),
        (mixed(GREY, COLOR), "2 pages, which differ"),
        (mixed(GREY, GREY.astype(np.uint16)), "2 pages, which differ in size or kind"),
        (mixed(COLOR, GREY, GREY[::2, ::2]), "3 pages, of which the first is not grey"),
    ],
)
def test_of_other_pages_the_first_is_read_and_a_warning_says_so(data, count):
    with pytest.warns(UserWarning, match=f"first page of 2 TIFFs.*{count}.*ImageSequence"):
        found = read_rows([data, data]).pixels
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0].asarray()
    np.testing.assert_array_equal(found[0].squeeze(), first * 255 if first.dtype == bool else first)


def test_reduced_copies_are_no_channels_and_no_news():
    data = mixed(GREY, GREY, GREY[::2], subfiletype=1)
    np.testing.assert_array_equal(read_rows([data]).pixels[0, :, :, 0], GREY)


def test_white_is_zero(tiff):
    array = random_bands((3, 9, 13))
    found = decode(pages(array, photometric="miniswhite"))
    np.testing.assert_array_equal(found, 255 - np.moveaxis(array, 0, -1))
    np.testing.assert_array_equal(found[:, :, :1], decode(tiff(array[0], photometric="miniswhite")))
    deep = tiff(array[0].astype(np.uint16) * 257, photometric="miniswhite")
    np.testing.assert_array_equal(decode(deep), 257 * found[:, :, :1].astype(np.uint16))
    opaque = np.stack([array[0], np.full_like(array[0], 255)], axis=-1)
    seen = decode(tiff(opaque, photometric="miniswhite", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(seen, found[:, :, :1])


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    "kind", ["grey", "stack", "int16", "float32", "int32", "uint32", "deep colours", "turned", "white is 0"]
)
def test_an_opened_tiff_is_read_as_its_file_is(kind, loaded, tiff, tmp_path):
    data = {
        "grey": lambda: tiff(GREY),
        "stack": lambda: pages(random_bands((4, 9, 13))),
        "int16": lambda: tiff(GREY.astype(np.int16) - 99),
        "float32": lambda: tiff(GREY.astype(np.float32) - 99),
        "int32": lambda: tiff((GREY.astype(np.int32) - 99) << 20),
        "uint32": lambda: tiff(GREY.astype(np.uint32) << 24),
        "white is 0": lambda: tiff(GREY.astype(np.uint16), photometric="miniswhite"),
        "deep colours": lambda: tiff(random_bands((9, 13, 3), np.uint16), photometric="rgb"),
        "turned": lambda: tiff(GREY, extratags=[(274, "H", 1, 6, True)]),
    }[kind]()
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    if loaded:
        image.load()
        if kind == "deep colours":
            return  # Pillow has dropped half of the bits
        if kind == "stack":
            with pytest.warns(UserWarning, match="4 pages, but was passed as a loaded Pillow image"):
                assert read_rows([image]).pixels.shape == (1, 9, 13, 1)
            return
    by_path = read_rows([path]).pixels
    by_image = read_rows([image]).pixels
    assert by_path.dtype == by_image.dtype
    np.testing.assert_array_equal(by_image, by_path)


def test_files_too_large_to_be_read_at_once(tmp_path, monkeypatch, tiff):
    array = random_bands((200, 300, 5))
    path = tmp_path / "large.tif"
    path.write_bytes(tiff(array, compression="deflate"))
    monkeypatch.setattr(files, "READ_AT_ONCE", 1000)
    np.testing.assert_array_equal(read_rows([path]).pixels[0], array)


# Refusals


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        (np.complex64, {}, "64 bits of sample format 6.*load it as an array"),
        (np.uint64, {}, "64 bits of sample format 1.*load it as an array"),
        (np.uint8, {"compression": "jpegxl"}, "compression, 50002,.*'LZW'"),
        (np.uint8, {"volumetric": True, "tile": (1, 16, 16)}, "axes, ZYXS, are not"),
    ],
)
def test_other_kinds_are_refused(dtype, options, message, tiff):
    with pytest.raises(ImageError, match=message):
        decode(tiff(np.zeros((2, 16, 16, 5), dtype), **options))


def test_a_predictor_without_a_compression_is_refused():
    tags = {256: [2], 257: [2], 258: [8] * 5, 262: [1], 273: [8], 277: [5], 278: [2], 279: [20], 317: [2]}
    with pytest.raises(ImageError, match="predictor, 2, but no compression"):
        decode(directory(tags, bytes(20)))


def test_without_its_libraries_the_error_says_what_to_install(monkeypatch, tiff):
    array = random_bands()
    plain, deflated = tiff(array), tiff(array, compression="deflate")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "imagecodecs", None)
        np.testing.assert_array_equal(decode(plain), array)
        with pytest.raises(ImageError, match=r'imagecodecs.*pip install "sklearn-simclr\[tiff\]"'):
            decode(deflated)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match=r'tifffile.*pip install "sklearn-simclr\[tiff\]"'):
        decode(plain)
    np.testing.assert_array_equal(decode(tiff(array[:, :, :3], photometric="rgb")), array[:, :, :3])


def claims(width, height, channels, *, tile=None, bits=8, body=bytes(8), compression=1):
    """Return a TIFF of one strip or tile."""
    tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [compression], 262: [1]}
    tags |= {277: [channels], 322: [tile], 323: [tile]} if tile else {277: [channels], 278: [height]}
    return directory(tags | ({324: [8], 325: [len(body)]} if tile else {273: [8], 279: [len(body)]}), body)


BOMB = zlib.compress(bytes(100 << 20))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (claims(60_000, 60_000, 5), "60000 x 60000 pixels of 5 channels.*limit"),
        (claims(1 << 31, 1, 5), "2147483648 x 1 pixels.*limit"),
        (claims(10, 10, 65_000, tile=4096), r"65000 channels.*4096 x 4096.*limit"),
        (claims(1, 1, 200, bits=16, tile=4098, body=BOMB, compression=8), "4098.*limit"),
        (claims(6000, 6000, 3, bits=16, tile=1), "tiles or strips are missing"),
        (claims(9000, 9000, 3, bits=16), "truncated"),
        (claims(9000, 9000, 3, bits=16, body=b"", compression=8), "tiles or strips are missing"),
        (claims(1000, 1000, 5, body=BOMB, compression=8), "damaged"),
        (claims(0, 16, 5), "no pixels"),
        (claims(6000, 6000, 1, tile=1), "tiles or strips are missing"),
        (claims(6000, 6000, 1, bits=16, tile=1), "tiles or strips are missing"),
        (claims(6000, 6000, 3, tile=1), "tiles or strips are missing"),
        (claims(1, 1, 15, bits=16, tile=4098, body=BOMB, compression=8), "four times its pixels"),
        (claims(1, 1, 1, tile=16000, body=BOMB, compression=8), "four times its pixels"),
        (claims(1, 1, 1, tile=46000, body=BOMB, compression=8), "limit"),
        (claims(60_000, 60_000, 1), "limit"),
        (claims(16, 16, 1 << 20), "claim more bytes|damaged"),
        (
            b"II*\0"
            + struct.pack("<I", 8)
            + struct.pack("<H", 65535)
            + struct.pack("<HHII", 300, 1, 1 << 31, 8) * 65535,
            "tags claim",
        ),
        (
            b"II*\0"
            + struct.pack("<I", 8)
            + struct.pack("<HHHIII", 1, 258, 3, 1 << 22, 8, 0)
            + bytes(9 << 20),
            "tags claim",
        ),
    ],
)
def test_files_that_claim_too_much_are_refused_before_they_take_memory(data, message):
    import imagecodecs  # noqa: F401 (its import would count)

    tracemalloc.start()
    try:
        with strict_decoders(), pytest.raises(ImageError, match=message):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < len(data) + (20 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("at", [0, 1 << 30])
def test_a_tile_elsewhere_is_no_tile_of_zeros(at):
    tags = {256: [16], 257: [32], 258: [8] * 5, 262: [1], 277: [5], 322: [16], 323: [16]}
    body = bytes(2 * 16 * 16 * 5)
    good = {324: [8, 8 + len(body) // 2], 325: [len(body) // 2] * 2}
    assert decode(directory(tags | good, body)).shape == (32, 16, 5)
    with strict_decoders(), pytest.raises(ImageError, match="missing|truncated"):
        decode(directory(tags | good | {324: [8, at]}, body))


def test_narrow_images_in_wide_tiles_are_read(tiff):
    array = random_bands((5000, 2))
    np.testing.assert_array_equal(decode(tiff(array, tile=(512, 4096)))[:, :, 0], array)


def test_the_limit_is_pillows(monkeypatch, tiff):
    data = tiff(random_bands((30, 10, 5)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert decode(data).shape == (30, 10, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 499)
    with pytest.raises(ImageError, match="3 x PIL.Image.MAX_IMAGE_PIXELS = 1497"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data).shape == (30, 10, 5)


@pytest.mark.parametrize(
    "layout", [{}, {"tile": (16, 16)}]
    + [{"compression": name, "rowsperstrip": 5} for name in ("deflate", "lzw", "packbits", "lzma", "zstd")],
    ids=str,
)  # fmt: skip
def test_truncated_files_are_never_half_images(layout, tiff):
    array = random_bands((16, 16, 5))
    data = tiff(array, **layout)
    with strict_decoders():
        for end in range(0, len(data), max(1, len(data) // 150)):
            try:
                found = decode(data[:end])
            except ImageError:
                continue
            # What is missing can only be what comes after the pixels.
            np.testing.assert_array_equal(found, array)


def test_a_strip_that_is_too_short_is_refused():
    whole = zlib.compress(bytes(16 * 16 * 5))
    assert decode(claims(16, 16, 5, body=whole, compression=8)).shape == (16, 16, 5)
    for body in (zlib.compress(bytes(16 * 16 * 5 - 1)), whole[:-5]):
        with strict_decoders(), pytest.raises(ImageError, match="damaged"):
            decode(claims(16, 16, 5, body=body, compression=8))
    with strict_decoders(), pytest.raises(ImageError, match="truncated"):
        decode(claims(16, 16, 5, body=bytes(16 * 16 * 5 - 1)))


def test_an_opened_image_is_the_same_again_and_beside_a_mask(tmp_path):
    path = tmp_path / "a.tif"
    stack = np.random.default_rng(0).integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    tifffile.imwrite(path, stack, photometric="minisblack")
    with Image.open(path) as image:
        for _ in range(2):
            np.testing.assert_array_equal(
                load_images([image, image]), np.stack([np.moveaxis(stack, 0, -1)] * 2)
            )
    with tifffile.TiffWriter(path) as file:
        file.write(stack[0] // 257)
        file.write(stack[0] > 9, subfiletype=4)  # which Pillow cannot read
    with Image.open(path) as image:
        image.load()
        for _ in range(2):
            np.testing.assert_array_equal(load_images([image])[0, ..., 0], stack[0] // 257)
