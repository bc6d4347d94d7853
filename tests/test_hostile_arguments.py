"""Public functions and classes with arguments of any kind: they answer, or say what is wrong."""

import importlib
import inspect
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.exceptions import NotFittedError

ROOMS = ("losses", "views", "images", "encoders", "training", "evaluation", "inspection", "theory")

# What is raised on purpose. OSError: files that do not exist; ImportError: extras.
PERMITTED = (ImportError, MemoryError, NotFittedError, OSError, TypeError, ValueError)

# They fetch from the net, or fit many times: their arguments are tested where they are.
ELSEWHERE = {
    "compare_transfers",
    "convert_checkpoint",
    "fetch_cifar10",
    "label_fraction_curve",
    "load_pretrained",
    "representation_report",
    "transfer_evaluation",
}

# They take objects of this package, or numbers of its own loop, whose types are checked by mypy.
OF_PARTS = {
    "Bound",
    "ImageSource",
    "LARS",
    "RepresentationReport",
    "decoded_format",
    "decoded_source",
    "image_format",
    "image_source",
    "parameter_groups",
    "save_pretrained",
    "step_decay",
    "train",
    "warmup_constant",
    "warmup_cosine",
}

PUBLIC = {
    f"{room}.{name}": value
    for room in ROOMS
    for module in [importlib.import_module(f"sklearn_simclr.{room}")]
    for name in module.__all__
    if callable(value := getattr(module, name))
    and name not in ELSEWHERE | OF_PARTS
    and not inspect.isabstract(value)
}

ODD = st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0, 0.5, 10**20, -1, 0, 1, 2, 3, True, None])
NUMBERS = npst.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
    st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple),
    fill=st.nothing(),
)
ARGUMENTS = st.one_of(
    NUMBERS,
    NUMBERS.map(torch.from_numpy),
    ODD,
    st.sampled_from(["auto", "", "x", [], {}, (), [0, 1, 1, 0], ["a", "b"], (8, 8), object(), len]),
)


@pytest.mark.parametrize("name", PUBLIC)
def test_any_arguments_are_answered_or_refused(name):
    function = PUBLIC[name]
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]

    @settings(
        max_examples=6,
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def call(data):
        given = {
            parameter.name: data.draw(ARGUMENTS, label=parameter.name)
            for parameter in parameters
            if parameter.default is parameter.empty or data.draw(st.booleans())
        }
        positional = [
            given.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in given
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                function(*positional, **given)
            except PERMITTED as error:
                assert str(error)

    call()
