"""What families differ in, drawn for a random model; numbers of their own, so that all else stays as it was drawn."""

from __future__ import annotations

from typing import Any

from sim.fuzz.draw import Draw
from skipopu.isa.spec import BUFFER_UNIT
from skipopu.layout import round_up
from skipopu.model_config import OWN


def vary(draw: Draw, model: dict[str, Any], adjust: bool, window: bool) -> None:
    """Gives ``model``, a config.json, fields that a Llama's has no keys for; those that the machine has what it takes for."""
    pairs, layers = model["head_dim"] // 2, model["num_hidden_layers"]
    pairs = draw.between(1, pairs) if draw.chance(0.4) else pairs
    own: dict[str, Any] = {}
    choices: list[tuple[str, Any]] = [
        ("parallel", True),
        ("pre_norm", False),
        ("attention_scale", draw.of((0.05, 0.3))),
        ("rope", [_table(draw, pairs)]),
    ]
    if window:
        choices.append(("windows", [draw.of((0, draw.between(1, 24))) for _ in range(layers)]))
    if adjust:
        if draw.chance(0.2):
            model["hidden_act"] = "gelu_pytorch_tanh"
        gated = draw.chance(0.5)
        some = [name for name in ("q", "k", "v", "o", "down", *(() if gated else ("up",))) if draw.chance(0.5)]
        choices += [
            ("qk_norm", draw.of(("head", "whole"))),
            ("post_norm", True),
            ("biases", some),
            ("final_bias", True),
            ("gated", gated),
        ]
        if draw.chance(0.3):
            own |= {
                "rope": [_table(draw, pairs), _table(draw, draw.of((0, pairs)))],
                "rope_of_layer": [draw.between(0, 1) for _ in range(layers)],
            }
        for size in ("hidden_size", "intermediate_size", "head_dim"):
            model[size] = round_up(model[size], BUFFER_UNIT)
    if adjust:
        choices.append(("ffn_norm_bias", True))
    own |= {name: value for name, value in choices if name not in own and draw.chance(0.4)}
    if not own.get("pre_norm", True):
        own.pop("ffn_norm_bias", None)
    if own.get("gated", True) and "biases" in own:
        own["biases"] = [name for name in own["biases"] if name != "up"]
    model[OWN] = own


def _table(draw: Draw, pairs: int) -> dict[str, Any]:
    base = draw.of((100.0, 1e4))
    return {"frequencies": [base ** (-i / pairs) for i in range(pairs)], "factor": draw.of((1.0, 1.0, 1.25))}
