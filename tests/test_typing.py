"""What a type checker says of user code: it has the types that it should, and mistakes are found."""

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.slow
def test_mypy_finds_the_mistakes_in_user_code_and_nothing_else(monkeypatch):
    # A mistake that mypy misses leaves an unused "type: ignore", which is an error, too.
    # Of the package only the signatures count, as for users; its bodies are the matter of `make types`.
    monkeypatch.chdir(ROOT)
    report, errors, status = api.run(["--follow-imports=silent", "tests/typing/user_code.py"])
    assert status == 0, report + errors
