"""Every public name has a complete numpydoc docstring, an example, and a place in the API reference."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

import sklearn_simclr

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sklearn_simclr"

IGNORED = {
    "GL01",  # the summary stands on the line of the opening quotes, as in scikit-learn
    "ES01",  # an extended summary only where the summary does not say it all
    "SA01",  # asked of classes and functions below, not of each method
    "SA04",  # a name in See Also may speak for itself
    "PR08",  # a description may begin with a symbol
    "RT04",  # likewise
    "EX01",  # asked of classes and functions below, not of each method
    "RT02",  # a returned value may be named as well as typed
}

ROOMS = sorted(path.parent.name for path in Path(sklearn_simclr.__file__).parent.glob("*/__init__.pyi"))


def public_objects():
    """Return {dotted name: class or function}, each object once, under the shortest name it is public by."""
    found = {}
    for module_name in ["", *ROOMS]:
        path = ".".join(filter(None, ["sklearn_simclr", module_name]))
        module = importlib.import_module(path)
        for name in module.__all__:
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isroutine(value)) and value not in found.values():
                found[f"{path}.{name}"] = value
    return found


def public_methods(dotted, cls):
    """Yield the dotted name of each method and property that the package defines for `cls`, inherited or not.

    What scikit-learn or torch define is documented there. `forward` of a `torch.nn.Module` is left out: torch
    calls it, and the docstring of the class says what goes in and comes out.
    """
    for base in cls.__mro__:
        if not base.__module__.startswith("sklearn_simclr"):
            continue
        for name, member in vars(base).items():
            is_metadata_request = name.startswith("set_") and name.endswith("_request")
            if name.startswith("_") or name == "forward" or is_metadata_request:
                continue
            # The attribute, not the member, of the class: what `available_if` decorates is a function there.
            if isinstance(member, property) or inspect.isroutine(getattr(cls, name)):
                yield f"{dotted}.{name}"


OBJECTS = public_objects()
METHODS = sorted(
    {name for dotted, cls in OBJECTS.items() if inspect.isclass(cls) for name in public_methods(dotted, cls)}
)


def complaints(dotted):
    """Return what numpydoc has against the docstring of `dotted`, less the ignored codes."""
    return [f"{code}: {text}" for code, text in validate(dotted)["errors"] if code not in IGNORED]


def example_lines(docstring_owner):
    return get_doc_object(docstring_owner)["Examples"]


def has_doctest(docstring_owner):
    return any(line.lstrip().startswith(">>>") for line in example_lines(docstring_owner))


@pytest.mark.parametrize("module", ROOMS)
def test_room_says_what_it_is_and_lists_its_names(module):
    loaded = importlib.import_module(f"sklearn_simclr.{module}")
    assert loaded.__doc__ and loaded.__doc__.strip()
    assert loaded.__all__ == sorted(set(loaded.__all__))


@pytest.mark.parametrize("dotted", [*OBJECTS, *METHODS])
def test_docstring_is_complete(dotted):
    assert complaints(dotted) == []


@pytest.mark.parametrize("dotted", OBJECTS)
def test_docstring_has_an_example_and_names_its_relatives(dotted):
    assert has_doctest(OBJECTS[dotted])
    assert get_doc_object(OBJECTS[dotted])["See Also"]


def test_every_public_name_is_in_the_api_reference():
    entries = {
        line.strip()
        for line in (ROOT / "docs" / "reference" / "api.rst").read_text(encoding="utf-8").splitlines()
    }
    for dotted in OBJECTS:
        name = dotted.removeprefix("sklearn_simclr.")
        assert name in entries or name.rpartition(".")[0] in entries, (
            f"{name} is not in docs/reference/api.rst"
        )


def test_the_api_reference_groups_the_parameters_of_the_main_class():
    page = (ROOT / "docs" / "reference" / "api.rst").read_text(encoding="utf-8")
    parameters = sklearn_simclr.SimCLRTransformer().get_params(deep=False)
    assert [name for name in parameters if f"``{name}``" not in page] == []


def undocumented(a, b):
    """Return the sum.

    Parameters
    ----------
    a : int
        A number.

    c : int
        A number.
    """
    return a + b


def documented(a):
    """Return the argument.

    Parameters
    ----------
    a : int
        A number.

    Returns
    -------
    int
        The argument.

    Examples
    --------
    >>> documented(1)
    1
    """
    return a


def test_the_check_itself_refuses_and_accepts():
    found = complaints(f"{__name__}.undocumented")
    assert {line.partition(":")[0] for line in found} == {"PR01", "PR02", "RT01"}
    assert not has_doctest(undocumented)
    assert complaints(f"{__name__}.documented") == []
    assert has_doctest(documented)


def docstrings_of(path):
    """Return [(line, docstring)] of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    found = [(getattr(node, "lineno", 1), ast.get_docstring(node)) for node in nodes]
    return [(line, text) for line, text in found if text]


_NOT_A_VERB = re.compile(r"(What|Where|Whether|How|Which|Who|When|Of|Its|It|They)\b")
_DISTRIBUTIVE = re.compile(
    r"\b(?:(?:a|one) (?:row|column|class|label|value|entry|point|draw) (?:a|an|each)"
    r"|(?:once|images|steps|copy|entries|entry) an?) "
    r"(?:row|image|fit|class|epoch|fold|tuple|label|point|score|draw|step|second|fraction|batch)\b"
)


def test_summaries_begin_with_a_verb_or_a_noun_and_per_is_said_where_it_is_meant():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in docstrings_of(path):
            if _NOT_A_VERB.match(text):
                found.append(f"{path.name}:{line}: {text.splitlines()[0]}")
        text = " ".join(path.read_text(encoding="utf-8").split())
        found += [f"{path.name}: {match[0]}" for match in _DISTRIBUTIVE.finditer(text)]
    assert found == []
    assert _NOT_A_VERB.match("Whether it is.") and _DISTRIBUTIVE.search("a row each fit")
