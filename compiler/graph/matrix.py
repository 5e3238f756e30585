"""Matrices that are computed a few rows at a time: what the compiler holds of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.tensors import F32, Codes, NoCodes, Rows, blocks

GAINS = "norm gains multiply their columns"


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
        result = np.empty(self.shape, np.float32)
        for part, here, around, within in self._reads():
            result[here] = part[around][within]
        with np.errstate(over="ignore"):
            for factor in self.factors:
                result *= factor
        return result

    def _reads(self) -> Iterator[tuple[Rows | F32, NDArray[np.int64], slice, NDArray[np.int64]]]:
        """Of each part that has rows here: where they stand, a slice of the part around them, and which of its rows they are."""
        order = np.arange(len(self)) if self.order is None else self.order
        first = 0
        for part in self.parts:
            here = np.flatnonzero((order >= first) & (order < first + part.shape[0]))
            if len(here):
                wanted = order[here] - first
                low = int(wanted.min())
                yield part, here, slice(low, int(wanted.max()) + 1), wanted - low
            first += part.shape[0]

    def codes(self) -> Iterator[tuple[str, NDArray[np.int64], Codes | NoCodes]]:
        """Of each part that a file holds quantised: its name, where its rows stand, and these as integers, or why they are none."""
        factor = 1.0
        for one in self.factors:
            factor = factor * float(np.min(one)) if np.min(one) == np.max(one) else np.nan
        for part, here, around, within in self._reads():
            if isinstance(part, Rows) and (found := part.codes(around)) is not None:
                if isinstance(found, Codes):
                    found = found[within] * factor if np.isfinite(factor) else NoCodes(GAINS, found.format)
                yield part.name, here, found

    def blocks(self) -> Iterator[F32]:
        """:meth:`values` of the first rows, the next ones, and so on."""
        return (self[rows].values() for rows in blocks(self.shape))

    def largest(self) -> float:
        """The largest magnitude; NaN where a factor made one."""
        return float(np.max([np.abs(block).max() for block in self.blocks()]))
