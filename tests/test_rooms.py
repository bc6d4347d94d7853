"""The rooms of docs/architecture.md: imports go down the list; what begins with ``_`` stays in its room."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sklearn_simclr"
ROOMS = ["inspection", "theory", "evaluation", "export", "estimators", "training"]
ROOMS += ["encoders", "views", "losses", "images", "_utils", "_version"]


def wrong_imports(path, source):
    """Return the imports of other rooms that go up, or reach for a private name."""
    package, found = path.relative_to(PACKAGE).parent.parts, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if re.match(r"sklearn_simclr|sklearn\..*\b_", a.name)]
        if not isinstance(node, ast.ImportFrom):
            continue
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        if node.level > len(package):
            here, there = package[0], names[0]
            upwards = there not in ROOMS or ROOMS.index(here) >= ROOMS.index(there)
            if upwards or any(name.startswith("_") for name in names[1:] if there != "_version"):
                found.append(ast.unparse(node))
        elif names[0] == "sklearn" and any(name.startswith("_") for name in names):
            found.append(ast.unparse(node))
    return found


def test_rooms_keep_the_order():
    files = {path: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*/**/*.py")}
    allowed = PACKAGE / "_utils" / "sklearn_private.py"
    found = {str(p): wrong_imports(p, text) for p, text in files.items() if p != allowed}
    assert len(files) > 60
    assert not {path: imports for path, imports in found.items() if imports}


def test_only_rooms_stand_at_the_top():
    top = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert top == {*ROOMS[:-1], "_version.py", "__init__.py", "__init__.pyi", "py.typed"}


def test_the_architecture_page_names_the_rooms_in_this_order():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE) == ROOMS[:-1]


@pytest.mark.parametrize(
    "room, source",
    [
        ("losses", "from ..encoders import heads"),
        ("losses", "from ..losses import nt_xent"),
        ("training", "from ..images._decode import decode"),
        ("training", "from ..images.source import _as_tensor"),
        ("training", "from .. import losses"),
        ("training", "import sklearn_simclr.losses"),
        ("training", "def f():\n    from ..estimators import SimCLRTransformer"),
        ("training", "from sklearn.base import _fit_context"),
        ("training", "import sklearn.utils._param_validation"),
    ],
)
def test_the_check_refuses(room, source):
    assert len(wrong_imports(PACKAGE / room / "module.py", source)) == 1


@pytest.mark.parametrize(
    "source",
    ["from ..losses import nt_xent", "from .._version import __version__", "from ._feed import make_feed"],
)
def test_the_check_accepts(source):
    assert wrong_imports(PACKAGE / "training" / "module.py", source) == []
