"""How many threads PyTorch computes with."""

from __future__ import annotations

import torch

from skipopu.model_config import ModelConfig

SMALL = 1 << 20  # weights of a matrix


def few_threads(config: ModelConfig) -> None:
    """One thread from here on, in the whole process, where a command's model has small matrices only.

    More bring these little, and wait for each other where cores are shared. A library's caller has ``torch.set_num_threads``.
    """
    if config.hidden_size * max(config.intermediate_size, config.vocab_size) <= SMALL:
        torch.set_num_threads(1)
