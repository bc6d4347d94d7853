"""The kind of decoded images, their channels and dtype, and the one that several kinds have in common."""

from typing import TypeAlias

from numpy.typing import NDArray

__all__ = ["Kind", "common_kind", "kind_of"]

# Channels and name of the dtype of an image.
Kind: TypeAlias = tuple[int, str]

# Names by character: dtype.name takes as long as the decoding of a small image.
_DTYPES = {"B": "uint8", "H": "uint16", "h": "int16", "f": "float32"}


def kind_of(image: NDArray) -> Kind:
    """Return the kind of a decoded image."""
    return image.shape[-1], _DTYPES[image.dtype.char]


def common_kind(kinds: set[Kind], wanted: Kind | None) -> Kind:
    """Return the channels and the dtype that images of several kinds have in common, or those wanted."""
    channels = {channels for channels, _ in kinds}
    if wanted is not None and channels | {wanted[0]} not in ({wanted[0]}, {1, 3}):
        raise ValueError(
            f"X has images with {sorted(channels)} channels, but images with {wanted[0]} channels were seen "
            "in fit. Pass images with the same number of channels."
        )
    if len(channels) > 1 and channels != {1, 3}:
        raise ValueError(
            f"X has images with {sorted(channels)} channels; only grey and RGB images can be mixed. Pass "
            "images with the same number of channels."
        )
    dtypes = {dtype for _, dtype in kinds}
    before = "" if wanted is None else wanted[1]
    # Black and white of 8 and of 16 bits are the same; other numbers are measurements, such as those of CT.
    plain, measured = {"uint8", "uint16"}, {"int16", "float32"}
    if not (dtypes | {before} - {""} <= plain or dtypes | {before} - {""} <= measured) or (
        before == "int16" and "float32" in dtypes
    ):
        raise ValueError(
            f"X has images of {' and '.join(sorted(dtypes))}"
            + (f", but images of {before} were seen in fit" if before else "")
            + ": their numbers have different meanings. Pass images of one dtype, or arrays that you scaled."
        )
    if not before:
        before = next(dtype for dtype in ("float32", "int16", "uint16", "uint8") if dtype in dtypes)
        if wanted is not None and dtypes <= plain:
            before = "uint8"
    return wanted[0] if wanted is not None else max(channels), before
