"""The rooms of docs/development/architecture.md: imports go down the list; ``_name`` stays in its room."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sklearn_simclr"
PAGE = ROOT / "docs" / "development" / "architecture.md"
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
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE) == ROOMS[:-1]


def test_the_architecture_page_names_files_and_functions_that_are_there():
    page = PAGE.read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:\w+/)+\w+\.pyi?)`", page))
    assert len(files) > 30
    missing = {file for file in files if not any((top / file).is_file() for top in (PACKAGE, ROOT))}
    assert not missing
    said = re.findall(r"((?:`\w+`(?:, | and | or )?)+) (?:of|in) `(\w+/[\w/]+\.py)`", page)
    assert len(said) > 20
    for names, file in said:
        words = set(re.findall(r"\w+", (PACKAGE / file).read_text(encoding="utf-8")))
        assert words >= set(re.findall(r"`(\w+)`", names)), file


@pytest.fixture
def draw(tmp_path):
    """Return docs/draw_architecture.py as a module, to work on a copy of the page."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAGE = tmp_path / PAGE.name
    module.PAGE.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    return module


def test_the_pictures_of_the_architecture_page_are_those_of_the_source(draw):
    assert list(draw.ROOMS) == ROOMS[:-1]
    draw.main(["--check"])


def test_an_old_picture_is_refused_and_drawn_anew(draw):
    true = draw.PAGE.read_text(encoding="utf-8")
    for arrow in (" --> ", " ==> "):  # an import between rooms, a step of the path
        draw.PAGE.write_text(true.replace(arrow, " -.-> ", 1), encoding="utf-8")
        with pytest.raises(SystemExit, match="no longer so. Run: python docs/draw_architecture.py"):
            draw.main(["--check"])
        draw.main([])
        assert draw.PAGE.read_text(encoding="utf-8") == true


@pytest.mark.parametrize("name", ["SPINE", "OPENED", "EXPLAINED", "HANDED"])
def test_a_path_that_the_source_does_not_take_is_not_drawn(draw, name):
    if name == "SPINE":
        draw.SPINE.insert(1, "training/feed.py:make_feed")
    elif name == "HANDED":
        draw.HANDED["Loop._step", "self.step"] = ("torch:step", "training/loop.py:Loop._step")
    else:
        getattr(draw, name).add("training/clock.py:Clock.resumed")
    with pytest.raises(SystemExit, match="out of date"):
        draw.main(["--check"])


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


# What asks for the kind of a device, or calls what one kind has.
KINDS = re.compile(
    r"""\.type\s*(?:[=!]=|(?:not\s+)?in\b)|\bis_(?:cuda|xpu|mps)\b|\btorch\.(?:cuda|xpu|mps)\b"""
)


def test_only_one_module_knows_kinds_of_devices():
    files = {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
    }
    found = {file for file, text in files.items() if KINDS.search(text)}
    assert found == {"_utils/devices.py"}


@pytest.mark.parametrize(
    "source",
    [
        'if x.device.type == "cuda":',
        "kind.type not in FUSED",
        "z.is_cuda",
        "torch.cuda.Stream()",
        "torch.mps",
    ],
)
def test_the_check_refuses_kinds_of_devices(source):
    assert KINDS.search(source)
