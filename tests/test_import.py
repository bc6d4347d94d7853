"""Importing the package is cheap, and its lazily loaded names behave as ordinary ones."""

import inspect
import pickle
import re
import subprocess
import sys

import pytest

import sklearn_simclr

HEAVY = {"matplotlib", "pandas", "skorch", "timm", "torchvision"}


def ismodule(package, name):
    return inspect.ismodule(getattr(package, name))


def modules_after(code):
    """Return the top-level names in sys.modules after a fresh interpreter has run `code`."""
    code += "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    loaded = modules_after("import sklearn_simclr")
    assert not loaded & {*HEAVY, "sklearn", "torch"}


def test_an_estimator_every_public_name_and_a_network_load_no_more_than_they_need():
    # One process, since each takes seconds to import torch: what comes first loads the least.
    code = """
import sys
from sklearn_simclr import SimCLRTransformer
loaded = {"matplotlib", "skorch", "timm", "torchvision"} & set(sys.modules)
assert not loaded, loaded
from sklearn_simclr import *
from sklearn_simclr.inspection import *
loaded = {"matplotlib", "timm"} & set(sys.modules)
assert not loaded, loaded
from sklearn_simclr.encoders import make_encoder
make_encoder("resnet18", 3, (8, 8))
"""
    loaded = modules_after(code)
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "timm", "torchvision"}


def test_all_is_sorted_without_repeats():
    assert sklearn_simclr.__all__ == sorted(set(sklearn_simclr.__all__))


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", sklearn_simclr.__version__)


def test_dir_shows_every_public_name_before_any_is_loaded():
    code = """
import sklearn_simclr
listed = dir(sklearn_simclr)
missing = {*sklearn_simclr.__all__, "losses", "encoders", "__version__"} - set(listed)
assert not missing, missing
assert listed == sorted(listed)
"""
    modules_after(code)


def test_star_import_binds_exactly_all():
    namespace = {}
    exec("from sklearn_simclr import *", namespace)
    del namespace["__builtins__"]
    assert sorted(namespace) == sklearn_simclr.__all__


def test_submodules_are_attributes_of_the_package():
    code = """
import sklearn_simclr
assert sklearn_simclr.losses.__name__ == "sklearn_simclr.losses"
"""
    assert not modules_after(code) & HEAVY


@pytest.mark.parametrize(
    "name", [name for name in sklearn_simclr.__all__ if name[0] != "_" and not ismodule(sklearn_simclr, name)]
)
def test_a_lazy_name_is_the_object_of_its_module(name):
    value = getattr(sklearn_simclr, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value is getattr(sys.modules[value.__module__], name)
    assert value.__module__.startswith("sklearn_simclr.")
    assert pickle.loads(pickle.dumps(value)) is value


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="No sklearn_simclr attribute nonsense"):
        _ = sklearn_simclr.nonsense
    assert not hasattr(sklearn_simclr, "__wrapped__")
