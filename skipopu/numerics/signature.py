"""The order-independent signature of what an instruction wrote: a 32-bit sum of hash(index, value).

``index`` says where, ``value`` is the 32-bit pattern written. The RTL computes the same sum beside each write.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Index spaces of one instruction's different kinds of writes.
SLOT_SHIFT = 20  # token slot
KIND_SHIFT = 28
ALIGNED = 4  # kinds of what is aligned: mantissas, then exponents, then 1/rms


def index(kind: int, slot: ArrayLike, element: ArrayLike) -> NDArray[np.uint32]:
    return (
        np.uint32(kind << KIND_SHIFT) | (np.asarray(slot, np.uint32) << np.uint32(SLOT_SHIFT)) | np.asarray(element, np.uint32)
    )


def mix(where: ArrayLike, value: ArrayLike) -> NDArray[np.uint32]:
    """hash(index, value) = rotate(value ^ index ^ index<<11 ^ index<<22, index mod 32), uint32."""
    i = np.asarray(where, np.uint32)
    v = np.asarray(value, np.uint32) ^ i ^ (i << np.uint32(11)) ^ (i << np.uint32(22))
    r = i & np.uint32(31)
    return (v << r) | (v >> ((np.uint32(32) - r) & np.uint32(31))) * (r != 0)


def signature(where: ArrayLike, value: ArrayLike) -> int:
    """Sum over all elements, modulo 2^32."""
    return int(mix(where, value).sum(dtype=np.uint64)) & 0xFFFF_FFFF
