"""What depends on the kind of device, as far as a CPU shows it; tests/pretended/ has the rest."""

import numpy as np
import pytest
import torch

from sklearn_simclr import LinearEvaluationClassifier
from sklearn_simclr._utils import devices, workers

CPU = torch.device("cpu")


def flags():
    return [read() for read, _, _ in devices._flags_of_float32()]


def test_flags_of_tf32_are_put_back_when_the_last_context_ends():
    before = flags()
    first, second = devices.exact_float32(), devices.exact_float32()
    with first:
        with second:
            exact = flags()
        assert flags() == exact != before
    assert flags() == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_older_flags_of_tf32_can_be_read_meanwhile(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with devices.exact_float32():
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                pass
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_newer_flags_of_tf32_are_kept():
    products = torch.backends.cuda.matmul
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("torch before 2.9 has no torch.backends.cudnn.conv.fp32_precision, only the older flags")
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        with devices.exact_float32():
            assert products.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert products.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before


def test_errors_of_all_allocators_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert devices.out_of_memory(caught.value)
    assert devices.out_of_memory(MemoryError())
    assert devices.out_of_memory(RuntimeError("MPS backend out of memory"))
    assert devices.out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not devices.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not devices.out_of_memory(ValueError("out of memory"))


def test_states_of_another_kind_of_device_are_left_out():
    states = devices.generator_states(CPU)
    expected = torch.rand(3)
    devices.set_generator_states({**states, "cuda": torch.zeros(16, dtype=torch.uint8)}, CPU)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "name, inside", [("LokyProcess-1", True), ("ForkPoolWorker-3", True), ("SpawnProcess-1", False)]
)
def test_workers_of_joblib_are_told_by_their_name(monkeypatch, name, inside):
    class Process:
        pass

    Process.name = name
    monkeypatch.setattr(workers.multiprocessing, "current_process", Process)
    assert workers.in_worker() is inside


def test_small_data_is_evaluated_on_the_cpu(monkeypatch):
    from sklearn_simclr.evaluation import linear_evaluation

    asked = []
    monkeypatch.setattr(linear_evaluation, "resolve_device", lambda device: asked.append(device) or CPU)
    X = np.random.default_rng(0).normal(size=(20, 2))
    for size, device in ((41, "auto"), (40, "auto"), (41, "cuda")):
        monkeypatch.setattr(linear_evaluation, "_ACCELERATOR_FROM", size)
        LinearEvaluationClassifier(device=device, random_state=0).fit(X, np.arange(20) % 2)
    assert asked == ["cpu", "auto", "cuda"]
