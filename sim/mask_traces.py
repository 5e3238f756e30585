"""Masks of input channels that were recorded: their files, the share that they leave out, what stands for their thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.stored import Stored
from sim.masks import Active
from skipopu.accept import one_of
from skipopu.errors import ProgramError
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, channels, weights
from skipopu.model_config import ModelConfig
from skipopu.policy import Module

TO_LEAVE_OUT = "to leave out input channels"
KINDS = ("BOOL", "U8")  # as safetensors calls them


def with_masks(checkpoint: Checkpoint, inputs: Iterable[str] | None = None) -> Checkpoint:
    """An outline with thresholds of ``inputs``, or of all; the timing engine is told what they leave out.

    Raises:
        ProgramError: an input is not known.
    """
    layers, sizes = checkpoint.config.num_layers, channels(checkpoint.config)
    names = [one_of(sizes).check(name, "input", ProgramError) for name in (sizes if inputs is None else inputs)]
    none = {name: np.zeros((layers, sizes[name]), np.uint16) for name in names}
    return dataclasses.replace(checkpoint, masks=none)


def masked_share(config: ModelConfig, active: Active, executed: NDArray[np.bool_], prompt: int) -> float:
    """Share of the layers' weights that generated tokens left out, of those of modules that they ``executed`` (layers, 2, tokens)."""
    left_out, every = 0.0, 0
    for name, size in weights(config).items():
        module = Module.ATTENTION if name in (ATTENTION, ATTENTION_OUTPUT) else Module.FFN
        tokens = executed[:, module, prompt:]
        every += size * int(tokens.sum())
        if name in active:
            left_out += size * float((1 - active[name][:, prompt : executed.shape[2]].mean(-1))[tokens].sum())
    return left_out / every if every else 0.0


def load_mask_trace(path: Path, config: ModelConfig, tokens: int) -> Active:
    """Recorded masks, 1 = the channel is read, as ``skipopu run --save-mask-trace`` writes them: ``tokens`` of them or more.

    Raises:
        CheckpointError: not a safetensors file.
        ProgramError: naming the file, and the tensor that is not known, misshapen, of another type or of other numbers; no tensor at all.
    """
    sizes, layers, active = channels(config), config.num_layers, Active()
    stored = Stored([path])
    for name, shape in stored.shapes.items():
        where = f"{path}: tensor {name}"
        if name not in sizes:
            raise ProgramError(f"{where} is not known; accepted: {', '.join(sizes)}")
        if stored.kinds[name] not in KINDS:
            raise ProgramError(f"{where} holds {stored.kinds[name]}; accepted: {', '.join(KINDS)}")
        if len(shape) != 3 or (shape[0], shape[2]) != (layers, sizes[name]) or shape[1] < tokens:
            raise ProgramError(
                f"{where} has shape {shape}; this run needs ({layers}, {tokens}, {sizes[name]}), more tokens are accepted"
            )
        numbers = stored.take(name)
        if numbers.max(initial=0) > 1:
            raise ProgramError(f"{where} holds {numbers.max()}; accepted: 0 and 1, 1 = the channel is read")
        active[name] = numbers.astype(bool)
    if not active:
        raise ProgramError(f"{path}: it holds no masks; accepted: one tensor or more")
    return active


def save_mask_trace(path: Path, active: Active) -> None:
    """Writes what :func:`load_mask_trace` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({name: np.ascontiguousarray(rows) for name, rows in active.items()}))
