"""Weight streams of a memory image as arrays, decoded once per address."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.machine.config import Machine
from skipopu.numerics.formats import Format
from skipopu.streams import stream_of

F64 = NDArray[np.float64]
Key = tuple[int, int, int, int, Format]  # address, rows, groups, group, format


@dataclass
class WeightCache:
    """Decodes streams on first use. The image's weights do not change while a program runs."""

    memory: list[NDArray[np.uint8]]
    machine: Machine

    def __post_init__(self) -> None:
        self.codes: dict[Key, tuple[NDArray[np.int8], NDArray[np.float16]]] = {}
        self._known: dict[Key, F64] = {}

    def get(self, address: int, rows: int, groups: int, group: int, format: Format) -> F64:
        """(groups, group, rows) float64, code times scale: integers times a power of two, sums of 128 stay exact."""
        key = (address, rows, groups, group, format)
        if key not in self._known:
            stream = stream_of(self.machine, rows, groups, group, format)
            q, scale = stream.unpack([port[address : address + stream.size] for port in self.memory])
            wide = q.astype(np.float64) * scale.astype(np.float64)[..., None]
            self.codes[key] = q, scale
            self._known[key] = np.ascontiguousarray(wide.transpose(1, 2, 0))
        return self._known[key]
