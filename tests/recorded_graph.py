"""What CUDA's graphs do, on any device: operations are recorded with their tensors, and repeated on these.

Nothing of what a recording does lasts, numbers of Python are kept as they were, and a number that is read on
the host is an error, as with CUDA.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["RecordedGraph", "record"]

aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}


def tensors_of(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def storage(tensor):
    return vars(tensor).get("inner", tensor).untyped_storage().data_ptr()


class Count:
    replays = 0


class RecordedGraph:
    """What torch.cuda.CUDAGraph is."""

    made = []  # how often each graph was replayed, to be looked at by tests

    def __init__(self):
        self.calls, self.views = [], []
        self.count = Count()
        self.made.append(self.count)

    def replay(self):
        self.count.replays += 1
        with torch.no_grad():
            for operator, args, kwargs, outputs in self.calls:
                found = tensors_of(operator(*args, **kwargs))
                for place, value in zip(outputs, found, strict=True):
                    if place is not value:
                        place.copy_(value)


class record(TorchDispatchMode):  # noqa: N801, as in torch
    """What torch.cuda.graph is."""

    invalid = False

    def __init__(self, graph, stream, capture_error_mode="global"):
        super().__init__()
        assert capture_error_mode == "thread_local"
        known = getattr(torch, "pretended", torch.cpu)
        assert known is torch.cpu or stream.device.index == known.current_device(), "of another device"
        self.stream = known.stream(stream)
        self.graph, self.before, self.made = graph, [], set()
        self.modules = [torch, *([torch.pretended] if hasattr(torch, "pretended") else [])]
        self.random = [module.get_rng_state() for module in self.modules]

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator in _WAITING:
            self.invalid = True
            raise RuntimeError("operation not permitted when stream is capturing")
        given = tensors_of((args, kwargs))
        elsewhere = hasattr(torch, "pretended") and any(t.is_cpu and t.dim() for t in given)
        assert not (elsewhere and operator in _COPIES), "a repetition reads what is then on the host"
        self._keep(operator._schema, args, kwargs)
        found = operator(*args, **kwargs)
        outputs = tensors_of(found)
        self.made |= {storage(output) for output in outputs} - {storage(tensor) for tensor in given}
        returns = operator._schema.returns
        if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            self.graph.views.append((args, outputs))
        else:
            self.graph.calls.append((operator, args, kwargs, outputs))
        return found

    def _keep(self, schema, args, kwargs):
        """Take note of what an operation is going to overwrite."""
        known = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        for argument in schema.arguments:
            written = argument.alias_info is not None and argument.alias_info.is_write
            # The schema of BatchNorm does not say so.
            if written or ("batch_norm" in schema.name and argument.name.startswith("running")):
                for tensor in tensors_of(known.get(argument.name)):
                    if storage(tensor) not in self.made:
                        self.before.append((tensor, tensor.detach().clone()))

    def __enter__(self):
        self.stream.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for module, state in zip(self.modules, self.random, strict=True):
            module.set_rng_state(state)
        with torch.no_grad():
            for tensor, value in reversed(self.before):
                tensor.copy_(value)
        if self.invalid:  # torch does not come to its own stream's end
            raise RuntimeError("operation failed due to a previous error during capture")
        self.stream.__exit__(*error)
