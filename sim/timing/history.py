"""What the KV history buffer holds: the layer of every token's last fetched entry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.program import Program


def valid_layers(executed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(layers, tokens): the last layer up to this one at which the token's attention executed; -1 is none."""
    return np.maximum.accumulate(np.where(executed, np.arange(len(executed))[:, None], -1), axis=0)


class History:
    """Contents of the buffers of all ports over one run.

    Attributes:
        valid: (layers, tokens), the layer whose entry is a token's present one: the last at which its attention executed.
        held: (tokens,), the layer whose entry the buffer holds; -1 is none.
    """

    def __init__(self, program: Program, routing: NDArray[np.bool_]) -> None:
        layers, tokens = len(routing), routing.shape[2]
        executed = routing[:, 0] if program.kv == "reuse" else np.ones((layers, tokens), bool)
        self.valid = valid_layers(executed)
        self.held = np.full(tokens, -1)
        self.ports = program.machine.ports

    def attend(self, layer: int, tokens: int, slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(hits, misses) per port when the first ``tokens`` are read with ``slots`` per port; what is read is kept."""
        kept = min(tokens, slots * self.ports)
        valid = self.valid[layer, :tokens]
        hit = np.zeros(tokens, bool)
        hit[:kept] = self.held[:kept] == valid[:kept]
        self.held[:kept] = valid[:kept]
        port = np.arange(tokens) % self.ports
        hits = np.bincount(port[hit], minlength=self.ports)
        return hits, np.bincount(port, minlength=self.ports) - hits
