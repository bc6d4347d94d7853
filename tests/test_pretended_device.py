"""The package on a device that is none, which stands for every accelerator: see tests/pretended/."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_everything_works_on_the_pretended_device():
    registration = pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this version of torch has no devices that are written in Python")
    # Registering a kind of device changes torch for good, hence another process.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    cases = str(TESTS / "pretended" / "on_device.py")
    done = subprocess.run([*command, cases], capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
