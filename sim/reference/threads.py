"""How many threads PyTorch computes a model with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from skipopu.model_config import ModelConfig

SMALL = 1 << 20  # weights of a matrix


class Sized(Protocol):
    config: ModelConfig


S = TypeVar("S", bound=Sized)
P = ParamSpec("P")
R = TypeVar("R")


def few_threads(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A model's method on one thread where its matrices are small: more bring nothing, and wait for each other where cores are shared."""

    @functools.wraps(method)
    def on_few(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        before = torch.get_num_threads()
        if before == 1 or self.config.hidden_size * self.config.intermediate_size > SMALL:
            return method(self, *args, **kwargs)
        torch.set_num_threads(1)
        try:
            return method(self, *args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return on_few
