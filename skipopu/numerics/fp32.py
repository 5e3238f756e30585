"""FP32 arithmetic of the machine: IEEE 754 nearest even, subnormal operands and results flushed, overflow saturated.

Zero keeps its sign, also one that a subnormal number became. There are no infinities and no NaNs: a result beyond the largest finite number becomes that number
and the host sees the sticky saturation bit. A result is *tiny* when its exact magnitude before rounding is below 2^-126.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MANTISSA_BITS = 24
BIAS = 127
SMALLEST = 2.0**-126
LARGEST = np.float32(np.finfo(np.float32).max)


class Saturation:
    """The sticky bit: whether an operation of the machine saturated since it was entered as a context.

    Nested ones all see it. Attributes: ``seen``.
    """

    _entered: ClassVar[ContextVar[tuple[Saturation, ...]]] = ContextVar("saturation", default=())

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> Self:
        self._token = self._entered.set((*self._entered.get(), self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.reset(self._token)

    @classmethod
    def note(cls) -> None:
        """An operation saturated."""
        for entered in cls._entered.get():
            entered.seen = True


def narrow(x: F64) -> F32:
    """Rounds exact float64 values to FP32 by the rules above."""
    with np.errstate(over="ignore", under="ignore"):
        y = x.astype(np.float32)
    y *= np.abs(x) >= SMALLEST
    if y.size and not np.isfinite(y).all():
        Saturation.note()
        y = np.clip(y, -LARGEST, LARGEST)
    return y


def flush(x: ArrayLike) -> F32:
    """x, subnormal numbers as zeros of their sign: what every operation takes its operands for."""
    y = np.asarray(x, np.float32)
    normal = np.abs(y) >= np.float32(SMALLEST)
    return y if normal.all() else y * normal


def multiply(a: ArrayLike, b: ArrayLike) -> F32:
    """a * b of flushed operands; the product of two FP32 numbers is exact in float64."""
    return narrow(np.asarray(np.multiply(flush(a), flush(b), dtype=np.float64)))


def add(a: ArrayLike, b: ArrayLike) -> F32:
    """a + b of flushed operands. Sums of FP32 numbers that are tiny are exact, so flushing after FP32 rounding is the same rule."""
    with np.errstate(over="ignore"):
        y = np.asarray(np.add(flush(a), flush(b), dtype=np.float32))
    magnitude = np.abs(y)
    if y.size and magnitude.max() > LARGEST:
        Saturation.note()
        y = np.clip(y, -LARGEST, LARGEST)
    return y * (magnitude >= np.float32(SMALLEST))


def from_integer(mantissa: ArrayLike, exponent: ArrayLike) -> F32:
    """mantissa * 2^exponent rounded once; int64 mantissas below 2^62."""
    m = np.asarray(mantissa, np.int64)
    e = np.asarray(exponent, np.int64)
    magnitude = np.abs(m)
    big = magnitude >= 1 << 53
    if big.any():
        # 52 bits with everything below folded into the last one round to 24 bits as the full number does.
        folded = (magnitude >> 12) | ((magnitude & 0xFFF) != 0)
        m = np.where(big, np.where(m < 0, -folded, folded), m)
        e = np.where(big, e + 12, e)
    return narrow(np.ldexp(m.astype(np.float64), e))


def bits(x: ArrayLike) -> NDArray[np.uint32]:
    """The IEEE encoding."""
    return np.asarray(x, np.float32).view(np.uint32)
