"""Delete each ``device=`` and each ``.to(device)`` of the package in turn: do the tests on the device notice?

A first run records which cases come past which of these places. Then each place is deleted in a copy of the
package, and those cases run, the quickest first, until one fails. They run in processes that are forked from
one that has imported everything but the package, as many at once as there are processors. All places take
some minutes, hence it is run by hand, from the root of the repository, which needs ``fork``::

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
from collections import defaultdict, deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sklearn_simclr"
TABLE = ROOT / "docs" / "development" / "deletions.csv"
CASES = "tests/pretended/on_device.py"

_VALUE = r"[\w.]+(?:\[\w+\]|\(\))?"
PLACES = re.compile(
    rf", device=(?P<within>{_VALUE})(?=[,)])|(?<=\n) +device=(?P<line>{_VALUE}),\n"
    r"|\.to\((?P<to>[\w.]*device)(?:, non_blocking=\w+)?\)"
)

# Seconds of the processor and of the clock after which cases count as failed.
CPU_LIMIT, LIMIT = 200, 3600

# Why no case fails where it might, by file, function and what was deleted.
_NO_GENERATOR = "needs a generator of the device, which torch makes for no device written in Python"
REASONS: dict[tuple[str, str, str], str] = {
    ("views/draws.py", "draw_views", "device=device"): _NO_GENERATOR,
    ("views/draws.py", "_draw_turns.uniform", "device=device"): _NO_GENERATOR,
}


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
        start, end = match.span(match.lastgroup)
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
    """A plugin of pytest that notes which case runs, how long cases take, and which one fails.

    Of all cases it runs those of a part only.
    """

    def __init__(self, part=slice(None)):
        self.case, self.passed = "", defaultdict(list)
        self.seconds, self.failed, self.part = {}, None, part

    def pytest_collection_modifyitems(self, items):
        items[:] = items[self.part]

    def note(self, number, value):
        if self.case not in self.passed[number]:
            self.passed[number].append(self.case)
        return value

    def pytest_runtest_logstart(self, nodeid):
        self.case = nodeid

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        self.failed = self.failed or (report.nodeid if report.failed else None)


def start(folder, cases, part):
    """Run cases with the package in a folder, in a process of their own; return its number."""
    (folder / "answer.json").unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
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

        watch = Watch(part)
        builtins._passed = watch.note
        status = pytest.main(
            ["-q", "-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", *cases], [watch]
        )
        assert sys.modules["sklearn_simclr"].__file__.startswith(str(folder))
        seen = {"status": int(status), "failed": watch.failed, "passed": watch.passed}
        seen |= {"seconds": watch.seconds, "modules": imported(folder)}
        (folder / "answer.json").write_text(json.dumps(seen))
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)


def answer(folder, status):
    """Return what the watch of a process that has ended has seen; None stands for one that took too long."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM):
        return None
    file = folder / "answer.json"
    assert file.exists(), (folder / "log.txt").read_text()
    return json.loads(file.read_text())


def in_forks(folders, jobs):
    """Run one job at a time in each folder; yield the number of each that ends, with what its watch has seen.

    A job is made of new texts by file, which stand there for the time of the job, cases, and a part of them.
    """
    waiting, idle, running = deque(enumerate(jobs)), list(folders), {}
    while waiting or running:
        while waiting and idle:
            k, (texts, cases, part) = waiting.popleft()
            folder = idle.pop()
            files = [folder / file.relative_to(ROOT) for file in texts]
            before = [file.read_text(encoding="utf-8") for file in files]
            for file, text in zip(files, texts.values(), strict=True):
                file.write_text(text, encoding="utf-8")
            running[start(folder, cases, part)] = k, folder, files, before
        child, status = os.wait()
        k, folder, files, before = running.pop(child)
        for file, text in zip(files, before, strict=True):
            file.write_text(text, encoding="utf-8")
        idle.append(folder)
        yield k, answer(folder, status)


def imported(folder):
    """Return the names of the modules that this process has imported from elsewhere."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if file and not file.startswith(str(folder))]


def case_of(nodeid):
    """Return the name of a case, without its file; none of None."""
    return nodeid and nodeid.partition("::")[2]


def copies(parent, texts, found):
    """Return folders with a copy of package and tests, in which places say that they are come past."""
    folders = [Path(parent).resolve() / str(k) for k in range(len(os.sched_getaffinity(0)))]
    for folder in folders:
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "docs", "examples", "demo"))
        for file, text in texts.items():
            known = {match.start(): k for k, (other, match) in enumerate(found) if other == file}
            (folder / file.relative_to(ROOT)).write_text(recorded(text, known), encoding="utf-8")
    return folders


def all_cases(folders):
    """Run all cases; return the seconds that each takes, and the cases that come past each place.

    What they import besides the package is imported here.
    """
    jobs = [({}, [CASES], slice(k, None, len(folders))) for k in range(len(folders))]
    seconds, passed, modules = {}, defaultdict(list), []
    for _, seen in in_forks(folders, jobs):
        if seen is None or seen["status"] != 0:
            raise SystemExit(f"Without deletions a case fails: {seen and seen['failed']}")
        seconds |= seen["seconds"]
        modules += seen["modules"]
        for number, cases in seen["passed"].items():
            passed[int(number)] += cases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.path.insert(0, str(ROOT / "tests"))
        importlib.import_module("pretended.device")
        for name in dict.fromkeys(modules):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    assert "sklearn_simclr" not in sys.modules
    return seconds, passed


def without(text, match):
    """Return a text in which a place is deleted."""
    changed = text[: match.start()] + text[match.end() :]
    ast.parse(changed)
    return changed


def key_of(file, text, match):
    """Return file, function and what is deleted, for the table, and the line."""
    line = text.count("\n", 0, match.start(match.lastgroup)) + 1
    return (str(file.relative_to(PACKAGE)), function_at(text, line), match.group().strip(", \n")), line


def main(names):
    package = {file: file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}
    texts = {PACKAGE / name: package[PACKAGE / name] for name in names} or package
    found = [(file, match) for file, text in texts.items() for match in places(text)]
    rows = {}
    with tempfile.TemporaryDirectory() as parent:
        folders = copies(parent, texts, found)
        seconds, passed = all_cases(folders)
        for folder in folders:
            for file, text in texts.items():
                (folder / file.relative_to(ROOT)).write_text(text, encoding="utf-8")
            compileall.compile_dir(folder / "sklearn_simclr", quiet=1)
        jobs = {}
        for k, (file, match) in enumerate(found):
            if k in passed:
                cases = sorted(passed[k], key=seconds.__getitem__)
                jobs[k] = {file: without(texts[file], match)}, cases, slice(None)
            else:
                key, _ = key_of(file, texts[file], match)
                rows[k] = [*key, "no", REASONS.get(key, "no case comes past it")]
        try:
            for job, after in in_forks(folders, jobs.values()):
                k = list(jobs)[job]
                key, line = key_of(found[k][0], texts[found[k][0]], found[k][1])
                said = "a time limit" if after is None else case_of(after["failed"])
                said = said or ("" if after["status"] == 0 else "an import")
                rows[k] = [*key, "yes" if said else "no", said or REASONS.get(key, "nothing")]
                print(f"{len(rows)}/{len(found)} {key[0]}:{line} {key[2]}: {rows[k][-1]}", flush=True)
        finally:
            write([rows[k] for k in sorted(rows)], package)
    for row in rows.values():
        if row[3] == "no":
            print("not noticed:", *row)
    print(f"{sum(row[3] == 'yes' for row in rows.values())} of {len(rows)} deletions are noticed")


def write(rows, package):
    """Write rows into the table, in place of those of their files and of places that are no longer there."""
    known = {key_of(file, text, match)[0] for file, text in package.items() for match in places(text)}
    known = {key for key in known if key[0] not in {row[0] for row in rows}}
    kept = []
    if TABLE.exists():
        with TABLE.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.reader(file) if tuple(row[:3]) in known]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["file", "function", "deleted", "noticed", "by, or why not"])
        lines.writerows(sorted([*kept, *rows], key=lambda row: row[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
