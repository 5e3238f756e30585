"""GPTQ, as AutoGPTQ and GPTQModel write it: unsigned fields packed along the input, zero points along the output.

``qweight`` (n / f, rows), f fields to a word; ``scales`` (groups, rows); ``qzeros`` (groups, rows / f); ``g_idx`` (n,), perhaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.quantised.packed import Grouped, Packed, divides, fields, grouped, order_of
from compiler.frontend.stored import FLOATS, Stored
from skipopu.accept import MAPPING, NULL, Accepted, one_of, whole
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4, INT4Z, INT8, Format

BITS = one_of((4, 8))
FORMATS = ("gptq", "gptq_v2")
GROUP = Accepted("-1 or an integer from 1 to 1048576", lambda value: value == -1 or whole(1, 1 << 20).holds(value))


def matrices(stored: Stored, config: Mapping[str, Any], where: str) -> dict[str, Packed]:
    bits = BITS.check(config.get("bits"), f"{where}.bits", CheckpointError)
    format = INT8 if bits == 8 else INT4Z if config.get("sym") is False else INT4
    group = GROUP.check(config.get("group_size"), f"{where}.group_size", CheckpointError)
    form = config.get("checkpoint_format", config.get("format", "gptq"))
    one_of(FORMATS).check(form, f"{where}.checkpoint_format", CheckpointError)
    kept_apart = Accepted("null or patterns that start with '-:'", lambda v: NULL.holds(v) or _exclusions(v))
    kept_apart.check(config.get("dynamic"), f"{where}.dynamic", CheckpointError)
    writer = str((config.get("meta") or {}).get("quantizer", "")) if MAPPING.holds(config.get("meta")) else ""
    less = form == "gptq"
    return {
        f"{name.removesuffix('qweight')}weight": _matrix(stored, name, format, group, less, "gptqmodel" in writer)
        for name in stored.files
        if name.endswith(".qweight")
    }


def _exclusions(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and key.startswith("-:") for key in value)


def _matrix(stored: Stored, name: str, format: Format, group: int, less: bool, whole_words: bool) -> Packed:
    """``less``: zero points are stored less 1; ``whole_words``: taken off words, not off each field."""
    base, bits = name.removesuffix("qweight"), format.bits
    per = 32 // bits
    stored.need(name, ("I32",), (None, None), name)
    words, rows = stored.shapes[name]
    n = words * per
    group = divides(stored, name, n, group)
    scales, zeros, index = f"{base}scales", f"{base}qzeros", f"{base}g_idx"
    stored.need(scales, FLOATS, (n // group, rows), name)
    if rows % per:
        raise CheckpointError(f"{stored.files[name]}: tensor {name} is of {rows} rows; accepted: a multiple of {per}")
    stored.need(zeros, ("I32",), (n // group, rows // per), name)
    ordered = index in stored.files
    order = order_of(stored, index, name, n, group) if ordered else None

    def offsets(first: int, end: int) -> NDArray[np.int16]:
        table = stored.take(zeros, slice(None), slice(first // per, -(-end // per)))
        if less and whole_words:
            table = table + np.uint32(0x11111111 if bits == 4 else 0x01010101).view(np.int32)
        found = fields(table, bits)[:, first % per :][:, : end - first].T.astype(np.int16)
        if not less or whole_words:
            return found
        if (found == (1 << bits) - 1).any():
            # Readers differ about what is stored for a zero point of 0, and AutoGPTQ spoils the fields beside it.
            raise CheckpointError(
                f"{stored.files[zeros]}: tensor {zeros} holds {(1 << bits) - 1}, a zero point of {1 << bits} or of 0; accepted:"
                f" below, or checkpoint_format {FORMATS[1]}"
            )
        return found + np.int16(1)

    def rows_of(first: int, end: int) -> Grouped:
        # Fields of a word are neighbouring columns.
        part = fields(stored.take(name, slice(None), slice(first, end)).T, bits)
        return Grouped(part, stored.take(scales, slice(None), slice(first, end)).T, offsets(first, end))

    return grouped((rows, n), (name, scales, zeros, *([index] if ordered else [])), rows_of, group, format, order)
