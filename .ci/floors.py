"""Print a constraints file for pip: the oldest version of each library that pyproject.toml promises."""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
floors = {line.replace(">=", "==") for line in wanted if not line.startswith(project["name"] + "[")}
for floor in sorted(floors):
    if not re.fullmatch(r"[\w-]+==[\d.]+", floor):
        raise SystemExit(f"pyproject.toml: {floor.replace('==', '>=')!r} is not of the form 'name>=version'.")
    print(floor)
