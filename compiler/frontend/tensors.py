"""Tensors by name that are read, or computed, when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.formats import Format

F32 = NDArray[np.float32]
Shape = tuple[int, ...]
BLOCK = 1 << 22  # elements that are computed at once, 16 MB: small beside any image, long enough for NumPy


@dataclass(frozen=True)
class Codes:
    """Rows of a matrix as a quantised file holds them: each integer stands for itself times the scale of its columns.

    Attributes: integers (rows, n), zero points taken off; scales (rows, groups), each of ``group`` columns, the last perhaps of fewer;
    ``format`` of as many bits, with zero points where the file has them.
    """

    integers: NDArray[np.int16]
    scales: F32
    group: int
    format: Format

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Codes:
        return replace(self, integers=self.integers[rows], scales=self.scales[rows])

    def __mul__(self, factor: float) -> Codes:
        with np.errstate(over="ignore"):
            return replace(self, scales=self.scales * np.float32(factor))

    def scales_of(self, group: int) -> F32 | None:
        """Scales (rows, groups) of ``group`` columns each; None where such columns have several."""
        n = self.integers.shape[1]
        first = np.arange(0, n, group)
        last = np.minimum(first + group, n) - 1
        return self.scales[:, first // self.group] if (first // self.group == last // self.group).all() else None


@dataclass(frozen=True)
class NoCodes:
    """Why rows of a quantised file are not placed as its own integers; their ``format`` as in :class:`Codes`, None of other numbers."""

    why: str
    format: Format | None = None


# What quantised files hold: rows as integers, why not so, or None where the file is not quantised.
Held = Codes | NoCodes | None


def _none(name: str, rows: slice) -> Held:
    return None


class Tensors(Mapping[str, F32]):
    """Float32 tensors that are not kept: each access reads anew, of rows only these.

    ``shapes`` has every tensor's shape, which costs no read. ``read(name, rows)`` gives a slice of rows, ``slice(None)`` all;
    ``codes(name, rows)`` gives them as the file's integers.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], read: Callable[[str, slice], F32], codes: Callable[[str, slice], Held] = _none
    ) -> None:
        self.shapes, self.read, self.codes = shapes, read, codes

    def __getitem__(self, name: str) -> F32:
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name, slice(None))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class FileTensors(Tensors):
    """Tensors of files: ``files`` has the file of each, ``packed`` those that are quantised.

    ``merged`` names those that are not as the files have them.
    """

    files: dict[str, Path]
    packed: dict[str, Any]
    merged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Rows:
    """A tensor whose slices are read when they are taken."""

    tensors: Tensors
    name: str

    @property
    def shape(self) -> Shape:
        return self.tensors.shapes[self.name]

    def __getitem__(self, rows: slice) -> F32:
        return self.tensors.read(self.name, rows)

    def codes(self, rows: slice) -> Held:
        return self.tensors.codes(self.name, rows)


def blocks(shape: Shape) -> Iterator[slice]:
    """Rows of a tensor that are computed at once: the first ones, the next ones, and so on."""
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return (slice(first, first + step) for first in range(0, shape[0], step))


def rows_of(tensors: Mapping[str, F32], name: str) -> Rows | F32:
    """A tensor's shape, and its rows by slices; nothing is read for it."""
    return Rows(tensors, name) if isinstance(tensors, Tensors) else tensors[name]
