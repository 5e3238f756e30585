"""Matrices that are computed a few rows at a time: what the compiler holds of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.tensors import F32, Rows, blocks


@dataclass(frozen=True)
class Matrix:
    """Rows of tensors under one another, in an order, times factors; written as of an array, computed by :meth:`values`.

    Attributes: parts, each (rows, n); factors, scalars or (n,), which multiply in turn; order of the rows, of all parts as they
    lie where it is None.
    """

    parts: tuple[Rows | F32, ...]
    factors: tuple[F32 | np.float32, ...] = ()
    order: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n)."""
        rows = sum(part.shape[0] for part in self.parts) if self.order is None else len(self.order)
        return rows, self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __mul__(self, factor: F32 | np.float32) -> Matrix:
        return replace(self, factors=(*self.factors, factor))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Matrix:
        order = np.arange(len(self)) if self.order is None else self.order
        return replace(self, order=order[rows])

    def split(self, count: int) -> list[Matrix]:
        """Equal parts, of the first rows, the next ones, and so on."""
        size = len(self) // count
        return [self[k * size : (k + 1) * size] for k in range(count)]

    def values(self) -> F32:
        """(rows, n) float32; infinite where a product is beyond it."""
        order = np.arange(len(self)) if self.order is None else self.order
        result = np.empty(self.shape, np.float32)
        first = 0
        for part in self.parts:
            here = np.flatnonzero((order >= first) & (order < first + part.shape[0]))
            if len(here):
                wanted = order[here] - first
                low = int(wanted.min())
                result[here] = part[low : int(wanted.max()) + 1][wanted - low]
            first += part.shape[0]
        with np.errstate(over="ignore"):
            for factor in self.factors:
                result *= factor
        return result

    def blocks(self) -> Iterator[F32]:
        """:meth:`values` of the first rows, the next ones, and so on."""
        return (self[rows].values() for rows in blocks(self.shape))

    def largest(self) -> float:
        """The largest magnitude; NaN where a factor made one."""
        return float(np.max([np.abs(block).max() for block in self.blocks()]))
