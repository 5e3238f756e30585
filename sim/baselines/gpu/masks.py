"""Which input channels decoded tokens read: drawn, a share of every input left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipopu.masks import channels
from skipopu.model_config import ModelConfig

SAMPLES = 4  # draws that take turns


@dataclass(frozen=True)
class Masks:
    """Of all layers and their inputs, by the names of :mod:`skipopu.masks`.

    Attributes:
        draws: (SAMPLES, layers, channels of all inputs) uint8, 1 = active; the token at position p has draw p mod SAMPLES.
        present: (1, layers, channels of all inputs) uint8, of the present token: what products look at.
        places: where each input's channels lie.
    """

    draws: Tensor
    present: Tensor
    places: dict[str, slice]

    def take(self, position: Tensor) -> None:
        """Those of the token at ``position``, (1,) int64, without the host."""
        torch.index_select(self.draws, 0, position % SAMPLES, out=self.present)

    def share(self, name: str) -> NDArray[np.float64]:
        """(layers, SAMPLES), the active share of an input's channels."""
        return self.draws[:, :, self.places[name]].double().mean(2).T.cpu().numpy()


def drawn(config: ModelConfig, share: float, device: torch.device, seed: int = 0) -> Masks:
    """Each channel is left out with probability ``share``, independently of all others and of the drawn routing."""
    places, start = {}, 0
    for name, count in channels(config).items():
        places[name] = slice(start, start + count)
        start += count
    active = np.random.default_rng((seed, 1)).random((SAMPLES, config.num_layers, start)) >= share
    draws = torch.from_numpy(active.astype(np.uint8)).to(device)
    return Masks(draws, torch.ones_like(draws[:1]), places)
