"""FP8 weights with a scale for each block (``weight_scale_inv``: DeepSeek-V3, Qwen3-FP8), each row or each matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.frontend.quantised.packed import Grouped, Packed, grouped, of_blocks
from compiler.frontend.stored import FLOATS, Stored
from skipopu.accept import NULL, Accepted, list_of, one_of, whole
from skipopu.errors import CheckpointError

FP8 = "F8_E4M3"
SIZE = whole(1, 1 << 20)
BLOCK = Accepted("two block sizes", lambda value: list_of(SIZE).holds(value) and len(value) == 2)


def matrices(stored: Stored, config: Mapping[str, Any], where: str) -> dict[str, Packed]:
    one_of(["e4m3", "float8_e4m3fn"]).check(config.get("fmt", "e4m3"), f"{where}.fmt", CheckpointError)
    block = (BLOCK | NULL).check(config.get("weight_block_size"), f"{where}.weight_block_size", CheckpointError)
    found = {}
    for name, kind in stored.kinds.items():
        if kind != FP8:
            continue
        stored.need(name, (FP8,), (None, None), name)
        rows, n = stored.shapes[name]
        scale = f"{name}_scale" if f"{name}_scale" in stored.files else f"{name}_scale_inv"
        per_row = block is None and stored.shapes.get(scale, ())[:1] == (rows,) and rows > 1
        size = (1 if per_row else rows, n) if block is None else tuple(block)
        found[name] = floating(stored, name, scale, size)
    return found


def floating(stored: Stored, name: str, scale: str, block: tuple[int, ...]) -> Packed:
    """The matrix of FP8 numbers ``name`` with a scale for each of its blocks."""
    scales = of_blocks(stored, scale, name, stored.shapes[name], block, (*FLOATS, "F8_E8M0"))

    def rows_of(first: int, end: int) -> Grouped:
        return Grouped(stored.take(name, slice(first, end)), scales(first, end))

    return grouped(stored.shapes[name], (name, scale), rows_of, block[1], None)
