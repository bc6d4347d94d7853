"""Encoders to measure with."""

import torch
from torch import nn

from sklearn_simclr import SimCLRTransformer


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added; the basic block of ResNet."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, images):
        return torch.relu(self.path(images) + self.shortcut(images))


def resnet20(blocks=3):
    """Return the ResNet of CIFAR-10, 16-32-64 channels, up to its average pool; 20 layers with 3 blocks.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, section 4.2.
    """
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels_in = 16
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        for index in range(blocks):
            layers.append(Block(channels_in, channels, stride if index == 0 else 1))
            channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def untrained(encoder, images, **parameters):
    """Return a SimCLRTransformer that holds an encoder and a projection head as they are initialised."""
    simclr = SimCLRTransformer(encoder, max_epochs=0, random_state=0, **parameters)
    return simclr.fit(images[:2])
