"""Delete each ``device=`` and each ``.to(device)`` of the package in turn: do the tests on the device notice?

Takes about half a minute for each place, hence it is run by hand, from the root of the repository::

    python tests/pretended/deletions.py [FILE ...]

The package is copied for that. The files are those of ``sklearn_simclr`` to look at; without arguments all.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = re.compile(
    r", device=[\w.]+(?:\[\w+\]|\(\))?(?=[,)])"
    r"|\.to\((?:[\w.]*device(?:\(\))?)(?:, non_blocking=\w+)?\)"
    r"|\.to\(plan\.device\)"
)


def deletions(text):
    """Yield the line of each place, what stands there, and the text without it."""
    for match in PLACES.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if not text.splitlines()[line - 1].lstrip().startswith(("def ", ">>>", "#")):
            yield line, match.group(), text[: match.start()] + text[match.end() :]


def noticed(folder):
    """Return whether the tests on the pretended device fail with the package in a folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    cases = folder / "tests" / "pretended" / "on_device.py"
    return subprocess.run([*command, cases], cwd=folder, env=environment, capture_output=True).returncode != 0


def main(names):
    package = ROOT / "sklearn_simclr"
    files = [package / name for name in names] or sorted(package.rglob("*.py"))
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "docs", "examples", "demo"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        found = []
        for file in files:
            text, copy = file.read_text(encoding="utf-8"), folder / file.relative_to(ROOT)
            for line, place, without in deletions(text):
                copy.write_text(without, encoding="utf-8")
                found.append(noticed(folder))
                print(
                    f"{'noticed' if found[-1] else 'MISSED':8}{file.relative_to(package)}:{line}  {place}",
                    flush=True,
                )
            copy.write_text(text, encoding="utf-8")
    print(f"{sum(found)} of {len(found)} deletions are noticed")


if __name__ == "__main__":
    main(sys.argv[1:])
