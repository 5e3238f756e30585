"""Models that a machine's instructions do not execute."""

from __future__ import annotations

from compiler.graph.adjust import reasons
from skipopu.errors import ProgramError
from skipopu.isa.spec import BUFFER_UNIT
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics import soft_cap


def refuse(machine: Machine, model: ModelConfig, context: int, two_layers: bool, masks: bool) -> None:
    """Raises ProgramError naming the model's field, its value and what is accepted; ``two_layers``: its routers have them.

    ``masks``: it has thresholds of input channels.
    """

    def need(condition: bool, field: str, value: object, accepted: str) -> None:
        if not condition:
            raise ProgramError(f"the model's {field} is {value}; accepted: {accepted}")

    asked = reasons(model)
    if masks:
        machine.require_masks("for the model's thresholds of input channels (--masks, masks.safetensors), or --no-masks")
    if two_layers and not machine.adjust:
        raise ProgramError(f"machine {machine.name}: adjust is {machine.adjust}; accepted: true, for routers of two layers")
    if asked and not machine.adjust:
        raise ProgramError(
            f"machine {machine.name}: adjust is {machine.adjust}; accepted: true, for the model's {' and '.join(asked)}"
        )
    gated = [name for name in ("gate", "up") if name in model.biases and model.gated]
    need(
        not gated,
        "biases",
        ", ".join(model.biases),
        "no bias of gate or up (mlp_bias) where a gate is: the two are combined on their way out of the product, before any is added",
    )
    pairs = sorted({len(table.frequencies) for table in model.rope} - {0})
    need(len(pairs) < 2, "rotated pairs per head", pairs, "the same number in every rotary table that rotates any")
    need(not pairs or 2 * pairs[0] <= model.head_dim, "rotated pairs per head", pairs, f"up to {model.head_dim // 2}")
    lengths = {"hidden_size": model.hidden_size, "intermediate_size": model.intermediate_size}
    lengths["head_dim * num_key_value_heads"] = model.head_dim * model.num_kv_heads
    for name, elements in lengths.items():
        need(
            not asked or elements % BUFFER_UNIT == 0, name, elements, f"a multiple of {BUFFER_UNIT}, for {' and '.join(asked)}"
        )
    shortest = min((window for window in model.windows if window), default=context)
    if shortest < context and not machine.window:
        raise ProgramError(
            f"machine {machine.name}: window is {machine.window}, a layer's is {shortest} tokens and the context {context}; accepted:"
            f" a context up to {shortest}"
        )
    cap = model.attention_cap
    if cap and not machine.soft_cap:
        raise ProgramError(
            f"machine {machine.name}: soft_cap is {machine.soft_cap}; accepted: true, for the model's attention_cap {cap}"
        )
    accepted = f"0, no cap, or {soft_cap.LEAST:g} to {soft_cap.LARGEST:g}"
    need(not cap or soft_cap.LEAST <= cap <= soft_cap.LARGEST, "attention_cap", cap, accepted)
