"""The pool of KV entries: which exist, where they lie, which one a layer sees of a token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.errors import ProgramError


class KvPool:
    """Entries in the order of their allocation, as attention reads them.

    Attributes:
        entries: how many there are. next: number of the next one. places: (ports,) how many of them in each.
        map: (layers, context) number of the entry that a layer sees of a token.
        port_place: (entries, 2), where each lies.
        keys, values: (entries, kv_heads, head_dim) aligned. fields: (entries, kv_heads, 2), their exponents.
    """

    def __init__(self, ports: int) -> None:
        self.entries = self.next = 0
        self.places = np.zeros(ports, np.int64)
        self.map: NDArray[np.int64] = np.zeros((1, 1), np.int64)
        self._reserve(1, 1, 1)

    def plan(self, layers: int, context: int) -> None:
        """Makes the map as large as that."""
        if self.map.shape != (layers, context):
            self.map = np.zeros((layers, context), np.int64)

    def rewind(self, position: int) -> None:
        """Gives back what tokens from ``position`` on have.

        Raises:
            ProgramError: a port's places of theirs lie between those of tokens before, with which they shared a chunk.
        """
        kept = np.unique(self.map[:, :position])
        if not position:
            kept = kept[:0]
        ports, places = self.port_place[kept].T
        counts = np.bincount(ports, minlength=len(self.places))
        if (places >= counts[ports]).any():
            raise ProgramError(
                f"position {position} is inside a chunk of more tokens than ports; accepted: a chunk's first one"
            )
        self.places[:] = counts
        self.entries, self.next = len(kept), int(kept.max(initial=-1)) + 1

    def inherit(self, layer: int, tokens: slice) -> None:
        """``layer`` sees of ``tokens`` what the layer before it sees."""
        self.map[layer, tokens] = self.map[layer - 1, tokens]

    def take(self, ports: NDArray[np.int64]) -> NDArray[np.int64]:
        """A new entry's place in each of ``ports``."""
        places = np.empty_like(ports)
        for port in range(len(self.places)):
            here = ports == port
            places[here] = self.places[port] + np.arange(here.sum())
            self.places[port] += here.sum()
        return places

    def add(
        self,
        layer: int,
        tokens: NDArray[np.int64],
        port_place: NDArray[np.int64],
        aligned: NDArray[np.float64],
        fields: NDArray[np.int64],
    ) -> None:
        """New entries of ``tokens``: ``aligned`` (tokens, 2, kv_heads, head_dim), ``fields`` (tokens, 2, kv_heads)."""
        first, last = self.next, self.next + len(tokens)
        if len(self.keys) < last or self.keys.shape[1:] != aligned.shape[2:]:
            self._reserve(max(1024, 2 * last), *aligned.shape[2:])
        self.map[layer, tokens] = np.arange(first, last)
        self.port_place[first:last] = port_place
        self.keys[first:last], self.values[first:last] = aligned[:, 0], aligned[:, 1]
        self.fields[first:last] = fields.transpose(0, 2, 1)
        self.entries, self.next = self.entries + len(tokens), last

    def _reserve(self, size: int, heads: int, dim: int) -> None:
        """Room for ``size`` entries; those that exist are kept."""
        keep = self.next
        keys, values = np.zeros((size, heads, dim)), np.zeros((size, heads, dim))
        fields, port_place = np.zeros((size, heads, 2), np.int64), np.zeros((size, 2), np.int64)
        if keep:
            keys[:keep], values[:keep] = self.keys[:keep], self.values[:keep]
            fields[:keep], port_place[:keep] = self.fields[:keep], self.port_place[:keep]
        self.keys, self.values, self.fields, self.port_place = keys, values, fields, port_place
