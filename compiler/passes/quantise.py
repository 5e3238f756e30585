"""Rounds weights to groups of the chosen format, to nearest, where their file holds no such integers; routers to two INT4 digits."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.tensors import Codes, NoCodes, Rows
from compiler.graph.matrix import Matrix
from compiler.graph.ops import Graph, Weights
from skipopu.numerics.formats import INT4, INT4Z, INT8, Format, quantise_split

WIDEST = (INT8, INT4Z, INT4)  # formats of quantised files, one that holds those behind it first


def quantise(graph: Graph, weights: Format | None, known: Collection[str]) -> Graph:
    """Chooses the format of all products but the routers' last layers; :func:`rounded` makes the codes where they are placed.

    Without ``weights`` it is the widest one, of those that the machine has ``known``, of a product's rows in its file, in any layer,
    placed or rounded again. Other products get INT4Z where one of the file's does, else INT4; routers INT4.
    """
    products = [op.weights for op in graph.ops() if op.weights is not None and not op.weights.split]
    own = [None if weights else _own_format(product, known) for product in products]
    for product, found in zip(products, own, strict=True):
        product.format = weights or found or (INT4Z if INT4Z in own and not product.routing else INT4)
    return graph


def _own_format(weights: Weights, known: Collection[str]) -> Format | None:
    parts = [part for matrix in weights.matrices for part in matrix.parts if isinstance(part, Rows)]
    held = {codes.format for part in parts if (codes := part.codes(slice(0, 1))) is not None}
    return next((format for format in WIDEST if format in held and format.name in known), None)


# Quantised matrices by name: why rows of them were rounded again, "" where all were placed as their files' own integers.
Placed = dict[str, str]


def rounded(weights: Weights, matrix: Matrix, group: int, placed: Placed) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes (rows, groups, group) and scales (rows, groups) of some rows of a matrix; two rows for each that is split.

    Rows that their file holds as integers of the format, with a scale for each group, are these; all others are rounded.
    """
    if weights.split:
        return quantise_split(matrix.values(), group)
    form, (rows, n) = weights.format, matrix.shape
    groups = -(-n // group)
    result, scales = np.zeros((rows, groups * group), np.int8), np.zeros((rows, groups), np.float16)
    left = np.ones(rows, bool)
    for name, here, codes in matrix.codes():
        found = codes.why if isinstance(codes, NoCodes) else _own(codes, form, group)
        if not isinstance(found, str):
            there, integers, own = found
            result[here[there], :n], scales[here[there]] = integers, own
            left[here[there]] = False
            found = "" if there.all() else f"their integers, less zero points, are beyond {form.name}"
        placed[name] = placed.get(name) or found
    result = result.reshape(rows, groups, group)
    if left.all():
        return form.quantise(matrix.values(), group)
    if left.any():
        result[left], scales[left] = form.quantise(matrix[np.flatnonzero(left)].values(), group)
    return result, scales


def _own(codes: Codes, form: Format, group: int) -> tuple[NDArray[np.bool_], NDArray[np.int16], NDArray[np.float16]] | str:
    """Which rows the format holds as they are, their integers (rows, n) and scales (rows, groups); or why none."""
    given = codes.scales_of(group)
    if given is None:
        return f"their scales are of {codes.group} columns, the program's of {group}"
    with np.errstate(over="ignore"):
        scales = np.abs(given).astype(np.float16)
    integers = codes.integers
    if (given < 0).any():  # the machine's scales have no sign
        signs = np.where(given < 0, -1, 1).astype(np.int16)
        integers = integers * np.repeat(signs, group, 1)[:, : integers.shape[1]]
    there = form.holds(integers, group) & np.all(np.isfinite(scales), axis=1)
    return there, integers[there], scales[there]


def again(placed: Placed) -> list[str]:
    """A sentence about quantised matrices that were rounded again, if any were."""
    reasons: dict[str, list[str]] = {}
    for name, reason in placed.items():
        reasons.setdefault(reason, []).append(name)
    reasons.pop("", None)
    if not reasons:
        return []
    parts = [f"{len(names)} as {reason} ({names[0]}{', ...' if names[1:] else ''})" for reason, names in reasons.items()]
    count = sum(map(len, reasons.values()))
    return [f"{count} of {len(placed)} quantised matrices are rounded again: {'; '.join(parts)}"]
