"""Weight formats: small integers with one FP16 scale per group along the input.

In memory a code is one nibble or two. The array multiplies the nibbles of a *pair* by one activation: of two neighbouring rows, or the
lower and the upper digit of one row. A format says which integer each nibble stands for; everything else follows: rounding,
packing, the multipliers' operands, the length of a stream.

Where a format has zero points, each group of a row has one beside its scale, from 0 to 16: a nibble q stands for q - z. Integers are
q - z everywhere; which z a group has follows from them, the least that leaves no nibble below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics import fp16
from skipopu.numerics.fp32 import F32
from skipopu.numerics.packing import WEIGHT_BITS

SIGNED = (*range(8), *range(-8, 0))
UNSIGNED = tuple(range(16))
SCALE_WORD = 64  # bytes of scales, and zero points, that travel ahead of their groups
ZERO_BITS = 5  # of a zero point
I8 = NDArray[np.int8]
F16 = NDArray[np.float16]


@dataclass(frozen=True)
class Format:
    """A weight format.

    Attributes:
        name: on the command line and in a program's description.
        code: in MATMUL.
        full: the integer that a group's largest magnitude becomes.
        digits: the 16 integers of a nibble, for a pair's first and second member.
        two_digits: a pair is one row, the second member worth 16 times the first; otherwise two rows, whose nibbles mean the same.
        zero_points: what a nibble stands for is less the zero point of its group.
    """

    name: str
    code: int
    full: int
    digits: tuple[tuple[int, ...], tuple[int, ...]]
    two_digits: bool = False
    zero_points: bool = False

    def __post_init__(self) -> None:
        most = (1 << WEIGHT_BITS - 1) - 1
        if any(len(table) != 16 or not all(-most <= value <= most for value in table) for table in self.digits):
            raise ValueError(f"format {self.name}: a nibble stands for an integer from {-most} to {most}")
        if self.digits != (UNSIGNED, SIGNED) if self.two_digits else self.digits[0] != self.digits[1]:
            raise ValueError(f"format {self.name}: rows of a pair have one table, digits are UNSIGNED and SIGNED")
        if self.zero_points and (self.two_digits or self.digits[0] != UNSIGNED):
            raise ValueError(f"format {self.name}: nibbles with zero points are one digit, UNSIGNED")

    @property
    def bits(self) -> int:
        """Of a code in memory."""
        return 8 if self.two_digits else 4

    @property
    def scales_per_word(self) -> int:
        """FP16 scales in a scale word: 32, or 24 and the zero points behind them, 120 bits."""
        return 24 if self.zero_points else SCALE_WORD // 2

    @cached_property
    def values(self) -> NDArray[np.int16]:
        """All integers that a code may stand for, ascending; with zero points no group has them all."""
        if self.zero_points:
            return np.arange(-16, 16, dtype=np.int16)
        lower, upper = (np.array(table, np.int16) for table in self.digits)
        return np.unique(lower[:, None] + 16 * upper if self.two_digits else lower)

    @property
    def largest_weight(self) -> float:
        """The largest magnitude that an FP16 scale reaches."""
        return self.full * float(fp16.LARGEST)

    def quantise(self, weight: F32, group: int) -> tuple[I8, F16]:
        """Rounds (rows, n) to integers (rows, groups, group) and scales (rows, groups), to nearest, halves to even where all integers
        between are there; s = FP16(max|w| / full) per zero-padded group, s = 0 gives zeros. With zero points full is what lies between
        a group's least and largest weight, 0 among them."""
        return round_between(weight, group) if self.zero_points else round_groups(weight, group, self.full, self.values)

    def zeros(self, q: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Zero points (...) of groups of integers (..., group); 0 where the format has none."""
        return (-q.min(-1, initial=0) if self.zero_points else np.zeros(q.shape[:-1])).astype(np.uint8)

    def holds(self, q: NDArray[np.integer], group: int) -> NDArray[np.bool_]:
        """(rows,) whether the format has codes for all of (rows, n) integers in groups of ``group``, the last one zero-padded."""
        there = np.all(np.isin(q, self.values), axis=1)
        if self.zero_points:
            groups = padded(q, group)
            there &= np.all(groups.max(-1) + self.zeros(groups) < 16, axis=1)
        return there

    def nibbles(self, q: I8) -> NDArray[np.uint8]:
        """(rows, ..., group) integers as nibble rows, in the order of pairs: (rows, ..., group), or (2 * rows, ...) of two digits."""
        if self.zero_points:
            wide = q + self.zeros(q)[..., None].astype(np.int16)
            if wide.max(initial=0) > 15:
                raise ValueError(f"format {self.name} has no zero point for {q[wide.max(-1) > 15][0].tolist()}")
            return wide.astype(np.uint8)
        if not self.two_digits:
            code = np.full(1 << WEIGHT_BITS, 16, np.uint8)
            for nibble in reversed(range(16)):  # of two for one integer the first
                code[self.digits[0][nibble]] = nibble  # negative integers count from the end
            if (nibbles := code[q]).max(initial=0) > 15:
                raise ValueError(f"format {self.name} has no nibble for {np.setdiff1d(q, self.values).tolist()}")
            return nibbles
        wide = q.astype(np.int16)
        lower = wide & 15
        return np.stack([lower, wide - lower >> 4 & 15], 1).reshape(2 * len(q), *q.shape[1:]).astype(np.uint8)

    def integers(self, nibbles: NDArray[np.uint8], zeros: NDArray[np.uint8]) -> I8:
        """The inverse of :meth:`nibbles`, with what :meth:`zeros` gave."""
        first, second = (np.array(table, np.int8) for table in self.digits)
        if self.zero_points:
            return first[nibbles] - zeros[..., None].astype(np.int8)
        if not self.two_digits:
            return first[nibbles]
        return first[nibbles[0::2]] + 16 * second[nibbles[1::2]]


INT4 = Format("int4", 0, 7, (SIGNED, SIGNED))
INT8 = Format("int8", 1, 127, (UNSIGNED, SIGNED), two_digits=True)
INT4Z = Format("int4z", 2, 15, (UNSIGNED, UNSIGNED), zero_points=True)
HALVES = (0, 1, 2, 3, 4, 6, 8, 12)  # E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6
FP4_DIGITS = (*HALVES, *(-half for half in HALVES))
FP4 = Format("fp4", 3, 12, (FP4_DIGITS, FP4_DIGITS))
FORMATS = (INT4, INT8, INT4Z, FP4)
USUAL = (INT4.name, INT8.name)  # of a machine whose description says nothing else
BY_CODE = {f.code: f for f in FORMATS}
BY_NAME = {f.name: f for f in FORMATS}

assert len(BY_CODE) == len(BY_NAME) == len(FORMATS), "two formats share a code or a name"

SPLIT_FULL = 119  # 16 * 7 + 7


def padded(x: NDArray[Any], group: int) -> NDArray[Any]:
    """(rows, n) in groups: (rows, groups, group), zeros behind the last."""
    rows, n = x.shape
    whole = np.zeros((rows, n + -n % group), x.dtype)
    whole[:, :n] = x
    return whole.reshape(rows, -1, group)


def round_groups(weight: F32, group: int, full: int, values: NDArray[np.int16]) -> tuple[I8, F16]:
    """Rounds (rows, n) to the nearest of ``values`` times scales s = FP16(max|w| / full) per zero-padded group; s = 0 gives 0."""
    grouped = padded(weight, group)
    with np.errstate(over="ignore"):
        scale = np.minimum(np.abs(grouped).max(-1) / np.float32(full), fp16.LARGEST).astype(np.float16)
    ratio = _ratio(grouped, scale)
    if len(values) == int(values[-1]) - int(values[0]) + 1:
        return np.clip(np.rint(ratio, out=ratio), values[0], values[-1], out=ratio).astype(np.int8), scale
    return values[np.searchsorted((values[1:] + values[:-1]) / 2, ratio)].astype(np.int8), scale


def round_between(weight: F32, group: int) -> tuple[I8, F16]:
    """Rounds (rows, n) to 16 integers per zero-padded group, 0 among them, that reach from its least to its largest weight:
    s = FP16((max - min) / 15), z = rint(-min / s), w ~ s * (q - z); s = 0 gives 0."""
    grouped = padded(weight, group)
    least, most = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    with np.errstate(over="ignore"):
        scale = np.minimum((most - least) / np.float32(15), fp16.LARGEST).astype(np.float16)
    zero = np.clip(np.rint(_ratio(-least[..., None], scale)), 0, 15)
    ratio = _ratio(grouped, scale)
    return np.clip(np.rint(ratio, out=ratio), -zero, 15 - zero, out=ratio).astype(np.int8), scale


def _ratio(grouped: F32, scale: F16) -> F32:
    """(rows, groups, ...) over the scales of their groups, 0 where these are 0."""
    wide = scale.astype(np.float32)[..., None]
    return np.divide(grouped, wide, out=np.zeros_like(grouped), where=wide > 0)


def quantise_split(weight: F32, group: int) -> tuple[I8, F16]:
    """Rounds (rows, n) to about 8 bits as two INT4 rows each, (2 * rows, groups, group): w ~ s * (16 * high + low).

    Rows alternate high, low; the high row's scale is 16 s. s = FP16(max|w| / 119), so that 16 * 7 + 7 is the largest value.
    """
    total, scale = round_groups(weight, group, SPLIT_FULL, np.arange(-SPLIT_FULL, SPLIT_FULL + 1, dtype=np.int16))
    high = (total.astype(np.int16) + 8) >> 4
    low = total - 16 * high
    q = np.stack([high, low], 1).reshape(2 * len(weight), *total.shape[1:]).astype(np.int8)
    scales = np.stack([scale * np.float16(16), scale], 1).reshape(2 * len(weight), -1)
    return q, scales


def dequantise(q: I8, scale: F16, n: int) -> F32:
    """(rows, n) FP32 of integers (rows, groups, group) and scales (rows, groups); exact."""
    return (q.astype(np.float32) * scale.astype(np.float32)[..., None]).reshape(len(q), -1)[:, :n]
