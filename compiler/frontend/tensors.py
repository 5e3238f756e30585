"""Tensors by name that are read, or computed, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Shape = tuple[int, ...]


class Tensors(Mapping[str, F32]):
    """Float32 tensors that are not kept: each access reads anew, of rows only these.

    ``shapes`` has every tensor's shape, which costs no read. ``read(name, rows)`` gives a slice of rows, ``slice(None)`` all.
    """

    def __init__(self, shapes: Mapping[str, Shape], read: Callable[[str, slice], F32]) -> None:
        self.shapes, self.read = shapes, read

    def __getitem__(self, name: str) -> F32:
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name, slice(None))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


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


def rows_of(tensors: Mapping[str, F32], name: str) -> Rows | F32:
    """A tensor's shape, and its rows by slices; nothing is read for it."""
    return Rows(tensors, name) if isinstance(tensors, Tensors) else tensors[name]
