"""Bits per byte of a text, by the functional engine or the reference."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sim.functional import engine as functional
from sim.functional.weights import WeightCache
from sim.reference import engine as reference
from sim.result import Computed, logits_of
from skipopu.errors import ProgramError
from skipopu.numerics.profile import EXACT18, PROFILES, Profile
from skipopu.program.program import Program
from skipopu.program.run import Run

# No result depends on the chunk (tested), so a checkpoint is evaluated in larger ones than the target's.
CHUNK = 64


def bits(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Sum of -log2 p over targets (n,) under logits (n, vocab)."""
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(wide - top).sum(-1))
    return float((normaliser - wide[np.arange(len(targets)), targets]).sum() / math.log(2))


def evaluate(
    program: Program,
    data: bytes,
    engine: str,
    window: int,
    always: bool,
    profile: Profile = PROFILES[EXACT18],
    on_result: Callable[[Computed], None] = lambda result: None,
    say: Callable[[int], None] = lambda done: None,
) -> tuple[float, float]:
    """(bits per byte, executed share) over whole windows of ``data``, first bytes of windows not counted.

    ``profile`` is the functional engine's arithmetic; ``on_result`` gets every window's result of that engine, ``say`` the bytes read.
    """
    windows = [data[i : i + window] for i in range(0, len(data), window)]
    windows = [w for w in windows if len(w) > 1]
    if not windows:
        raise ProgramError("the text has fewer than two bytes")
    model = reference.model_of(program) if engine == "reference" else None
    weights = WeightCache(program.memory, program.machine.weight_lanes)
    total, share, counted, read = 0.0, 0.0, 0, 0
    for part in windows:
        ids = np.frombuffer(part, np.uint8).astype(np.int64)
        run = Run(tuple(ids.tolist()), 0, routing="always" if always else "program")
        if model is None:
            result = functional.run(program, run, functional.Options(weights, profile))
            on_result(result)
            logits, executed = logits_of(program, result, len(ids)), result.executed_share
        else:
            out = reference.forward(program, model, torch.from_numpy(ids)[None], run)
            logits, executed = out.logits[0].numpy(), float(out.gates.mean())
        total += bits(logits[:-1], ids[1:])
        share += executed * len(ids)
        counted += len(ids) - 1
        read += len(ids)
        say(read)
    return total / counted, share / read
