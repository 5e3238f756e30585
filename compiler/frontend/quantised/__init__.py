"""Checkpoints that are quantised already: one file for each way in which they are stored, by config.json's ``quant_method``.

Each gives the plain matrices that the stored tensors stand for, dequantised exactly, (number - zero point) * scale in FP32, some rows at
a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compiler.frontend.quantised import awq, compressed, fp8, gptq
from compiler.frontend.quantised.packed import Packed
from compiler.frontend.stored import FLOATS, Stored
from skipopu.accept import MAPPING
from skipopu.errors import CheckpointError
from skipopu.families import QUANTISED

# Of activations, which are not quantised here.
ASIDE = tuple(f".{what}_{part}" for what in ("input", "output", "k", "v", "q") for part in ("scale", "zero_point"))
_MATRICES: dict[str, Callable[[Stored, Mapping[str, Any], str], dict[str, Packed]]] = {
    "awq": awq.matrices,
    "compressed-tensors": compressed.matrices,
    "fp8": fp8.matrices,
    "gptq": gptq.matrices,
}
assert set(_MATRICES) == set(QUANTISED), "methods that are declared and methods that are read differ"


def unpack(config: Mapping[str, Any], where: str) -> Callable[[Stored], dict[str, Packed]]:
    """What finds the matrices of quantised files, by a ``quantization_config`` that ``where`` names.

    Raises:
        CheckpointError: it asks for something unsupported; later, the files hold something else than it describes.
    """

    def found(stored: Stored) -> dict[str, Packed]:
        method = config["quant_method"]
        if not (matrices := _MATRICES[method](stored, config, where)):
            file = next(iter(stored.files.values()), "no file")
            odd = [f"; tensor {name} holds {kind}" for name, kind in stored.kinds.items() if kind not in FLOATS]
            raise CheckpointError(f"{file}: no tensor is quantised; {where}.quant_method is {method!r}{''.join(odd[:1])}")
        return matrices

    return found


def remarks(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """What the machine does not do of it."""
    groups: Any = config.get("config_groups")
    schemes = [scheme for scheme in groups.values() if MAPPING.holds(scheme)] if MAPPING.holds(groups) else []
    keys = [key for key in ("activation_scheme", "kv_cache_scheme") if config.get(key)]
    for key in ("input_activations", "output_activations"):
        keys += [key] if any(scheme.get(key) for scheme in schemes) else []
    return (
        (f"{where} asks for {' and '.join(keys)}; activations are not quantised here, weights are as stored",) if keys else ()
    )
