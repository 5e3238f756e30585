"""Rotary tables from the keys of a ``config.json``: ``rope_parameters``, or ``rope_scaling`` and keys beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import BOOLEAN, NULL, Accepted, list_of, number, one_of, shown, whole
from skipopu.errors import CheckpointError


@dataclass(frozen=True)
class Rope:
    """A rotary table: at position p, pair i of a head turns by p * frequencies[i]; cos and sin are multiplied by ``factor``.

    Pairs are (i, i + n) of a head's first 2n elements, n = len(frequencies); the elements behind them are not rotated, nor are any
    where there are no frequencies.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0


THETA = number(1, 1e15) | NULL
SHARE = number(0, 1) | NULL
_FACTOR, _POSITIONS, _SOME = number(1e-6, 1e6), whole(1, 1 << 32) | NULL, number(1e-9, 1e9) | NULL
_COMMON: dict[str, Accepted] = {"rope_theta": THETA, "partial_rotary_factor": SHARE}
# Keys of each type beside the common ones; those without null are needed.
TYPES: dict[str, dict[str, Accepted]] = {
    "default": {},
    "linear": {"factor": _FACTOR},
    "dynamic": {"factor": _FACTOR},
    "yarn": {
        "factor": _FACTOR | NULL,
        "original_max_position_embeddings": _POSITIONS,
        "attention_factor": _SOME,
        "beta_fast": _SOME,
        "beta_slow": _SOME,
        "mscale": _SOME,
        "mscale_all_dim": _SOME,
        "truncate": BOOLEAN | NULL,  # absent it is true
    },
    "longrope": {
        "factor": _FACTOR | NULL,
        "original_max_position_embeddings": _POSITIONS,
        "attention_factor": _SOME,
        "short_factor": list_of(_FACTOR),
        "long_factor": list_of(_FACTOR),
    },
    "llama3": {
        "factor": _FACTOR,
        "original_max_position_embeddings": _POSITIONS,
        "low_freq_factor": _FACTOR,
        "high_freq_factor": _FACTOR,
    },
}


@dataclass(frozen=True)
class Found:
    """One table: its base, whether it is the plain one over whole heads, and the positions up to which it is right."""

    rope: Rope
    theta: float
    plain: bool
    positions: int


def checked(parameters: dict[str, Any], where: str) -> dict[str, Any]:
    """``parameters`` with ``rope_type`` for ``type`` and without nulls, of which that of ``truncate`` means false.

    Raises:
        CheckpointError: an unknown type or key, a value out of range, a key that is missing.
    """
    given = {key: value for key, value in parameters.items() if value is not None}
    given |= {"truncate": False} if parameters.get("truncate", True) is None else {}
    names = [given.pop(key) for key in ("rope_type", "type") if key in given]
    for name in names:
        one_of(TYPES).check(name, f"{where}.rope_type", CheckpointError)
    if len(set(names)) > 1:
        raise CheckpointError(f"{where}: rope_type is {names[0]!r} and type is {names[1]!r}; accepted: one type")
    kind = names[0] if names else "default"
    keys = _COMMON | TYPES[kind]
    for key, value in given.items():
        if key not in keys:
            raise CheckpointError(
                f"{where}.{key} is {shown(value)}; accepted keys of rope_type {kind!r}: {', '.join(('rope_type', *keys))}"
            )
        keys[key].check(value, f"{where}.{key}", CheckpointError)
    for key, accepted in TYPES[kind].items():
        if key not in given and not accepted.holds(None):
            raise CheckpointError(f"{where}.{key} is missing; rope_type {kind!r} needs {accepted.text}")
    return given | {"rope_type": kind}


def table(given: dict[str, Any], head_dim: int, positions: int, where: str) -> Found:
    """The table of :func:`checked` parameters for heads of ``head_dim`` elements and a model of ``positions`` positions.

    Where the model would compute another table for longer texts (``dynamic``, ``longrope``) the positions end before that.

    Raises:
        CheckpointError: an odd number of rotated elements, or factors that do not match it.
    """
    kind, theta, share = given["rope_type"], float(given.get("rope_theta", 10000.0)), given.get("partial_rotary_factor", 1)
    size = int(head_dim * share)
    if size % 2:
        raise CheckpointError(f"{where}: {size} of {head_dim} elements of a head are rotated; accepted: an even number")
    frequencies = theta ** (-np.arange(0, size, 2) / max(size, 1))
    factor, original = given.get("factor"), given.get("original_max_position_embeddings", positions)
    attention = 1.0
    if kind == "linear":
        frequencies = frequencies / given["factor"]
    elif kind == "llama3":
        frequencies = _llama3(frequencies, given, original, where)
    elif kind in ("yarn", "longrope"):
        factor = positions / original if factor is None else factor
        if kind == "yarn":
            frequencies = _yarn(frequencies, given, factor, theta, original, where)
            attention = _magnitude(factor, given.get("mscale"), given.get("mscale_all_dim"))
        else:
            for key in ("short_factor", "long_factor"):
                if len(given[key]) != size // 2:
                    raise CheckpointError(
                        f"{where}.{key} has {len(given[key])} numbers; accepted: {size // 2}, one for each pair"
                    )
            if original < 2:
                raise CheckpointError(f"{where}.original_max_position_embeddings is {original}; accepted: 2 or more")
            frequencies = frequencies / np.array(given["short_factor"])
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            positions = min(positions, original)
        attention = given.get("attention_factor", attention)
    plain = kind in ("default", "dynamic") and size == head_dim
    return Found(Rope(tuple(frequencies.tolist()), float(attention)), theta, plain, positions)


def _llama3(frequencies: NDArray[np.float64], given: dict[str, Any], original: int, where: str) -> NDArray[np.float64]:
    """Long waves slowed down by the factor, short ones not, those between in part."""
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    if not low < high:
        raise CheckpointError(
            f"{where}: low_freq_factor is {low:g} and high_freq_factor is {high:g}; accepted: a larger high one"
        )
    turns = original * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - share) * frequencies / given["factor"] + share * frequencies


def _yarn(
    frequencies: NDArray[np.float64], given: dict[str, Any], factor: float, theta: float, original: int, where: str
) -> NDArray[np.float64]:
    """YaRN (arXiv 2309.00071): pairs that turn often stay, those that turn seldom are slowed down, with a ramp between."""
    if theta == 1:
        raise CheckpointError(f"{where}.rope_theta is 1; rope_type 'yarn' needs a larger one")
    size = 2 * len(frequencies)

    def pair(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(given.get("beta_fast", 32)), pair(given.get("beta_slow", 1))
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    slowed = np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
    return frequencies / factor * slowed + frequencies * (1 - slowed)


def _magnitude(factor: float, mscale: float | None, all_dimensions: float | None) -> float:
    def of(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    return of(mscale) / of(all_dimensions) if mscale and all_dimensions else of(1)
