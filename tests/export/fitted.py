"""Quick fits of networks whose numbers are not those that they begin with."""

import os

import torch
from helpers import fitted_modules
from torch import nn

FAST = {"max_epochs": 1, "batch_size": 16, "random_state": 0, "device": "cpu"}


def shake(estimator):
    """Draw all numbers of the networks anew, also those that begin as zeros or ones."""
    generator = torch.Generator().manual_seed(1)
    for module in fitted_modules(estimator).values():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(generator=generator).mul_(0.1)
                part.running_var.uniform_(0.5, 2.0, generator=generator)
                with torch.no_grad():
                    part.weight.uniform_(0.5, 1.0, generator=generator)
    return estimator


def only_file(folder):
    (name,) = os.listdir(folder)
    return name
