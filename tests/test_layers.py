"""The layers of docs/architecture.md: who may import whom, read from the source with ``ast``."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "sklearn_simclr"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# A module imports only modules of a smaller number. __init__ stands outside: it may import all of them,
# none imports it.
LAYERS = {
    "_cache": 0,
    "_checkpoint": 0,
    "_clock": 0,
    "_compact": 0,
    "_container": 0,
    "_curve_steps": 0,
    "_feed": 0,
    "_findings": 0,
    "_gradcache": 0,
    "_items": 0,
    "_logistic": 0,
    "_mapped": 0,
    "_onnx": 0,
    "_plotting": 0,
    "_posterior": 0,
    "_preprocessing": 0,
    "_report_figure": 0,
    "_report_page": 0,
    "_resnet": 0,
    "_rows": 0,
    "_state": 0,
    "_store": 0,
    "_tensor_bundle": 0,
    "_tiff": 0,
    "_transfer_checks": 0,
    "_validation": 0,
    "_views": 0,
    "_warn": 0,
    "curl_bounds": 0,
    "datasets": 0,
    "diagnostics": 0,
    "heads": 0,
    "label_savings": 0,
    "losses": 0,
    "metrics": 0,
    "optimizers": 0,
    "pac_bayes": 0,
    "_decode": 1,
    "_labels": 1,
    "_loop": 1,
    "_networks": 1,
    "_watch": 1,
    "_weight_files": 1,
    "_weight_names": 1,
    "augmentation": 1,
    "encoders": 1,
    "files": 1,
    "image_formats": 1,
    "training_display": 1,
    "_curve_tasks": 2,
    "_label_fraction_base": 2,
    "_net": 2,
    "_reading": 2,
    "_supervised": 2,
    "images": 2,
    "pretrained": 2,
    "splitters": 2,
    "theory": 2,
    "_base": 3,
    "augmentation_display": 3,
    "embedding_display": 3,
    "label_fraction": 3,
    "similarity_display": 3,
    "tasks": 3,
    "_curve_plan": 4,
    "_mirror": 4,
    "_representation": 4,
    "features": 4,
    "linear_evaluation": 4,
    "weighted_knn": 4,
    "_training": 5,
    "curve": 5,
    "pac_bayes_encoder": 5,
    "report": 5,
    "_classification": 6,
    "label_fraction_display": 6,
    "transformer": 6,
    "baselines": 7,
    "classifier": 7,
    "distillation": 7,
    "_estimator_files": 8,
    "_multilabel": 8,
    "export": 9,
    "transfer": 9,
}

# The only module that may use private names of scikit-learn.
PRIVATE_SKLEARN = "_base"

# Data rather than code, so any module may read it from the package itself.
FREE_NAMES = {"__version__"}


def imported_modules(tree):
    """Yield (line, dotted name) for every import of the package in `tree`, relative ones made absolute.

    A name taken from the package itself, ``from . import x``, is yielded as ``sklearn_simclr.x``.
    ``importlib.import_module`` with a literal counts as an import.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = ".".join([PACKAGE] * node.level + ([source] if source else []))
            if source == PACKAGE:
                for alias in node.names:
                    yield node.lineno, f"{PACKAGE}.{alias.name}"
            else:
                yield node.lineno, source
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(name, str):
                yield node.lineno, PACKAGE + name if name.startswith(".") else name


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def private_sklearn_names(tree):
    """Yield (line, dotted name) for every private name of scikit-learn that `tree` imports or reads."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sklearn":
                    bound.add(alias.asname or "sklearn")
                    if any(is_private(part) for part in alias.name.split(".")):
                        yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sklearn":
            for alias in node.names:
                bound.add(alias.asname or alias.name)
                name = f"{node.module}.{alias.name}"
                if any(is_private(part) for part in name.split(".")):
                    yield node.lineno, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in bound:
                yield node.lineno, ast.unparse(node)


def violations(module, source):
    """Return what in `source`, the text of `module`, breaks the layers: a list of messages, perhaps empty."""
    if module not in LAYERS:
        return [f"{module}: has no layer; give it one in tests/test_layers.py and docs/architecture.md"]
    tree = ast.parse(source)
    found = []
    for line, name in imported_modules(tree):
        top, _, rest = name.partition(".")
        if top != PACKAGE:
            continue
        target = rest.split(".")[0]
        if target in FREE_NAMES:
            continue
        if target not in LAYERS:
            found.append(f"{module}:{line}: imports {name}, which is not a module with a layer")
        elif LAYERS[target] >= LAYERS[module]:
            found.append(
                f"{module}:{line}: in layer {LAYERS[module]}, imports {target}, in layer {LAYERS[target]}"
            )
    if module != PRIVATE_SKLEARN:
        found += [
            f"{module}:{line}: uses {name}, private to scikit-learn"
            for line, name in private_sklearn_names(tree)
        ]
    return found


def package_modules():
    """Return {dotted name within the package: path} of every module but the package's own __init__."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    del paths["__init__"]
    return paths


def test_the_package_keeps_the_layers():
    modules = package_modules()
    assert modules
    found = [
        message
        for module, path in sorted(modules.items())
        for message in violations(module, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, source",
    [
        ("transformer", "from ._base import X\nfrom .encoders import make\nfrom .images import ImageSource"),
        ("transformer", "import sklearn_simclr._base\nimport sklearn_simclr.losses as losses"),
        ("transformer", "from . import losses, encoders"),
        ("transformer", "from . import __version__"),
        ("_net", "def f():\n    from .losses import nt_xent"),
        ("_base", "from sklearn.base import _fit_context\nimport sklearn.utils._param_validation"),
        ("losses", "from sklearn.base import BaseEstimator\nimport sklearn\nsklearn.__version__"),
        ("losses", "class A:\n    def f(self):\n        return self._private"),
    ],
)
def test_the_checker_accepts(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize(
    "module, source, line",
    [
        # A lower layer, a sibling, the module itself.
        ("_net", "from ._base import X", 1),
        ("losses", "import os\nfrom .encoders import make", 2),
        ("losses", "from .heads import ProjectionHead", 1),
        ("transformer", "from .classifier import SimCLRClassifier", 1),
        ("losses", "from .losses import nt_xent", 1),
        # Each form of import.
        ("losses", "import sklearn_simclr.heads", 1),
        ("losses", "import sklearn_simclr.heads as heads", 1),
        ("losses", "from sklearn_simclr.heads import ProjectionHead", 1),
        ("losses", "from sklearn_simclr import heads", 1),
        ("losses", "from . import heads", 1),
        ("losses", "from importlib import import_module\nimport_module('.heads', __package__)", 2),
        ("losses", "import importlib\nimportlib.import_module('sklearn_simclr.heads')", 2),
        # Inside functions, branches and try blocks.
        ("losses", "def f():\n    if x:\n        from .heads import ProjectionHead", 3),
        ("losses", "if TYPE_CHECKING:\n    from .heads import ProjectionHead", 2),
        ("losses", "try:\n    from .heads import ProjectionHead\nexcept ImportError:\n    pass", 2),
        # The package itself, names it exports, modules that do not exist, above the package.
        ("transformer", "import sklearn_simclr", 1),
        ("transformer", "from sklearn_simclr import Augmentation", 1),
        ("transformer", "from . import *", 1),
        ("transformer", "from .utils import helper", 1),
        ("transformer", "from .. import sklearn_simclr", 1),
        # Private names of scikit-learn.
        ("transformer", "from sklearn.base import _fit_context", 1),
        ("transformer", "from sklearn.utils._param_validation import Interval", 1),
        ("transformer", "from sklearn.utils import _param_validation", 1),
        ("transformer", "import sklearn.utils._param_validation", 1),
        ("transformer", "import sklearn\nsklearn.base._fit_context", 2),
        ("transformer", "import sklearn.base as base\nbase._fit_context", 2),
        ("transformer", "from sklearn import base\ndef f():\n    base._fit_context", 3),
    ],
)
def test_the_checker_refuses(module, source, line):
    found = violations(module, source)
    assert len(found) == 1
    assert found[0].startswith(f"{module}:{line}: ")


@pytest.mark.parametrize("module", ["brand_new", "subpackage.losses"])
def test_the_checker_refuses_a_module_without_a_layer(module):
    assert "has no layer" in violations(module, "")[0]


def test_the_architecture_page_lists_every_module_with_its_layer():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = {
        name: int(layer) for layer, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, flags=re.MULTILINE)
    }
    assert listed == LAYERS
