"""List images that cannot be read or that differ in size, in one error or warning."""

from typing import Any

from numpy.typing import NDArray

from .._utils.types import OnError
from .._utils.warn import warn
from .decode import ImageError
from .files import NoSuchFile
from .items import name_of
from .kinds import Kind

__all__ = ["Faults", "MissingImagesError"]

# Bad images and odd sizes that a message lists; reading ends soon after as many were found.
_LISTED = 10


class MissingImagesError(FileNotFoundError, ValueError):
    """Image files that do not exist."""


class Faults:
    """Images that cannot be read or have another size, collected until they are reported.

    `setting` is how messages show a parameter of reading, with {} in the place of the parameter.
    """

    def __init__(
        self, n: int, rows: list[Any], on_error: OnError, advice: str | None = None, setting: str = "{}"
    ) -> None:
        self.n, self.rows, self.on_error, self.setting = n, rows, on_error, setting
        self.grey = setting.format("on_error='grey'")
        self.advice = advice or (
            f"Leave these images out of X, or pass {self.grey}: fit then leaves them out, and transform and "
            "predict take them for grey images. With 'nan' instead of 'grey', transform gives rows of NaN."
        )
        self.bad: dict[int, ImageError] = {}
        # The row of the first image, -1 before there is one, and its size.
        self.first, self.size = -1, (0, 0)
        self.odd: list[tuple[int, tuple[int, ...]]] = []
        self.kinds: set[Kind] = set()
        self.seen = 0

    def good(self, chunk: list[tuple[int, NDArray | ImageError]]) -> list[tuple[int, NDArray]]:
        """Return the (row, image) of a chunk that could be read."""
        good = []
        for i, image in chunk:
            self.seen += 1
            if isinstance(image, Exception):
                self.bad[i] = image
            elif self.check_size(i, image.shape[:2]):
                good.append((i, image))
        if len(self.odd) >= _LISTED or (self.on_error == "raise" and len(self.bad) >= _LISTED):
            self.finish(all_seen=self.seen == self.n)
        return good

    def check_size(self, i: int, size: tuple[int, int]) -> bool:
        """Return whether the image of a row has the size of the first."""
        if self.first < 0:
            self.first, self.size = i, size
        if size == self.size:
            return True
        self.odd.append((i, size))
        return False

    def finish(self, all_seen: bool = True) -> None:
        """Raise or warn about the images that were collected."""
        if self.bad:
            lines = [f"row {i}, {name_of(self.rows[i])}: {self.bad[i]}" for i in sorted(self.bad)[:_LISTED]]
            more = len(self.bad) - _LISTED
            lines += [f"and {more} more" if more > 0 else ""] if all_seen else ["and perhaps more"]
            count = f"{len(self.bad)}" if all_seen else f"At least {len(self.bad)}"
            found = (
                f"{count} of {self.n} images cannot be read:\n  " + "\n  ".join(filter(None, lines)) + "\n"
            )
            if self.on_error == "raise":
                missing = all(isinstance(reason, NoSuchFile) for reason in self.bad.values())
                raise (MissingImagesError if missing else ValueError)(f"{found}{self.advice}")
            if self.on_error == "grey":
                warn(
                    f"{found}These images are left out of a fit; transform and predict take them for grey "
                    "images."
                )
            else:
                warn(
                    f"{found}These images are left out of a fit; transform gives rows of NaN for them, which "
                    f"many classifiers refuse. Pass {self.grey} to have transform take them for grey images."
                )
        if self.odd:
            lines = [f"row {i}, {name_of(self.rows[i])}: {h} x {w}" for i, (h, w) in self.odd[:_LISTED]]
            resized = self.setting.format("image_size='auto'")
            raise ValueError(
                f"Images of mixed sizes (height x width). Row {self.first}, "
                f"{name_of(self.rows[self.first])}, is {self.size[0]} x {self.size[1]}, but\n  "
                + "\n  ".join(lines)
                + ("\n  and perhaps more" if len(self.odd) > _LISTED or not all_seen else "")
                + f"\nPass {resized}, the side of a square, or (height, width) to have all images resized."
            )
