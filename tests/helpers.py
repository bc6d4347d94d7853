"""What tests of several rooms need: an encoder that costs nothing, counted trainings, equality of weights."""

import time

import torch
from skorch.callbacks import Callback
from torch import nn


def tiny(in_channels):
    """Return an encoder that costs nothing."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )


class CountTrainings(Callback):
    """Writes a line to a file for every training, from any process."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, net, **kwargs):
        with open(self.path, "a") as file:
            file.write("trained\n")

    def on_epoch_end(self, net, **kwargs):
        time.sleep(0.02)  # two workers that want the same encoder meet


def trainings(path):
    """Return how many lines CountTrainings has written to a file."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def fitted_modules(estimator):
    """Return the trained modules of a fitted estimator by name."""
    return {
        name.removesuffix("_"): value
        for name, value in vars(estimator).items()
        if isinstance(value, nn.Module)
    }


def state(*modules):
    """Return copies of all tensors of modules, in order."""
    return [value.clone() for module in modules for value in module.state_dict().values()]


def equal(first, second):
    """Return whether two lists of tensors are equal, bit by bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def same(first, second):
    """Return whether two dicts of tensors are equal, bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


def same_weights(first, second):
    """Return whether two fitted estimators have learnt the same, bit by bit."""
    ours, theirs = fitted_modules(first), fitted_modules(second)
    return ours.keys() == theirs.keys() and all(
        same(module.state_dict(), theirs[name].state_dict()) for name, module in ours.items()
    )
