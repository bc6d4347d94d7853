"""Join the processes that ``torchrun`` has started: they train one model, and one of them speaks for all.

Every process runs the whole script. The processes of a job, its ranks, meet where something is trained or
transformed: see :func:`together`. Inside of it :func:`current` tells a rank which one it is.
"""

import atexit
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from joblib.parallel import get_active_backend
from torch import Tensor

from .devices import is_cpu, out_of_memory
from .workers import in_worker

__all__ = [
    "ALONE",
    "LostRankError",
    "Ranks",
    "connected",
    "current",
    "launched",
    "share",
    "speaks",
    "together",
]

T = TypeVar("T")

# What a launcher sets in the environment of each rank.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Ranks that want to share the work of a transform wait so long for the others.
_SHARING_WAIT = timedelta(seconds=10)

# A rank that fails leaves a word for the others before it closes its connections.
_WORD_WAIT = timedelta(seconds=2)

# Longer values are not shown in a message: digests say nothing to anybody.
_SHOWN = 39


class LostRankError(RuntimeError):
    """Another rank has failed or ended, so that this one cannot go on."""


class Ranks:
    """The processes that train together, as one of them sees them. Without others it is alone.

    Parameters
    ----------
    rank : int, default=0
        Number of this process.
    size : int, default=1
        How many processes there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._group: Any = None  # of torch.distributed
        self._accelerated: Any = None
        self._failures = self._meetings = 0
        self._meeting = True

    def broadcast(self, value: T) -> T:
        """Return the value that rank 0 has.

        Parameters
        ----------
        value : object
            Anything that can be pickled.

        Returns
        -------
        object
            The same on all ranks.
        """
        if self.size == 1:
            return value
        with self._asking():
            values = [value]
            dist.broadcast_object_list(values, src=self._first(), group=self._group)
        return values[0]

    def lead(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """Return the numbers that rank 0 has, quickly.

        Parameters
        ----------
        numbers : tuple of float
            As many on all ranks.

        Returns
        -------
        tuple of float
            The same on all ranks.
        """
        if self.size == 1:
            return numbers
        with self._asking():
            sent = torch.tensor(numbers, dtype=torch.float64)
            dist.broadcast(sent, src=self._first(), group=self._group)
        return tuple(sent.tolist())

    def first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 only.

        Parameters
        ----------
        function : callable
            Takes nothing. An error of it is raised on all ranks.

        Returns
        -------
        object
            What the function returned, on all ranks.
        """
        if self.size == 1:
            return function()
        result: Any = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                result = function()
            except Exception as found:
                error = found
        result, said = self.broadcast((result, _portable(error)))
        if said is not None:
            raise error or said
        return cast(T, result)

    def compare(self, known: Mapping[str, str], why: str) -> None:
        """Raise on all ranks if one of them has something else than the others.

        Parameters
        ----------
        known : dict of str to str
            What must be the same on all ranks, by its name in messages.
        why : str
            What to do, for the message.

        Raises
        ------
        ValueError
            Names what differs, and the rank that differs from most.
        """
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        with self._asking():
            dist.all_gather_object(found, dict(known), group=self._group)
        for name in known:
            values = [other.get(name) for other in found]
            usual = max(values, key=values.count)
            odd = [rank for rank, value in enumerate(values) if value != usual]
            if odd:
                shown = ""
                if all(len(str(value)) <= _SHOWN for value in (usual, values[odd[0]])):
                    shown = f": {values[odd[0]]} on rank {odd[0]}, {usual} on rank {values.index(usual)}"
                raise ValueError(
                    f"Ranks differ in {name}{shown}. The value on rank {', '.join(map(str, odd))} of "
                    f"{self.size} is not that of the others. {why}"
                )

    def add(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the ranks, in place.

        Parameters
        ----------
        tensor : tensor
            Has the same shape on all ranks.

        Returns
        -------
        tensor
            The same tensor, bit by bit equal on all ranks.
        """
        if self.size > 1:
            with self._asking():
                dist.all_reduce(tensor, group=self._group_of(tensor))
        return tensor

    def copy(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor by that of rank 0.

        Parameters
        ----------
        tensor : tensor
            Has the same shape on all ranks.

        Returns
        -------
        tensor
            The same tensor.
        """
        if self.size > 1:
            with self._asking():
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=self._first(), group=self._group_of(tensor))
                tensor.detach().copy_(sent)
        return tensor

    def stack(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, one after the other.

        Parameters
        ----------
        tensor : tensor
            Has the same shape on all ranks.

        Returns
        -------
        tensor of shape (size, *shape)
            In the order of the ranks.
        """
        if self.size == 1:
            return tensor[None]
        # One after the other in one piece of memory: nothing is copied once more.
        found = tensor.new_empty(self.size, *tensor.shape)
        with self._asking():
            dist.all_gather(list(found.unbind()), tensor.contiguous(), group=self._group_of(tensor))
        return found

    def meet(self, known: Callable[[], str]) -> bool:
        """Return whether all ranks come to the same place soon, to share work there.

        A script may let one rank transform images while the others wait for it elsewhere. Ranks that have
        missed each other do not try again.

        Parameters
        ----------
        known : callable
            Takes nothing; returns what must be the same on all ranks.

        Returns
        -------
        bool
            The same on all ranks that come.
        """
        if self.size == 1 or not self._meeting:
            return False
        self._meetings += 1
        place = f"sklearn_simclr/meeting/{self._failures}/{self._meetings}/{known()}"
        try:
            store = _store()
            if store.add(place, 1) == self.size:
                store.compare_set(f"{place}/held", "", "yes")
            with contextlib.suppress(Exception):  # of another class in each version of torch
                store.wait([f"{place}/held"], _SHARING_WAIT)
            store.compare_set(f"{place}/held", "", "no")
            self._meeting = store.get(f"{place}/held") == b"yes"
        except RuntimeError:  # the rank that holds the store has ended
            self._meeting = False
        return self._meeting

    def _first(self) -> int:
        return dist.get_global_rank(self._group, 0)

    def _group_of(self, tensor: Tensor) -> Any:
        """Return what connects the ranks for tensors on a device."""
        if is_cpu(tensor.device):
            return self._group
        if self._accelerated is None:
            backend = dist.get_default_backend_for_device(tensor.device)
            self._accelerated = dist.new_group(backend=backend)
        return self._accelerated

    def _connect(self) -> None:
        if self._group is None:
            self._group = dist.new_group(backend="gloo")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Replace torch's error about a closed connection by the last message of the rank that closed it."""
        try:
            yield
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            # torch says only which socket was closed.
            raise LostRankError(self._last_word()) from None

    def _last_word(self) -> str:
        place = self._place()
        try:
            _store().wait([place], _WORD_WAIT)
            said = _store().get(place).decode()
        except Exception:  # the store may have ended with the rank
            said = (
                "Another rank ended without an error message: it was killed, or its script ended earlier "
                "than this one. Look at the output of the other ranks."
            )
        return f"{said}\n(This is rank {self.rank} of {self.size}, which cannot go on alone.)"

    def _place(self) -> str:
        return f"sklearn_simclr/failed/{self._failures}"

    def close(self, failed: bool = False) -> None:
        """Close the connections to the other ranks.

        Parameters
        ----------
        failed : bool, default=False
            Whether other ranks may be gone. NCCL would wait for ever for them to receive what was sent.
        """
        if failed and hasattr(self._accelerated, "abort"):
            with contextlib.suppress(Exception):
                self._accelerated.abort()
        for group in (self._accelerated, self._group):
            if group is not None:  # None would be the group that the script may have made
                with contextlib.suppress(Exception):
                    dist.destroy_process_group(group)
        self._accelerated = self._group = None

    def leave(self, error: BaseException) -> None:
        """Tell the other ranks, which wait for this one, that it has failed.

        Parameters
        ----------
        error : BaseException
            The reason.
        """
        if not isinstance(error, LostRankError):
            said = f"Rank {self.rank} failed with {type(error).__name__}: {str(error)[:2000]}"
            with contextlib.suppress(Exception):
                _store().compare_set(self._place(), "", said)
        self.close(failed=True)
        self._failures += 1
        self._meetings = 0


ALONE = Ranks()

# What this process has joined; kept, since connecting takes a while.
_joined: Ranks | None = None
_active: Ranks = ALONE


def current() -> Ranks:
    """Return the ranks that this process works together with at present."""
    return _active if _in_main_thread() else ALONE


def connected() -> bool:
    """Return whether this process has met the other ranks, and does nothing with them now."""
    return _joined is not None and _joined._group is not None and _active.size == 1 and launched()


def speaks() -> bool:
    """Return whether this process shows progress and warnings: of several ranks the first one does."""
    return _joined is None or _joined.rank == 0


@contextlib.contextmanager
def together() -> Iterator[Ranks]:
    """Work together with the other ranks, if there are any, until the context ends.

    An error in it ends the work of all ranks: the others raise `LostRankError` with its message.
    """
    global _active
    if _active.size > 1 or not (ranks := _join()):
        yield current()
        return
    ranks._connect()
    _active = ranks
    try:
        yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    finally:
        _active = ALONE


def launched() -> bool:
    """Return whether this process is one of several that a launcher has started, and not a worker of one."""
    if not _in_main_thread() or _in_task():
        return False
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    if in_worker() or multiprocessing.parent_process() is not None:
        return False
    return all(name in os.environ for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def _join() -> Ranks | None:
    """Return all ranks, connected, or None where there is one process."""
    global _joined
    if not launched():
        return None
    if not dist.is_initialized():
        # The store outlives ranks that torchrun starts again, and holds the addresses of those that ended.
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        # With a way to send tensors for each kind of device that there is.
        dist.init_process_group(store=store, rank=rank, world_size=size)
        atexit.register(dist.destroy_process_group)
    if _joined is None:
        atexit.register(_part)
        _joined = Ranks(dist.get_rank(), dist.get_world_size())
    return _joined


def _part() -> None:
    """Close the connections that were made here, whose threads would else outlive the interpreter."""
    if _joined is not None:
        _joined.close()


def _store() -> Any:
    """Return a store that all ranks can write to, even while some of them wait for a rank that is gone."""
    return dist.distributed_c10d._get_default_store()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _in_task() -> bool:
    """Return whether joblib or Dask have given this thread some work."""
    worker = sys.modules.get("distributed.worker")
    running = worker is not None and hasattr(worker.thread_state, "execution_state")
    return running or bool(get_active_backend()[0].nesting_level)


def _portable(error: Exception | None) -> Exception | None:
    """Return an error of one of the classes that each process knows."""
    if error is None:
        return None
    kind = next(
        (c for c in (ValueError, TypeError, MemoryError, OSError) if isinstance(error, c)), RuntimeError
    )
    return kind(str(error))


def share(n: int, size: int, rank: int) -> slice:
    """Return the part of n rows that a rank computes; the parts differ by one row at most."""
    ends = np.linspace(0, n, size + 1).astype(int)
    return slice(int(ends[rank]), int(ends[rank + 1]))
