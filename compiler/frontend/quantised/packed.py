"""A matrix that is made of several stored tensors, and what formats have in common: packed fields, and scales of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.stored import FLOATS, Stored
from compiler.frontend.tensors import F32, Codes, NoCodes, Shape
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import Format

I64 = NDArray[np.int64]
ACT_ORDER = "columns of one scale lie apart (act-order)"
FLOATING = "their numbers are floating-point"


@dataclass(frozen=True)
class Packed:
    """A matrix of (rows, n): ``tensors`` that it is made of, its rows as float32, and as integers with scales or why not so."""

    shape: Shape
    tensors: tuple[str, ...]
    read: Callable[[slice], F32]
    codes: Callable[[slice], Codes | NoCodes]


@dataclass(frozen=True)
class Grouped:
    """Some rows as they are stored: each number stands for (number - zero) * scale.

    Attributes: numbers (rows, n), integers or float32; scales (rows, groups) float32; zeros (rows, groups) of the numbers' kind, None
    for none.
    """

    numbers: NDArray[Any]
    scales: F32
    zeros: NDArray[Any] | None = None


def grouped(
    shape: Shape,
    tensors: tuple[str, ...],
    rows_of: Callable[[int, int], Grouped],
    group: int,
    format: Format | None,
    order: I64 | None = None,
) -> Packed:
    """The matrix whose rows ``rows_of(first, end)`` gives, of ``format`` (see :class:`Codes`); scales of ``group`` neighbouring columns, or those in
    ``order`` (n,)."""
    column = np.arange(shape[1]) // group if order is None else order
    whole = order is None and shape[1] % group == 0

    def with_each(operation: np.ufunc, numbers: NDArray[Any], table: NDArray[Any]) -> NDArray[Any]:
        """``operation`` of numbers (rows, n) and what the table (rows, groups) has for their columns."""
        if whole:  # several times as fast
            by_group = numbers.reshape(len(numbers), shape[1] // group, group)
            return operation(by_group, table[..., None]).reshape(numbers.shape)
        return operation(numbers, table[:, column])

    def less_zeros(rows: slice) -> tuple[NDArray[Any], F32]:
        first, end, step = rows.indices(shape[0])
        assert step == 1
        found = rows_of(first, max(first, end))
        numbers = found.numbers if found.numbers.dtype == np.float32 else found.numbers.astype(np.int16, copy=False)
        if found.zeros is not None:
            numbers = with_each(np.subtract, numbers, found.zeros.astype(numbers.dtype))
        return numbers, found.scales

    def read(rows: slice) -> F32:
        with np.errstate(over="ignore", invalid="ignore"):  # found by the frontend, which names the tensor
            return with_each(np.multiply, *less_zeros(rows))

    def codes(rows: slice) -> Codes | NoCodes:
        if format is None:
            return NoCodes(FLOATING)
        if order is not None:
            return NoCodes(ACT_ORDER, format)
        return Codes(*less_zeros(rows), group, format)

    return Packed(shape, tensors, read, codes)


def fields(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """(..., k) int32 words as (..., k * 32 / bits) unsigned fields of 4 or 8 bits, lowest first."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits == 8:
        return octets
    nibbles = np.empty((*octets.shape, 2), np.uint8)
    nibbles[..., 0], nibbles[..., 1] = octets & 15, octets >> 4
    return nibbles.reshape(*octets.shape[:-1], 2 * octets.shape[-1])


def of_blocks(
    stored: Stored, name: str, by: str, shape: Shape, block: Shape, kinds: tuple[str, ...] = FLOATS
) -> Callable[[int, int], NDArray[Any]]:
    """Reads (rows, groups) of the tensor that has one number for each block of a matrix of ``shape``; not all are read at once.

    Raises:
        CheckpointError: it is missing, of another kind or shape.
    """
    sizes = tuple(-(-total // size) for total, size in zip(shape, block, strict=True))
    stored.need(name, kinds, None, by)
    flat = [size for size in stored.shapes[name] if size != 1]
    if flat != [size for size in sizes if size != 1]:
        raise CheckpointError(
            f"{stored.files[name]}: tensor {name} has shape {stored.shapes[name]}; {by} and config.json ask for {sizes}"
        )
    whole = stored.shapes[name] != sizes

    def rows(first: int, end: int) -> NDArray[Any]:
        low, high = first // block[0], -(-end // block[0])
        table = stored.take(name).reshape(sizes)[low:high] if whole else stored.take(name, slice(low, high))
        return table[np.arange(first, end) // block[0] - low]

    return rows


def divides(stored: Stored, name: str, n: int, group: int) -> int:
    """``group``, or ``n`` for -1; raises CheckpointError where it does not divide the columns of the matrix that ``name`` holds."""
    group = n if group == -1 else group
    if n % group:
        raise CheckpointError(
            f"{stored.files[name]}: tensor {name} has {n} columns; accepted: a multiple of the group of {group}"
        )
    return group


def order_of(stored: Stored, name: str, by: str, n: int, group: int) -> I64 | None:
    """(n,) the group of each column, from the tensor that says so; None where neighbours share one anyway.

    Raises:
        CheckpointError: the tensor is misshapen, or its groups are not those of ``group`` columns each.
    """
    stored.need(name, ("I32", "I64"), (n,), by)
    order = stored.take(name).astype(np.int64)
    plain = np.arange(n) // group
    if (order == plain).all():
        return None
    if not (np.sort(order) == plain).all():
        raise CheckpointError(
            f"{stored.files[name]}: tensor {name} is no order of {n // group} groups of {group} columns, from 0 to {n // group - 1}"
        )
    return order
