"""AWQ's GEMM version, as AutoAWQ writes it: unsigned fields of 4 bits and zero points, both packed along the output.

``qweight`` (n, rows / 8), ``qzeros`` (groups, rows / 8), ``scales`` (groups, rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.quantised.gptq import GROUP
from compiler.frontend.quantised.packed import Grouped, Packed, divides, fields, grouped
from compiler.frontend.stored import FLOATS, Stored
from skipopu.accept import one_of
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4Z

PLACE = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # of each of eight rows, its field in a word


def matrices(stored: Stored, config: Mapping[str, Any], where: str) -> dict[str, Packed]:
    one_of([4]).check(config.get("bits", config.get("w_bit")), f"{where}.bits", CheckpointError)
    group = GROUP.check(config.get("group_size", config.get("q_group_size")), f"{where}.group_size", CheckpointError)
    one_of(["gemm"]).check(str(config.get("version", "gemm")).lower(), f"{where}.version", CheckpointError)
    one_of([True]).check(config.get("zero_point", True), f"{where}.zero_point", CheckpointError)
    return {
        f"{name.removesuffix('qweight')}weight": _matrix(stored, name, group)
        for name in stored.files
        if name.endswith(".qweight")
    }


def _matrix(stored: Stored, name: str, group: int) -> Packed:
    base = name.removesuffix("qweight")
    stored.need(name, ("I32",), (None, None), name)
    n, words = stored.shapes[name]
    group = divides(stored, name, n, group)
    scales, zeros = f"{base}scales", f"{base}qzeros"
    stored.need(scales, FLOATS, (n // group, 8 * words), name)
    stored.need(zeros, ("I32",), (n // group, words), name)

    def unpacked(packed: str, first: int, end: int) -> NDArray[np.uint8]:
        """(rows, ...) of a tensor of words of eight rows."""
        found = fields(stored.take(packed, slice(None), slice(first // 8, -(-end // 8))), 4)
        found = found.reshape(len(found), found.shape[1] // 8, 8)[..., PLACE].reshape(found.shape)
        return found[:, first % 8 :][:, : end - first].T

    def rows_of(first: int, end: int) -> Grouped:
        scale = stored.take(scales, slice(None), slice(first, end)).T
        return Grouped(unpacked(name, first, end), scale, unpacked(zeros, first, end).astype(np.int16))

    return grouped((8 * words, n), (name, scales, zeros), rows_of, group, INT4Z)
