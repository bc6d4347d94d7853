"""Lines of Python that bring images to the size of fit as fit did, without this package."""

from typing import Any

from ..images.sizes import check_image_size

__all__ = ["pixels_recipe"]

_BOX = """
def box(width, height):
    across, down = min(width, height * {width} / {height}), min(height, width * {height} / {width})
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, min(left + across, width), min(top + down, height)
"""

_WHOLE_BOX = """
def box(width, height):
    return 0, 0, width, height
"""

_FILES = """
def pixels(path):  # of a file with 8 bits per channel, turned upright, as fit has read it
    image = Image.open(path)
    if image.format in ("JPEG", "MPO"):  # decoded at 1/2, 1/4 or 1/8 where that is still large enough
        width, height = image.size
        if turned := image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        left, top, right, bottom = box(width, height)
        scale = 2 * max({width} / (right - left), {height} / (bottom - top))
        least = math.ceil(width * scale), math.ceil(height * scale)
        image.draft(image.mode, least[::-1] if turned else least)
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:  # over white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != ({width}, {height}):
        image = image.resize(({width}, {height}), Image.Resampling.BILINEAR, box=box(*image.size))
    return np.asarray(image{to_mode})

X = np.stack([pixels(path) for path in paths])"""

_ARRAYS = """
def resized(plane):  # one channel of an image
    if plane.dtype == bool:
        plane = plane * np.uint8(255)
    if plane.shape == ({height}, {width}):
        return plane
    image = Image.fromarray({plane})
    size, part = ({width}, {height}), box(*image.size)
    found = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=part))
    if plane.dtype.kind != "f" and found.dtype.kind == "f":
        found = found.round()
    return found.clip(plane.min(), plane.max()).astype(plane.dtype)

X = np.stack([{image} for image in images])  # images: a list of arrays {shape}"""


def pixels_recipe(estimator: Any) -> list[str]:
    """Return the lines that bring images to the size of fit, none where they have it.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    lines : list of str
        They define ``X``, of ``paths`` or ``images``.
    """
    fmt = estimator._format
    image_size = estimator._reading().image_size
    if not fmt.decoded_dtype and (image_size is None or isinstance(image_size, str) or fmt.flat):
        return []
    channels, height, width = fmt.shape
    target = check_image_size(image_size)
    crop = not isinstance(target, tuple) or target.crop
    names = {"height": height, "width": width}
    text = (_BOX if crop else _WHOLE_BOX).format(**names)
    if fmt.decoded_dtype == "uint8" and channels in (1, 3):
        to_mode = '.convert("L")' if channels == 1 else ""
        text += _FILES.format(**names, to_mode=to_mode)
        imports = ["import math", "import numpy as np", "from PIL import Image, ImageOps"]
    else:
        image = "resized(image)"
        if fmt.layout != "HW":
            axis = 2 if fmt.layout == "HWC" else 0
            image = f"np.stack([resized(p) for p in np.moveaxis(image, {axis}, 0)], {axis})"
        floats = "plane.astype(np.float32)"
        plane = f"plane if plane.dtype == np.uint8 else {floats}" if channels in (1, 3) else floats
        shape = "(H, W)" if fmt.layout == "HW" else "(H, W, C)" if fmt.layout == "HWC" else "(C, H, W)"
        text += _ARRAYS.format(**names, image=image, plane=plane, shape=shape)
        imports = ["import numpy as np", "from PIL import Image"]
    return [*imports, *text.splitlines()]
