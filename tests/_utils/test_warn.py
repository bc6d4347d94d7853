"""Warnings point to the line of the user's code, through whatever lies between."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._utils.warn import warn


def of_this_file(caught, text):
    found = {item.filename for item in caught if text in str(item.message)}
    return found == {__file__}


def test_a_warning_of_a_pipeline_points_to_the_line_that_fits_it():
    X = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    model = make_pipeline(
        SimCLRTransformer(max_epochs=0, pixel_range=(0, 100)), LogisticRegression(max_iter=1000)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, np.arange(20) % 2)
    assert of_this_file(caught, "outside of the pixel range")


def test_where_all_is_between_it_points_to_the_caller(monkeypatch):
    from sklearn_simclr._utils import warn as _warn

    monkeypatch.setattr(_warn, "_BETWEEN", _Everything())
    with pytest.warns(UserWarning, match="careful") as caught:
        warn("careful")
    assert of_this_file(caught, "careful")


class _Everything:
    def __contains__(self, name):
        return True
