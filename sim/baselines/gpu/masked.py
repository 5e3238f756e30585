"""Products that leave out input channels: Triton kernels over matrices that lie by channel.

A program sums a block of rows over some groups of channels, in registers; a channel that is not active is not loaded. A second kernel
adds up the programs' sums, always in the same order.
"""

from __future__ import annotations

import functools

import torch
import triton  # pyright: ignore[reportMissingImports] -- comes with PyTorch's CUDA builds only
from triton import language as tl  # pyright: ignore[reportMissingImports]

from sim.baselines.gpu.ends import finish, inverse_rms, jit
from sim.baselines.gpu.weights import GROUP, HALF, ZERO, Matrix

COLUMN = 128  # bytes of a channel that a program reads at once: whole sectors, nothing beside them
CHANNELS = 16  # at a time: 16 bytes for each of 128 threads
PROGRAMS = 512  # or more, where there are groups enough: some four for each multiprocessor
SUMMED = 64  # rows of a program of the second kernel
# Patterns of 256 and 16 in FP32: with a nibble at bit 15 or 19 they are 256 or 16 more than it, exactly. Arguments, not constants of the
# kernel: one instruction then masks a nibble and sets them, and none converts it.
LOW_BASE, HIGH_BASE = 0x43800000, 0x41800000


@jit
def _sum(
    sums, x, data, scales, active, flag, always, low_base, high_base, ROWS: tl.constexpr, INPUTS: tl.constexpr, LENGTH: tl.constexpr,
    WORD: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, INT4: tl.constexpr, GROUP: tl.constexpr,
    HALF: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    """sums[part] = W x over PART groups. ``data`` is (INPUTS, LENGTH) words of WORD elements.

    Elements are numbers, or bytes of INT4 for two rows each, which the sums low and high are of.
    """
    part = tl.program_id(1)
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word = tl.program_id(0) * (BLOCK // WORD) + tl.arange(0, BLOCK // WORD)
    inside = j < LENGTH * WORD
    row, last = j, (tl.program_id(0) + 1) * BLOCK
    if INT4:
        row, last = j // HALF * GROUP + j % HALF, 2 * last
    if (tl.load(flag) != 0) | (last > always):
        low = tl.zeros([CHANNELS, BLOCK], tl.float32)
        high = tl.zeros([CHANNELS, BLOCK], tl.float32)
        for group in range(part * PART, tl.minimum((part + 1) * PART, INPUTS // GROUP)):
            group_low = tl.zeros([CHANNELS, BLOCK], tl.float32)
            group_high = tl.zeros([CHANNELS, BLOCK], tl.float32)
            inputs = tl.zeros([CHANNELS, 1], tl.float32)
            for start in tl.static_range(0, GROUP, CHANNELS):  # pyright: ignore[reportGeneralTypeIssues] -- unrolled, loads first
                i = group * GROUP + start + tl.arange(0, CHANNELS)
                on = tl.load(active + i) != 0
                value = tl.load(x + i, mask=on, other=0.0).to(tl.float32)[:, None]
                at = data + i[:, None].to(tl.int64) * LENGTH + word[None, :]
                words = tl.load(at, mask=on[:, None] & (word < LENGTH)[None, :], other=0)
                if INT4:
                    # Each of the four bytes at bits 15 to 22.
                    moved = tl.join(tl.join(words << 15, words >> 1), tl.join(words << 7, words >> 9))
                    moved = tl.reshape(moved, [CHANNELS, BLOCK])
                    group_low += ((moved & (15 << 15)) | low_base).to(tl.float32, bitcast=True) * value
                    group_high += ((moved & (15 << 19)) | high_base).to(tl.float32, bitcast=True) * value
                    inputs += value
                else:
                    low += words.to(tl.float32) * value
            if INT4:
                scale = scales + group * ROWS + row
                low += (group_low - (256 + ZERO) * inputs) * tl.load(scale, mask=inside, other=0.0).to(tl.float32)[None, :]
                scale += HALF
                high += (group_high - (16 + ZERO) * inputs) * tl.load(scale, mask=inside, other=0.0).to(tl.float32)[None, :]
        tl.store(sums + part * ROWS + row, tl.sum(low, 0), mask=inside)
        if INT4:
            tl.store(sums + part * ROWS + row + HALF, tl.sum(high, 0), mask=inside)


@jit
def _total(sums, rows, row, inside, PARTS: tl.constexpr, PADDED: tl.constexpr):
    """Sums of all parts of (PARTS, rows)."""
    part = tl.arange(0, PADDED)[:, None]
    return tl.sum(tl.load(sums + part * rows + row[None, :], mask=(part < PARTS) & inside[None, :], other=0.0), 0)


@jit
def _end(
    y, sums, x, flag, eps, always, ROWS: tl.constexpr, INPUTS: tl.constexpr, PARTS: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, NORM_BLOCK: tl.constexpr, NORM: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """FORM as in ``finish``; up's rows follow gate's. Rows from ``always`` on are never skipped."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if (tl.load(flag) != 0) | (tl.program_id(0) * BLOCK + BLOCK > always):
        ALL: tl.constexpr = 2 * ROWS if FORM == 2 else ROWS
        scale = 1.0
        if NORM:
            scale = inverse_rms(x, eps, INPUTS, NORM_BLOCK)
        result = _total(sums, ALL, row, row < ROWS, PARTS, PADDED) * scale
        up = result
        if FORM == 2:
            up = _total(sums, ALL, row + ROWS, row < ROWS, PARTS, PADDED) * scale
        finish(y, row, result, up, ROWS, FORM)


def product(
    matrix: Matrix, y: torch.Tensor, x: torch.Tensor, active: torch.Tensor, flag: torch.Tensor, eps: float, norm: bool, form: int,
    always: int,
) -> None:  # fmt: skip
    """``y`` from the product of ``matrix``, which lies by channel, with the channels of ``x`` that are ``active``, (inputs,) uint8."""
    assert matrix.by_channel
    assert matrix.inputs % GROUP == 0
    int4, groups = matrix.scales is not None, matrix.inputs // GROUP
    data = matrix.data.view(torch.int32) if int4 else matrix.data
    block = COLUMN // matrix.data.element_size()
    blocks = triton.cdiv(matrix.data.shape[1], block)
    part = max(1, groups * blocks // PROGRAMS)
    parts = triton.cdiv(groups, part)
    sums = _sums(matrix.data.device, parts, matrix.rows)
    _sum[(blocks, parts)](
        sums, x, data, matrix.scales if int4 else data, active, flag, always, LOW_BASE, HIGH_BASE, ROWS=matrix.rows,
        INPUTS=matrix.inputs, LENGTH=data.shape[1], WORD=4 if int4 else 1, PART=part, BLOCK=block, CHANNELS=CHANNELS, INT4=int4,
        GROUP=GROUP, HALF=HALF, ZERO=ZERO, num_warps=4,
    )  # fmt: skip
    rows = matrix.rows // 2 if form == 2 else matrix.rows
    _end[(triton.cdiv(rows, SUMMED),)](
        y, sums, x, flag, eps, always, ROWS=rows, INPUTS=matrix.inputs, PARTS=parts, PADDED=triton.next_power_of_2(parts),
        BLOCK=SUMMED, NORM_BLOCK=1024, NORM=norm, FORM=form, num_warps=4,
    )  # fmt: skip


@functools.cache
def _sums(device: torch.device, parts: int, rows: int) -> torch.Tensor:
    """(parts, rows) float32."""
    return torch.empty(parts, rows, device=device)
