"""Vectors as aligned integers: the activation memory and the query memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Aligned:
    """Vectors of all slots in groups under a shared exponent.

    Attributes:
        mantissas: (slots, groups, group) integers. exponents: (slots, groups).
        keys: (slots, groups, group) of the elements, see :mod:`skipopu.numerics.mask`; -1 behind the last, and where none are kept.
    """

    def __init__(self, slots: int) -> None:
        self._shape(slots, 1, 1)

    def _shape(self, slots: int, groups: int, group: int) -> None:
        self.mantissas: NDArray[np.float64] = np.zeros((slots, groups, group))
        self.exponents = np.zeros((slots, groups), np.int64)
        self.keys = np.full((slots, groups, group), -1)

    def reserve(self, groups: int, group: int) -> None:
        """Room for ``groups`` of ``group`` elements; what was there is lost when that is another shape."""
        if self.mantissas.shape[1:] != (groups, group):
            self._shape(len(self.mantissas), groups, group)

    def put(
        self,
        slots: NDArray[np.int64],
        first: int,
        mantissas: NDArray[np.float64],
        exponents: NDArray[np.int64],
        keys: NDArray[np.int64] | None = None,
    ) -> None:
        """Places (slots, groups, group) from group ``first`` on; ``keys`` are (slots, elements)."""
        where = slice(first, first + mantissas.shape[1])
        self.mantissas[slots, where], self.exponents[slots, where] = mantissas, exponents
        if keys is not None:
            padding = np.full((len(slots), mantissas[0].size - keys.shape[1]), -1)
            self.keys[slots, where] = np.concatenate([keys, padding], 1).reshape(mantissas.shape)
