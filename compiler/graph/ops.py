"""The typed graph: values on chip and the operations between them, one macro-instruction each.

A graph has three straight lines of operations: ``prologue`` (once per chunk), ``body`` (once per layer) and ``epilogue``
(once per chunk). Weights of a body operation are lists over the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from compiler.graph.matrix import Matrix
from skipopu.isa.spec import AlignTarget, Epilogue, Finish, Reduce, TokenList, Unit
from skipopu.numerics.formats import INT4, Format


class Place(Enum):
    """Where a value lives."""

    BUFFER = "fp32 buffer"
    RESIDUAL = "activation memory, residual region"
    INNER = "activation memory, inner region"
    QUERY = "query memory"
    STATE = "machine state"  # rotary rows, the KV map: one of each
    DISPATCH = "dispatcher's state"  # token lists: an operation takes them along as it is handed over


ALIGNED = {Place.RESIDUAL: AlignTarget.RESIDUAL, Place.INNER: AlignTarget.INNER, Place.QUERY: AlignTarget.QUERY}


@dataclass(frozen=True)
class Value:
    """A vector per token slot: ``elements`` FP32 or aligned numbers."""

    name: str
    place: Place
    elements: int


@dataclass
class Weights:
    """Rows of one matrix product, over the layers (one entry for a product outside the layer loop).

    ``matrices`` are computed where they are placed. ``order`` names the arrangement of the checkpoint's rows, for readers of the
    image. ``split``: rows are quantised as pairs (high, low) of INT4 rows. ``format`` of the codes. ``routing``: they are routers'.
    """

    name: str
    matrices: list[Matrix]
    order: str = "plain"
    split: bool = False
    format: Format = INT4
    routing: bool = False

    @property
    def rows(self) -> int:
        return len(self.matrices[0]) * (2 if self.split else 1)

    @property
    def n(self) -> int:
        return self.matrices[0].shape[1]


@dataclass
class Adjust:
    """What an ADJUST reads from its records, over the layers (one entry for one outside the layer loop).

    ``gains`` and ``biases`` (elements,) float32, in the checkpoint's order until ``order``, see :mod:`skipopu.row_order`, is applied.
    ``tables`` is the rotary table of each layer, ``first`` where the elements start in the value that is adjusted. ``relu``: behind
    gain and bias, negative numbers are 0.
    """

    name: str
    gains: list[NDArray[np.float32]]
    biases: list[NDArray[np.float32]]
    reduce: Reduce = Reduce.NONE
    finish: Finish = Finish.STORE
    order: str = "plain"
    tables: tuple[int, ...] = ()
    first: int = 0
    relu: bool = False

    @property
    def elements(self) -> int:
        return len(self.gains[0])


@dataclass(frozen=True)
class Mask:
    """Thresholds (layers, channels) uint16 of what a product reads; ``name`` as in :data:`skipopu.masks.INPUT_OF`."""

    name: str
    thresholds: NDArray[np.uint16]


@dataclass
class Op:
    """One operation. ``reads`` and ``writes`` are values; ``tokens`` is the list it works on.

    An aligned value among ``writes`` is the aligned form of the FP32 value written before it.
    """

    kind: str  # embed, align, adjust, matmul, route, kvwrite, attend, store
    note: str
    tokens: TokenList
    reads: tuple[Value, ...] = ()
    writes: tuple[Value, ...] = ()
    weights: Weights | None = None
    epilogue: Epilogue = Epilogue.STORE
    norm: bool = False
    argmax: bool = False
    rope_rows: int = 0
    adjust: Adjust | None = None
    mask: Mask | None = None
    pop: int = 0  # dependence tokens, bit = Unit
    push: int = 0

    @property
    def unit(self) -> Unit:
        return {"matmul": Unit.ARRAY, "attend": Unit.ATTENTION}.get(self.kind, Unit.VECTOR)

    @property
    def aligns(self) -> AlignTarget:
        """Where the result goes in aligned form."""
        return next((ALIGNED[v.place] for v in self.writes if v.place in ALIGNED), AlignTarget.NONE)


@dataclass
class Graph:
    prologue: list[Op]
    body: list[Op]
    epilogue: list[Op]
    layers: int

    def ops(self) -> Iterator[Op]:
        yield from self.prologue
        yield from self.body
        yield from self.epilogue
