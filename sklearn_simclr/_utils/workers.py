"""Tell workers of joblib, Dask and Ray, which inherit the variables of a launcher, from what it started."""

import multiprocessing
import sys

__all__ = ["in_worker"]


def in_worker() -> bool:
    """Return whether this code runs in a worker of joblib, Dask or Ray.

    Returns
    -------
    bool
        False in the process that a launcher such as torchrun has started, also where it has started workers.
    """
    return _in_joblib() or _in_dask() or _in_ray()


def _in_joblib() -> bool:
    # Processes that torch.multiprocessing starts have a parent, too, but are ranks.
    name = multiprocessing.current_process().name
    return name.startswith("LokyProcess") or "PoolWorker" in name


def _in_dask() -> bool:
    # A module that nobody has imported has started no worker.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE
