"""MindPet's import path of its activations."""

from petrun.kernels.named_activations import ACTIVATIONS as _activation
from petrun.kernels.named_activations import LeakyReLU, LogSigmoid, get_activation
from petrun.kernels.named_activations import LogSoftmax as LogSoftmax

__all__ = ["LeakyReLU", "LogSigmoid", "_activation", "get_activation"]
