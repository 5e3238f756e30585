"""What instructions write, for their signatures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.signature import signature

Words = NDArray[np.uint32] | NDArray[np.int64] | int


class Writes:
    """Writes of the running instruction; none are kept unless ``kept``, which is check mode."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept
        self._written: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []

    def add(self, where: Words, value: Words) -> None:
        """``value`` was written to ``where``, one for all or one each; int64 values enter with their low 32 bits."""
        if not self.kept:
            return
        pattern = np.asarray(value)
        if pattern.dtype != np.uint32:
            pattern = (pattern.astype(np.int64) & 0xFFFF_FFFF).astype(np.uint32)
        i, v = np.broadcast_arrays(np.asarray(where, np.uint32), pattern)
        self._written.append((i.reshape(-1), v.reshape(-1)))

    def take(self) -> int:
        """The signature of everything since the last one was taken."""
        total = sum(signature(where, value) for where, value in self._written) & 0xFFFF_FFFF
        self._written.clear()
        return total
