"""What the KV history buffer holds: the layers of every token's last fetched keys and values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.spec import TokenList
from skipopu.layout import KvEntry
from skipopu.machine.config import AHEAD_STEP
from skipopu.program.program import Program


def valid_layers(executed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(layers, tokens): the last layer up to this one at which the token's attention executed; -1 is none."""
    return np.maximum.accumulate(np.where(executed, np.arange(len(executed))[:, None], -1), axis=0)


def own_entries(program: Program, executed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(layers, tokens): of attention that ``executed``, where a token has an entry of the layer's own."""
    return executed if program.kv.stored is TokenList.ATTENTION else np.ones_like(executed)


class History:
    """Contents of the buffers of all ports over one run. Tokens go round the ports.

    Attributes:
        valid: (layers, rounds, 1, ports), the layer whose entry is a token's present one: the last at which its attention executed.
        held: (rounds, 2, ports), the layer whose keys and values the buffer holds; -1 is none.
        token: (rounds, 1, ports).
        runs: (2, 1), beats of an entry's keys and of its values.
    """

    def __init__(self, program: Program, routing: NDArray[np.bool_], entry: KvEntry) -> None:
        layers, tokens = len(routing), routing.shape[2]
        self.ports = ports = program.machine.ports
        rounds = -(-tokens // ports)
        executed = np.ones((layers, rounds * ports), bool)
        executed[:, :tokens] = own_entries(program, routing[:, 0])
        self.valid = valid_layers(executed).reshape(layers, rounds, 1, ports)
        self.held = np.full((rounds, 2, ports), -1)
        self.token = np.arange(rounds * ports).reshape(rounds, 1, ports)
        self.runs = np.array([[entry.key_beats], [entry.beats - entry.key_beats]])

    def attend(self, layer: int, tokens: int, slots: int, first: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(hits, misses), each (2, ports), when tokens ``first`` to ``tokens`` - 1 are read; what is read is kept.

        ``slots`` rounds of the ports have a place in the buffer.
        """
        ports = self.ports
        part = slice(first // ports, min(-(-tokens // ports), slots))
        held, valid = self.held[part], self.valid[layer, part]
        there = (self.token[part] >= first) & (self.token[part] < tokens)
        hits = ((held == valid) & there).sum(0)
        np.copyto(held, valid, where=there)
        before, read = ((end + ports - 1 - self.token[0]) // ports for end in (first, tokens))
        return hits, read - before - hits

    def missing(self, layer: int, tokens: int, slots: int, first: int = 0) -> int:
        """Beats that the first port has to fetch ahead of ``layer``, if there is time."""
        part = slice(first // self.ports, min(-(-tokens // self.ports), slots) if first < tokens else 0, AHEAD_STEP)
        missing = self.held[part, :, 0] != self.valid[layer, part, :, 0]
        return int(missing.sum(0) @ self.runs[:, 0])

    def fetch_ahead(
        self, layer: int, tokens: int, slots: int, beats: NDArray[np.int64], first: int = 0
    ) -> tuple[int, NDArray[np.int64]]:
        """Keeps what ``layer`` will read from ``first``'s round on, below ``tokens``, while each port has time for ``beats`` (ports,).

        Returns (beats of all that was begun, (ports,) of those the beats that are still to come). Ports are asked in turn, in every
        AHEAD_STEPth round, for values behind keys, and each takes two halves of entries ahead of its reads: one that has nothing to
        read runs ahead of the others by no more.
        """
        longest, start = int(beats.max()), first // self.ports
        last = min(-(-tokens // self.ports), slots, start + AHEAD_STEP * (4 + 2 * longest // int(self.runs.sum())))
        rounds = -(-(last - start) // AHEAD_STEP) if first < tokens else 0
        if rounds <= 0 or longest <= 0:
            return 0, np.zeros(self.ports, np.int64)
        part = slice(start, last, AHEAD_STEP)
        held, valid = self.held[part], self.valid[layer, part]
        missing = (held != valid) & (self.token[part] < tokens)
        cost = (missing * self.runs).reshape(2 * rounds, self.ports)  # halves of rounds in their order
        until = cost.cumsum(0)
        asked = 3 + int((until <= beats).sum(0).min())
        cost[until - cost >= beats] = 0
        cost[asked:] = 0
        np.copyto(held, valid, where=(cost != 0).reshape(held.shape))
        begun = cost.sum(0)
        return int(begun.sum()), np.maximum(begun - beats, 0)
