"""What several modules about images share: TIFFs, written by tifffile."""

import io

import pytest


@pytest.fixture(scope="session")
def tiff():
    """Write an array (H, W, C) as the bytes of a TIFF; its channels are no colours unless options say so."""
    import tifffile

    def write(array, **options):
        file = io.BytesIO()
        defaults = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
        tifffile.imwrite(file, array, **(defaults | options))
        return file.getvalue()

    return write
