"""Files at addresses such as s3:// and https://, read through fsspec."""

import os
from typing import BinaryIO, cast

from .._utils.places import is_address
from .._utils.warn import shortened

__all__ = ["RemoteError", "address_advice", "open_remote", "read_remote"]

# Most bytes of a file that is read over a network, and bytes that are asked for at a time.
_MOST = 64 << 20
_BLOCK = 64 << 10


class RemoteError(ValueError):
    """Why a file at an address cannot be read."""


def address_advice(path: str | os.PathLike[str]) -> str | None:
    """Return what to do about an address where a folder or a file of this machine has to be, else None."""
    if not is_address(path):
        return None
    return (
        "it is an address, but only local folders are listed; list the address with "
        "fsspec.open_files(address + '/**.jpg'), and pass the addresses of the images"
    )


def open_remote(address: str) -> BinaryIO:
    """Open a file at an address.

    Parameters
    ----------
    address : str
        Any address that fsspec knows, except a chain of several addresses: a chain might write to this
        machine.

    Returns
    -------
    binary file
        To be closed.

    Raises
    ------
    RemoteError
        If fsspec, or what it needs for such addresses, is missing; if there is no such file, or if it cannot
        be read.
    """
    if "::" in address or "://" not in address:
        raise RemoteError("it is not an address that can be read: pass a str such as 's3://bucket/a.png'")
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(address)
        return cast(BinaryIO, system.open(path, "rb", block_size=_BLOCK))
    except ImportError as error:
        raise RemoteError(
            f"it is an address, for which a package is missing ({error}): pip install "
            '"sklearn-simclr[remote]" and the package named here, or download the file and pass its path'
        ) from None
    except Exception as error:
        raise RemoteError(_why(error)) from None


def read_remote(address: str) -> bytes:
    """Return the bytes of a file at an address.

    Parameters
    ----------
    address : str
        As for `open_remote`.

    Returns
    -------
    bytes
        At most 64 MiB.

    Raises
    ------
    RemoteError
        As from `open_remote`, or if the file is larger.
    """
    with open_remote(address) as file:
        try:
            data = file.read(_MOST + 1)
        except Exception as error:
            raise RemoteError(_why(error)) from None
    if len(data) > _MOST:
        raise RemoteError(
            f"it has more than the {_MOST >> 20} MiB that are read from an address; download the file and "
            "pass its path"
        )
    return data


def _why(error: Exception) -> str:
    """Return the reason that one of the many file systems of fsspec gives."""
    if isinstance(error, FileNotFoundError):
        return "no such file at this address"
    return f"it cannot be read at this address ({type(error).__name__}: {shortened(str(error))})"
