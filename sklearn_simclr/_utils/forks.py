"""Renew locks in the child of a fork: threads that would release them exist only in the parent."""

import os
from collections.abc import Callable

__all__ = ["in_each_process"]


def in_each_process(begin: Callable[[], None]) -> Callable[[], None]:
    """Call a function now, and in the child of every fork.

    A lock that another thread holds when a process forks is never released in the child.

    Parameters
    ----------
    begin : callable
        Makes a lock, and what it protects.

    Returns
    -------
    callable
        `begin` itself.
    """
    begin()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin)
    return begin
