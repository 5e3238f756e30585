"""Masks that a machine applied, as they are handed from one engine to another."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from skipopu.program.program import Program

Active = dict[str, NDArray[np.bool_]]  # by input, (layers, tokens, channels): which channels were read


class Masks:
    """Of one run's tokens; :meth:`see` is the functional engine's option ``masks``.

    Attributes:
        active: true where nothing was masked.
        seen: by input, bool (layers, tokens), which tokens were masked there.
    """

    def __init__(self, program: Program, tokens: int) -> None:
        layers = program.model.num_layers
        self.active: Active = {name: np.ones((layers, tokens, d["channels"]), bool) for name, d in program.masks.items()}
        self.seen = {name: np.zeros((layers, tokens), bool) for name in program.masks}
        self._inputs = {d["address"]: name for name, d in program.masks.items()}

    def until(self, tokens: int) -> Masks:
        """Those of the first ``tokens``."""
        first = copy.copy(self)
        first.active = {name: active[:, :tokens] for name, active in self.active.items()}
        first.seen = {name: seen[:, :tokens] for name, seen in self.seen.items()}
        return first

    def see(self, layer: int, address: int, positions: NDArray[np.int64], active: NDArray[np.bool_]) -> None:
        """A product's masks: bool (positions, channels) of a layer, thresholds at ``address`` in layer 0."""
        name = self._inputs[address]
        self.active[name][layer, positions], self.seen[name][layer, positions] = active, True
