"""Delete each ``device=`` and each ``.to(device)`` of the package in turn: do the tests on the device notice?

A first run records which cases come past which of these places. Then each place is deleted in a copy of the
package, and those cases run, the quickest first, until one fails. They run in processes that are forked from
one that has imported everything but the package. All places take some minutes, hence it is run by hand, from
the root of the repository, which needs ``fork``::

    python tests/pretended/deletions.py [FILE ...]

The files are those of ``sklearn_simclr`` to look at; without arguments all. What was found is written to
``docs/development/deletions.csv``.
"""

import ast
import builtins
import compileall
import contextlib
import csv
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sklearn_simclr"
TABLE = ROOT / "docs" / "development" / "deletions.csv"
CASES = "tests/pretended/on_device.py"

PLACES = re.compile(
    r"(?:, |(?<=\n) +)device=(?P<named>[\w.]+(?:\[\w+\]|\(\))?)(?:(?=[,)])|,\n)"
    r"|\.to\((?P<to>[\w.]*device)(?:, non_blocking=\w+)?\)"
)

# Seconds of the processor and of the clock after which cases count as failed.
CPU_LIMIT, LIMIT = 200, 3600

# Why no case fails where it might, by file, function and what was deleted.
REASONS: dict[tuple[str, str, str], str] = {}


def places(text):
    """Return what may be deleted: matches of `PLACES` outside of signatures, examples and comments."""
    lines = text.splitlines()
    found = PLACES.finditer(text)
    prefixes = ("def ", ">>>", "#")
    return [
        match
        for match in found
        if not lines[text.count("\n", 0, match.start())].lstrip().startswith(prefixes)
    ]


def recorded(text, known):
    """Return a text that says when a place is come past, by the number of the place among `known` ones."""
    for match in reversed(places(text)):
        number = known[match.start()]
        group = "named" if match["named"] else "to"
        start, end = match.span(group)
        text = f"{text[:start]}_passed({number}, {text[start:end]}){text[end:]}"
    return text


def function_at(text, line):
    """Return the qualified name of the function or class that a line is in."""
    names, node = [], ast.parse(text)
    while node is not None:
        inner = [
            child
            for child in ast.iter_child_nodes(node)
            if getattr(child, "lineno", line + 1) <= line <= (getattr(child, "end_lineno", None) or 0)
        ]
        node = inner[0] if inner else None
        names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return ".".join(names)


class Watch:
    """A plugin of pytest that notes which case runs, how long cases take, and which one fails."""

    def __init__(self):
        self.case, self.passed = "", defaultdict(list)
        self.seconds, self.failed = {}, None

    def note(self, number, value):
        if self.case not in self.passed[number]:
            self.passed[number].append(self.case)
        return value

    def pytest_runtest_logstart(self, nodeid):
        self.case = nodeid

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        self.failed = self.failed or (report.nodeid if report.failed else None)


def in_fork(folder, cases):
    """Run cases with the package in a folder, in a process of their own; return what the watch has seen.

    None stands for a process that took too long.
    """
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
            signal.alarm(LIMIT)
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(folder)
            sys.dont_write_bytecode = True  # files change more than once in a second
            sys.path[:0] = [str(folder), str(folder / "tests")]
            import pytest

            watch = Watch()
            builtins._passed = watch.note
            status = pytest.main(
                ["-q", "-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", *cases], [watch]
            )
            assert sys.modules["sklearn_simclr"].__file__.startswith(str(folder))
            seen = {"status": int(status), "failed": watch.failed, "passed": watch.passed}
            seen |= {"seconds": watch.seconds, "modules": imported(folder)}
            answer.write_text(json.dumps(seen))
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM):
        return None
    assert answer.exists(), (folder / "log.txt").read_text()
    return json.loads(answer.read_text())


def imported(folder):
    """Return the names of the modules that this process has imported from elsewhere."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if file and not file.startswith(str(folder))]


def case_of(nodeid):
    """Return the name of a case, without its file; none of None."""
    return nodeid and nodeid.partition("::")[2]


def main(names):
    chosen = [PACKAGE / name for name in names] or sorted(PACKAGE.rglob("*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in chosen}
    found = [(file, match) for file, text in texts.items() for match in places(text)]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).resolve() / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "docs", "examples", "demo"))
        for file in chosen:
            known = {match.start(): k for k, (other, match) in enumerate(found) if other == file}
            (folder / file.relative_to(ROOT)).write_text(recorded(texts[file], known), encoding="utf-8")
        seen = in_fork(folder, [CASES])
        if seen is None or seen["status"] != 0:
            raise SystemExit(f"Without deletions a case fails: {seen and seen['failed']}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.path.insert(0, str(ROOT / "tests"))
            importlib.import_module("pretended.device")
            for name in seen["modules"]:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        assert "sklearn_simclr" not in sys.modules
        for file, text in texts.items():
            (folder / file.relative_to(ROOT)).write_text(text, encoding="utf-8")
        compileall.compile_dir(folder / "sklearn_simclr", quiet=1)
        rows = []
        for k, (file, match) in enumerate(found):
            text, copy = texts[file], folder / file.relative_to(ROOT)
            cases = sorted(seen["passed"].get(str(k), []), key=seen["seconds"].__getitem__)
            said = "no case comes past it"
            if cases:
                copy.write_text(text[: match.start()] + text[match.end() :], encoding="utf-8")
                after = in_fork(folder, cases)
                copy.write_text(text, encoding="utf-8")
                said = "a time limit" if after is None else case_of(after["failed"])
                said = said or ("" if after["status"] == 0 else "an import")
            line = text.count("\n", 0, match.start("named") if match["named"] else match.start()) + 1
            place = match.group().strip(", \n")
            key = (str(file.relative_to(PACKAGE)), function_at(text, line), place)
            noticed = bool(cases and said)
            missed = REASONS.get(key) or said or "nothing"
            rows.append([*key, "yes" if noticed else "no", said if noticed else missed])
            print(f"{k + 1}/{len(found)} {key[0]}:{line} {place}: {rows[-1][-1]}", flush=True)
    kept = []
    if names and TABLE.exists():
        with TABLE.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] not in {row[0] for row in rows}]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "function", "deleted", "noticed", "by, or why not"])
        table.writerows(sorted([*kept, *rows], key=lambda row: row[0]))
    print(f"{sum(row[3] == 'yes' for row in rows)} of {len(rows)} deletions are noticed")


if __name__ == "__main__":
    main(sys.argv[1:])
