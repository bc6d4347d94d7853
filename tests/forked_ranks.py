"""Run functions on ranks or alone: processes that are forked from one that has imported everything.

Started as ``python tests/forked_ranks.py``, it reads jobs from the standard input, one JSON object per line,
and answers each with another.
"""

import ctypes
import json
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ForkedRanks"]

LIMIT = 30.0


class ForkedRanks:
    """Forks processes as a launcher starts them, or one alone, and returns what a function does there."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run_alone(self, function, *arguments, limit=300.0):
        """Return what ``function(*arguments)`` returns on no rank, or raise the error that it raises."""
        (result,) = self.run(1, function, *arguments, limit=limit, launched=False)
        if isinstance(result, Exception):
            raise result
        return result

    def run(self, size, function, *arguments, limit=LIMIT, launched=True):
        """Return one result per rank: what ``function(*arguments)`` returned, or the exception it raised.

        None stands for a rank that was killed. The function is one of a test module.
        """
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "arguments").write_bytes(pickle.dumps(arguments))
            job = {"size": size, "folder": folder, "limit": limit, "launched": launched}
            job |= {"file": function.__code__.co_filename, "name": function.__name__}
            print(json.dumps(job), file=self.process.stdin, flush=True)
            late = json.loads(self.process.stdout.readline())
            output = "".join(path.read_text() for path in sorted(Path(folder).glob("*.txt")))
            assert not late, f"ranks {late} were not done after {limit} s:\n{output}"
            print(output)
            files = [Path(folder, str(rank)) for rank in range(size)]
            return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]

    def close(self):
        self.process.communicate()


def run_rank(job: dict, names: dict, rank: int, port: int) -> None:
    """Run the function of a job and write what comes of it."""
    folder = Path(job["folder"])
    output = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if job["launched"]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["size"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = pickle.loads(Path(folder, "arguments").read_bytes())
    if sys.platform == "linux":
        # What the parent has freed and kept would hide as much of what is measured here.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    try:
        result = names[job["name"]](*arguments)
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = type(error)(str(error))
    Path(folder, f"{rank}.part").write_bytes(pickle.dumps(result))
    Path(folder, f"{rank}.part").rename(folder / str(rank))


def wait(children: Sequence[int], limit: float) -> list[int]:
    """Wait for child processes; return the ranks of those that had to be killed."""
    end, running = time.monotonic() + limit, dict(enumerate(children))
    while running and time.monotonic() < end:
        for rank, child in list(running.items()):
            if os.waitpid(child, os.WNOHANG)[0]:
                del running[rank]
        time.sleep(0.01)
    for child in running.values():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return list(running)


def main() -> None:
    """Answer jobs until there are no more."""
    import numpy as np

    from sklearn_simclr import SimCLRTransformer

    # Whatever is imported and set up at the first use is so for all ranks.
    SimCLRTransformer(max_epochs=1).fit_transform(np.random.default_rng(0).random((8, 8, 8)))
    modules: dict[str, dict] = {}
    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if job["file"] not in modules:
            sys.path.append(str(Path(job["file"]).parent))  # for modules that lie beside it
            modules[job["file"]] = runpy.run_path(job["file"])
        children = []
        for rank in range(job["size"]):
            child = os.fork()
            if child == 0:
                run_rank(job, modules[job["file"]], rank, port)
                import atexit

                atexit._run_exitfuncs()
                os._exit(0)
            children.append(child)
        print(json.dumps(wait(children, job["limit"])), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
