"""The code that the documentation shows runs: the README, the pages, the examples."""

import re
import runpy
import sys
import textwrap
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from joblib.externals.loky import get_reusable_executor

from sklearn_simclr import theory
from sklearn_simclr.training import Plan

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))


def markdown_blocks(text):
    """Return [(line of its first line, code)] for every ```python block of `text`."""
    return [
        (text[: match.start(1)].count("\n") + 1, match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    ]


def rst_blocks(text):
    """Return [(line of its first line, code)] for every ``.. code-block:: python`` of `text`."""
    pattern = r"^\.\. code-block:: python\n\n((?:[ \t]+\S.*\n|[ \t]*\n)+)"
    return [
        (text[: match.start(1)].count("\n") + 1, textwrap.dedent(match[1]))
        for match in re.finditer(pattern, text, flags=re.MULTILINE)
    ]


def blocks_of(path):
    """Return the blocks of Python that a page shows."""
    find = markdown_blocks if path.suffix == ".md" else rst_blocks
    return find(path.read_text(encoding="utf-8"))


# What a build of the documentation writes is left out.
BUILT = {"_build", "auto_examples", "generated"}
PAGES = [
    path
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.rst")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    if not BUILT & set(path.relative_to(ROOT).parts) and blocks_of(path)
]

# Pages that show what their code prints, and how many accuracies.
SHOWN = {
    ROOT / "README.md": 3,
    ROOT / "docs" / "index.rst": 2,
    ROOT / "docs" / "get_started" / "first_model.rst": 2,
}

# An expression and the number that a comment says it has.
COMMENTED = re.compile(r"^([\w.]+(?:\(.*\))?[\w., ]*)  # (about )?(-?\d+(?:\.\d+)?)\b", flags=re.MULTILINE)


def execute(path, blocks):
    """Run the blocks in order as one program; a traceback shows the line of `path`.

    Numbers in comments have to be what the expressions before them give.
    """
    program = types.ModuleType("__main__")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", program)  # where pickle looks for its classes
        for line, code in blocks:
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), vars(program))
            for expression, about, number in COMMENTED.findall(code):
                found = eval(expression, vars(program))
                found = found[0] if isinstance(found, tuple) else found
                digits = len(number.partition(".")[2])
                allowed = 0.1 * abs(float(number)) if about else 0.5 * 10**-digits
                assert abs(float(found) - float(number)) <= 1.01 * allowed, expression


def test_blocks_are_found_with_their_lines():
    markdown = "a\n```python\nx = 1\n\ny = 2\n```\n```console\nmake\n```\n```python\nz = 3\n```\n"
    assert markdown_blocks(markdown) == [(3, "x = 1\n\ny = 2\n"), (11, "z = 3\n")]
    rst = "a\n\n.. code-block:: python\n\n   x = 1\n\n   if x:\n       y = 2\n\nb\n\n.. code-block:: sh\n\nX"
    assert rst_blocks(rst) == [(5, "x = 1\n\nif x:\n    y = 2\n\n")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:max_time=:sklearn.exceptions.ConvergenceWarning")  # on a slow machine
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_code_of_the_documentation_runs(path, tmp_path, monkeypatch, request, capsys):
    if path.stem == "clusters":
        pytest.importorskip("distributed", reason="needs dask[distributed]")
        request.applymarker(pytest.mark.filterwarnings("ignore"))  # Dask warns
    monkeypatch.chdir(tmp_path)
    # Workers that another test has started would write into the folder that they were started in.
    get_reusable_executor().shutdown(wait=True)
    execute(path, blocks_of(path))
    get_reusable_executor().shutdown(wait=True)
    if path in SHOWN:
        # Other machines compute in other precisions: the same to a few points.
        pattern = r"^ *(\w+Transformer): ([\d.]+)%"
        printed = re.findall(pattern, capsys.readouterr().out, flags=re.MULTILINE)
        shown = re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert [name for name, _ in printed] == [name for name, _ in shown]
        assert len(shown) == SHOWN[path]
        for (_, found), (_, expected) in zip(printed, shown, strict=True):
            assert abs(float(found) - float(expected)) < 3


def test_there_are_pages_and_examples():
    assert len(PAGES) > 10
    assert EXAMPLES


@pytest.fixture
def shorten(monkeypatch):
    """Return a function after which no training has more epochs than it was given."""

    def shorten(max_epochs):
        made = Plan.__init__

        def few(self, *args, **kwargs):
            made(self, *args, **kwargs)
            object.__setattr__(self, "max_epochs", min(self.max_epochs, max_epochs))

        monkeypatch.setattr(Plan, "__init__", few)

    return shorten


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what so few epochs do not learn, and that no screen shows figures
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, monkeypatch, shorten):
    # The report predicts what more epochs would bring once it has seen a few.
    shorten(7 if path.stem == "plot_has_it_learnt" else 1)
    sample_tuples = theory.sample_tuples
    monkeypatch.setattr(
        theory, "sample_tuples", lambda y, n, **options: sample_tuples(y, min(n, 2_000), **options)
    )
    monkeypatch.chdir(tmp_path)
    with plt.rc_context():
        runpy.run_path(str(path), run_name="__main__")
    plt.close("all")


def test_a_method_of_ones_own_takes_forty_lines():
    text = (ROOT / "docs" / "how_to" / "extend.md").read_text(encoding="utf-8")
    method = next(code for _, code in markdown_blocks(text) if "class VICRegTransformer" in code)
    assert len([line for line in method.splitlines() if line.strip()]) <= 40
