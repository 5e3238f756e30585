"""What Triton kernels of products share: how a product begins, behind a norm, and how its sums end."""

from __future__ import annotations

from typing import Any

import triton  # pyright: ignore[reportMissingImports] -- comes with PyTorch's CUDA builds only
from triton import language as tl  # pyright: ignore[reportMissingImports]


def jit(kernel: Any) -> Any:
    """A Triton kernel. Its launches, by a grid in brackets, are beyond Triton's own types, which a type checker may not find."""
    return triton.jit(kernel)


@jit
def inverse_rms(x, eps, INPUTS: tl.constexpr, BLOCK: tl.constexpr):
    """1/rms of (INPUTS,) float32."""
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, INPUTS, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < INPUTS, other=0.0)
        squares += value * value
    return 1.0 / tl.sqrt(tl.sum(squares, 0) / INPUTS + eps)


@jit
def finish(y, row, result, up, ROWS: tl.constexpr, FORM: tl.constexpr):
    """FORM 0: y = result; 1: y += result; 2: y = silu(result) * up."""
    if FORM == 2:
        result = result / (1.0 + tl.exp(-result)) * up
    if FORM == 1:
        result += tl.load(y + row, mask=row < ROWS, other=0.0)
    tl.store(y + row, result.to(y.dtype.element_ty), mask=row < ROWS)
