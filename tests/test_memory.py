"""The peak of memory stays within the bounds that its benchmark states, each case in a process of its own."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only the peak of the whole life is known"
)

# Those that take a second or two, each of another part of the package.
QUICK = [
    "untrained fit, 2,048 x 96 px",
    "untrained fit, 91 x 224 px, 16 channels",
    "untrained fit, 64 x 16 px, 512 channels",
    "fit, 256 x 512 px",
    "transform, 1 x 2,048 px, HOG",
    "score, 256 x 224 px",
    "report, 200 x 224 px",
    "autoencoder, 8 x 512 px",
    "AugmentationDisplay, 4 x 2,048 px",
    "curl_logistic, 2 x 8,192",
    "key and check, 4,096 x 96 px, float32",
    "data set of tensors, 1,024 x 96 px",
]


def peak_and_bound(case):
    sys.path.insert(0, str(FOLDER))
    import memory

    function, arguments, bound = memory.CASES[case]
    return getattr(memory, function)(**arguments), bound


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK)
def test_peak_is_within_its_bound(forked, case):
    peak, bound = forked.run_alone(peak_and_bound, case)
    assert peak <= bound
