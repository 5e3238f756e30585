"""Heads of whole words: zeros behind each head's elements, where a machine's vector unit takes more of them at a time."""

from __future__ import annotations

import dataclasses

import numpy as np

from compiler.frontend.canonical import expected_shapes
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.tensors import F32, Codes, Held, NoCodes, Rows, Tensors, rows_of
from compiler.graph.adjust import reasons
from skipopu.isa.registers import Config
from skipopu.isa.spec import BUFFER_UNIT
from skipopu.layout import round_up
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges
from skipopu.masks import ATTENTION_OUTPUT

WIDENED = tuple(f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias"))
WIDENED += ("self_attn.q_norm.weight", "self_attn.k_norm.weight")


def widen(checkpoint: Checkpoint, machine: Machine) -> Checkpoint:
    """The same model with ``machine``'s least head size that holds its heads; the checkpoint itself where that is its own.

    Zeros of Q and K add nothing to a score, nor to a sum of squares, those of V meet zeros of O. The rotary tables' pairs, the scale of
    scores and what norms' sums are divided by stay. Thresholds of zeros are 0.
    """
    config, allowed = checkpoint.config, ranges(machine)[Config.HEAD_DIM]
    size = round_up(max(config.head_dim, allowed.least), allowed.step)
    while reasons(config) and size * config.num_kv_heads % BUFFER_UNIT:  # as an ADJUST counts
        size += allowed.step
    if size == config.head_dim:
        return checkpoint
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    counted = (config.counted_head_dim or config.head_dim) if config.qk_norm else 0
    wider = dataclasses.replace(config, head_dim=size, rope=config.rope_tables, attention_scale=scale, counted_head_dim=counted)
    shapes = expected_shapes(wider)
    masks = dict(checkpoint.masks or {})
    if ATTENTION_OUTPUT in masks:
        rows = masks[ATTENTION_OUTPUT].reshape(config.num_layers, config.num_heads, config.head_dim)
        rows = np.pad(rows, ((0, 0), (0, 0), (0, size - config.head_dim)))
        masks[ATTENTION_OUTPUT] = rows.reshape(config.num_layers, -1)
    checkpoint = dataclasses.replace(checkpoint, masks=masks or None)
    if checkpoint.outline and not isinstance(checkpoint.tensors, Tensors):
        return dataclasses.replace(
            checkpoint, config=wider, tensors={name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        )
    head = config.head_dim

    def read(name: str, rows: slice) -> F32:
        own = rows_of(checkpoint.tensors, name)
        if name.endswith(WIDENED):
            number, element = np.divmod(np.arange(shapes[name][0])[rows], size)
            result = np.zeros((len(number), *shapes[name][1:]), np.float32)
            if (there := element < head).any():
                source = (number * head + element)[there]
                result[there] = own[source[0] : source[-1] + 1]
            return result
        part = own[rows]
        if not name.endswith("self_attn.o_proj.weight"):
            return part
        result = np.zeros((len(part), config.num_heads, size), np.float32)
        result[..., :head] = part.reshape(len(part), -1, head)
        return result.reshape(len(part), -1)

    def codes(name: str, rows: slice) -> Held:
        own = rows_of(checkpoint.tensors, name)
        if not isinstance(own, Rows) or not name.endswith((*WIDENED, "self_attn.o_proj.weight")):
            return own.codes(rows) if isinstance(own, Rows) else None
        found = own.codes(slice(0, 1))
        return (
            NoCodes(f"their heads are of {size} elements, not of {head}", found.format) if isinstance(found, Codes) else found
        )

    return dataclasses.replace(checkpoint, config=wider, tensors=Tensors(shapes, read, codes))
