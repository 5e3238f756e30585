"""Changes to a small model: each field that families differ in, alone and with those that it meets."""

from __future__ import annotations

from typing import Any

from skipopu.model_config import Rope


def _table(pairs: int, base: float = 1e4, factor: float = 1.0) -> Rope:
    return Rope(tuple(base ** (-i / pairs) for i in range(pairs)), factor)


# Of two layers and heads of 32, see tests.support.small_config.
PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "parallel": {"parallel": True},
    "no norm in front": {"pre_norm": False},
    "partial rotation": {"rope": (_table(5),)},
    "one of two tables": {"rope": (_table(0), _table(16, 500.0, 1.2)), "rope_of_layer": (1, 1)},
    "scale of scores": {"attention_scale": 0.07},
    "cap of logits": {"logit_cap": 3.0},
    "cap of scores": {"attention_cap": 0.7, "attention_scale": 0.4},
}
# What needs ADJUST, and which of its records there are.
ADJUSTED: dict[str, tuple[dict[str, Any], str]] = {
    "norm of heads": ({"qk_norm": "head", "attention_scale": 0.3}, "k q"),
    "norm of q and k": ({"qk_norm": "whole"}, "k q"),
    "biases of q, k, v": ({"biases": ("q", "k", "v"), "attention_scale": 0.2}, "k v q"),
    "bias of v": ({"biases": ("v",)}, "v"),
    "biases of o and down": ({"biases": ("o", "down")}, "o down"),
    "biases in front of norms": (
        {"biases": ("q", "k", "o", "down"), "qk_norm": "head", "post_norm": True},
        "k_bias k q_bias q o_bias o down_bias down",
    ),
    "no gate": ({"gated": False, "hidden_act": "gelu"}, "up"),
    "no gate, biases": ({"gated": False, "hidden_act": "relu2", "biases": ("up", "down")}, "up down"),
    "parallel, biases": (
        {
            "parallel": True,
            "gated": False,
            "hidden_act": "gelu",
            "biases": ("q", "k", "v", "o", "up", "down"),
            "final_bias": True,
        },
        "k v q o up down final",
    ),
    "norms behind only": ({"pre_norm": False, "post_norm": True, "qk_norm": "whole"}, "k q o down"),
    "norms on both sides": ({"post_norm": True, "qk_norm": "head"}, "k q o down"),
    "partial rotation of norms": ({"rope": (_table(4, factor=1.2),), "qk_norm": "head"}, "k q"),
    "two tables": ({"rope": (_table(16), _table(16, 1e6, 1.1)), "rope_of_layer": (0, 1)}, "k q"),
    "a layer without rotation": ({"rope": (_table(16), _table(0)), "rope_of_layer": (0, 1), "biases": ("k",)}, "k q"),
    "bias of the norm before a gate": ({"ffn_norm_bias": True}, "ffn_norm"),
    "bias of the norm before a gate, parallel": ({"ffn_norm_bias": True, "parallel": True}, "ffn_norm"),
    "bias of the norm before no gate": (
        {"ffn_norm_bias": True, "gated": False, "hidden_act": "gelu", "biases": ("up", "down"), "post_norm": True},
        "o ffn_norm up down_bias down",
    ),
    "bias of the last norm": ({"final_bias": True}, "final"),
}
VARIANTS = PLAIN | {name: change for name, (change, _) in ADJUSTED.items()}
