"""compressed-tensors, as LLM Compressor writes it: integers in words or bytes, or FP8, with scales of groups, rows, matrices, blocks.

``weight_packed`` (rows, n * bits / 32 rounded up) with ``weight_shape``, or ``weight``; ``weight_scale``; ``weight_zero_point`` and
``weight_g_idx``, perhaps. A field of b bits stands for itself less 2^(b - 1), zero points as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.quantised.fp8 import BLOCK, FP8
from compiler.frontend.quantised.packed import Grouped, Packed, divides, fields, grouped, of_blocks, order_of
from compiler.frontend.stored import FLOATS, Stored
from compiler.frontend.tensors import Shape
from skipopu.accept import BOOLEAN, MAPPING, NULL, TEXT, list_of, one_of, shown, whole
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4, INT4Z, INT8

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
STRATEGIES = ("tensor", "channel", "group", "block")
BYTES = ("I8", FP8)
_REORDERED = ("true", "group", "dynamic")  # values of actorder by which g_idx is read


def matrices(stored: Stored, config: Mapping[str, Any], where: str) -> dict[str, Packed]:
    groups = MAPPING.check(config.get("config_groups"), f"{where}.config_groups", CheckpointError)
    sparsity = MAPPING | NULL
    sparse = sparsity.check(config.get("sparsity_config"), f"{where}.sparsity_config", CheckpointError) or {}
    one_of(["dense"]).check(sparse.get("format", "dense"), f"{where}.sparsity_config.format", CheckpointError)
    one_of([None]).check(config.get("transform_config") or None, f"{where}.transform_config", CheckpointError)
    schemes = []
    for key, scheme in groups.items():
        what = f"{where}.config_groups.{key}"
        MAPPING.check(scheme, what, CheckpointError)
        form = scheme.get("format") or config.get("format")
        if scheme.get("weights") is not None:
            one_of(FORMATS).check(form, f"{where}.format", CheckpointError)
            schemes.append(_checked(scheme, what))
    found = {}
    for name, kind in stored.kinds.items():
        if name.endswith(".weight_packed") or (name.endswith(".weight") and kind in BYTES):
            module = name.rpartition(".")[0]
            weights = _scheme_of(module, schemes)
            if weights is None:
                raise CheckpointError(f"{stored.files[name]}: tensor {name} is quantised; {where} has no target for it")
            make = _packed if name.endswith("_packed") else _in_bytes
            found[f"{module}.weight"] = make(stored, name, weights)
    return found


def _checked(scheme: dict[str, Any], what: str) -> tuple[list[str], dict[str, Any]]:
    """The targets and the weights' own keys of a scheme."""
    targets = list_of(TEXT).check(scheme.get("targets"), f"{what}.targets", CheckpointError)
    weights = MAPPING.check(scheme["weights"], f"{what}.weights", CheckpointError)
    kinds = {
        "type": ("int", one_of(["int", "float"])),
        "num_bits": (8, one_of([8] if weights.get("type") == "float" else [4, 8])),
        "symmetric": (True, BOOLEAN),
        "dynamic": (False, one_of([False, None])),
    }
    given = {
        key: kind.check(weights.get(key, default), f"{what}.weights.{key}", CheckpointError)
        for key, (default, kind) in kinds.items()
    }
    size = weights.get("group_size")
    given["actorder"] = weights.get("actorder")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    given["strategy"] = one_of(STRATEGIES).check(strategy, f"{what}.weights.strategy", CheckpointError)
    if strategy == "group":
        given["group_size"] = whole(1, 1 << 20).check(size, f"{what}.weights.group_size", CheckpointError)
    if strategy == "block":
        given["block"] = BLOCK.check(weights.get("block_structure"), f"{what}.weights.block_structure", CheckpointError)
    for pattern in targets:
        try:
            re.compile(pattern.removeprefix("re:"))
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{what}.targets holds {pattern!r}, which is no pattern ({error})") from None
    return targets, given


def _scheme_of(module: str, schemes: list[tuple[list[str], dict[str, Any]]]) -> dict[str, Any] | None:
    """The scheme whose target is the module's name, else a pattern of it, else its class."""
    tests: tuple[Callable[[str], bool], ...] = (
        lambda target: target == module,
        lambda target: target.startswith("re:") and re.match(target[3:], module) is not None,
        lambda target: target == "Linear",
    )
    for test in tests:
        for targets, weights in schemes:
            if any(map(test, targets)):
                return weights
    return None


def _block(stored: Stored, name: str, shape: Shape, weights: dict[str, Any]) -> Shape:
    """Rows and columns that share a scale."""
    rows, n = shape
    if weights["strategy"] == "group":
        return 1, divides(stored, name, n, weights["group_size"])
    return {"tensor": (rows, n), "channel": (1, n), "block": tuple(weights.get("block", ()))}[weights["strategy"]]


def _made(
    stored: Stored,
    name: str,
    shape: Shape,
    weights: dict[str, Any],
    rows_of: Callable[[int, int], NDArray[Any]],
    more: tuple[str, ...] = (),
    kinds: tuple[str, ...] = ("I8",),
) -> Packed:
    """The matrix of numbers ``rows_of`` with the module's scales, zero points (of ``kinds``, or packed) and order."""
    module, block = name.rpartition(".")[0], _block(stored, name, shape, weights)
    scale, zero, index = (f"{module}.weight_{part}" for part in ("scale", "zero_point", "g_idx"))
    scales = of_blocks(stored, scale, name, shape, block)
    zeros, used = None, [name, *more, scale]
    if zero in stored.files or not weights["symmetric"]:
        used.append(zero)
        stored.need(zero, (*kinds, "I32"), None, name)
        zeros = _packed_zeros(stored, zero, name, shape, block, weights["num_bits"]) if stored.kinds[zero] == "I32" else None
        zeros = zeros or of_blocks(stored, zero, name, shape, block, kinds)
    order = None
    if index in stored.files:
        used.append(index)
        if (stored.take(index) != -1).any():
            order = order_of(stored, index, name, shape[1], block[1])
        if order is not None and str(weights["actorder"]).lower() not in _REORDERED:
            raise CheckpointError(
                f"{stored.files[index]}: tensor {index} reorders columns and actorder of config.json is"
                f" {shown(weights['actorder'])}; accepted: 'group', or an order of neighbours"
            )

    def rows(first: int, end: int) -> Grouped:
        return Grouped(rows_of(first, end), scales(first, end), zeros and zeros(first, end))

    format = (
        None if weights["type"] == "float" else INT8 if weights["num_bits"] == 8 else INT4 if weights["symmetric"] else INT4Z
    )
    return grouped(shape, tuple(used), rows, block[1], format, order)


def _packed_zeros(
    stored: Stored, zero: str, by: str, shape: Shape, block: Shape, bits: int
) -> Callable[[int, int], NDArray[np.int16]]:
    per = 32 // bits
    stored.need(zero, ("I32",), (-(-shape[0] // per), -(-shape[1] // block[1])), by)

    def rows(first: int, end: int) -> NDArray[np.int16]:
        words = stored.take(zero, slice(first // per, -(-end // per)))
        found = fields(words.T, bits).T[first % per :][: end - first]
        return found.astype(np.int16) - np.int16(1 << bits - 1)

    return rows


def _packed(stored: Stored, name: str, weights: dict[str, Any]) -> Packed:
    bits = weights["num_bits"]
    size = name.removesuffix("packed") + "shape"
    stored.need(size, ("I64", "I32"), (2,), name)
    rows, n = (int(number) for number in stored.take(size))
    stored.need(name, ("I32",), (rows, -(-n * bits // 32)), size)
    if weights["type"] != "int":
        raise CheckpointError(f"{stored.files[name]}: tensor {name} holds words; accepted: {FP8}, as config.json says float")

    def rows_of(first: int, end: int) -> NDArray[np.int16]:
        return fields(stored.take(name, slice(first, end)), bits)[:, :n].astype(np.int16) - np.int16(1 << bits - 1)

    return _made(stored, name, (rows, n), weights, rows_of, (size,))


def _in_bytes(stored: Stored, name: str, weights: dict[str, Any]) -> Packed:
    kind = FP8 if weights["type"] == "float" else "I8"
    stored.need(name, (kind,), (None, None), name)
    kinds = (kind, *FLOATS) if kind == FP8 else (kind,)
    return _made(
        stored, name, stored.shapes[name], weights, lambda first, end: stored.take(name, slice(first, end)), kinds=kinds
    )
