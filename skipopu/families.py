"""What the ``config.json`` of each model family says, in the fields of :class:`skipopu.model_config.ModelConfig`.

What transformers computes is what a key means; a key that it reads and nothing here does is refused unless it is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skipopu.accept import BOOLEAN, MAPPING, NULL, Accepted, list_of, number, one_of, whole
from skipopu.numerics.activation import ACTIVATIONS
from skipopu.rope import SHARE, THETA

Value = Callable[[str], Any]  # the value of a key, or its default

FULL, SLIDING = "full_attention", "sliding_attention"
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down")
TOKEN = whole(0, (1 << 32) - 2)
_SIZE, _EPSILON, _REAL = whole(1, 1 << 20), number(1e-30, 1), number(-1e9, 1e9)
_CAP = number(1e-3, 1e9) | NULL
GROUP = whole(1, 1 << 20)
_FLAG = BOOLEAN | NULL
_OFF = one_of([False, None])
_ONE = one_of([1, 1.0, None])
_ACTIVATION = one_of(ACTIVATIONS)
# Keys that every family reads; null stands for an absent key where it is accepted.
KEYS: dict[str, Accepted] = {
    "model_type": one_of(()),  # all families, below
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_hidden_layers": whole(1, 1024),
    "num_attention_heads": whole(1, 4096),
    "num_key_value_heads": whole(1, 4096) | NULL,
    "head_dim": whole(1, 4096) | NULL,
    "vocab_size": whole(1, 1 << 24),
    "max_position_embeddings": whole(1, 1 << 32),
    "original_max_position_embeddings": whole(1, 1 << 32) | NULL,
    "rope_theta": THETA,
    "rotary_emb_base": THETA,
    "rope_local_base_freq": THETA,
    "partial_rotary_factor": SHARE,
    "rotary_pct": SHARE,
    "rope_parameters": MAPPING | NULL,
    "rope_scaling": MAPPING | NULL,
    "tie_word_embeddings": BOOLEAN,
    "byte_level": BOOLEAN,
    "eos_token_id": TOKEN | list_of(TOKEN) | NULL,
    "weight_group": GROUP,
    "rms_norm_eps": _EPSILON,
    "layer_norm_eps": _EPSILON,
    "hidden_act": _ACTIVATION,
    "pretraining_tp": whole(1, 1 << 20) | NULL,  # how products were split: the same function
    # What these would ask for is not there.
    "clip_qkv": NULL,
    "qk_layernorm": _OFF,
    "use_mrope": _OFF,
    "use_bidirectional_attention": _OFF,
    "is_causal": one_of([True]),
    "quantization_config": MAPPING | NULL,
    "compression_config": NULL,
    "per_layer_config": NULL | Accepted("{}", lambda value: value == {}),
    "transformers_weights": one_of([None, "model.safetensors"]),
    "quantization": NULL,
}
# Values of quantization_config.quant_method.
QUANTISED = ("awq", "compressed-tensors", "fp8", "gptq")
REQUIRED = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# Keys that some families read, and what they may be where they are not read.
OPTIONAL: dict[str, tuple[Accepted, Accepted]] = {
    "hidden_activation": (_ACTIVATION | NULL, NULL),
    "attention_bias": (_FLAG, _OFF),
    "mlp_bias": (_FLAG, _OFF),
    "use_qkv_bias": (_FLAG, _OFF),
    "use_parallel_residual": (_FLAG, _OFF),
    "sliding_window": (_SIZE | NULL, NULL),
    "use_sliding_window": (_FLAG, _OFF),
    "max_window_layers": (whole(0, 1024), Accepted("anything", lambda value: True)),
    "sliding_window_pattern": (whole(1, 1024) | NULL, NULL),
    "_sliding_window_pattern": (whole(1, 1024) | NULL, NULL),
    "layer_types": (list_of(one_of((FULL, SLIDING))) | NULL, list_of(one_of([FULL])) | NULL),
    "no_rope_layers": (list_of(one_of([0, 1])) | NULL, NULL),
    "no_rope_layer_interval": (whole(1, 1024), NULL),
    "attn_logit_softcapping": (_CAP, NULL),
    "final_logit_softcapping": (_CAP, NULL),
    "query_pre_attn_scalar": (number(1e-6, 1e9), NULL),
    "attention_multiplier": (number(1e-9, 1e9), _ONE),
    "embedding_multiplier": (_REAL, _ONE),
    "residual_multiplier": (_REAL, _ONE),
    "logits_scaling": (number(1e-9, 1e9), _ONE),
}


def _all_full(value: Value) -> list[str]:
    return [FULL] * value("num_hidden_layers")


def _all_in_window(value: Value) -> list[str]:
    return [FULL if value("sliding_window") is None else SLIDING] * value("num_hidden_layers")


def _last_in_window(value: Value) -> list[str]:
    on, first = value("use_sliding_window") and value("sliding_window") is not None, value("max_window_layers")
    return [SLIDING if on and layer >= first else FULL for layer in range(value("num_hidden_layers"))]


def _every_other(value: Value) -> list[str]:
    return [FULL if layer % 2 else SLIDING for layer in range(value("num_hidden_layers"))]


def _by_pattern(value: Value) -> list[str]:
    every = value("sliding_window_pattern") or 6
    return [SLIDING if (layer + 1) % every else FULL for layer in range(value("num_hidden_layers"))]


def rotated_layers(value: Value) -> list[int]:
    """1 for each layer with a rotation."""
    given = value("no_rope_layers")
    every = value("no_rope_layer_interval")
    return [int((layer + 1) % every != 0) for layer in range(value("num_hidden_layers"))] if given is None else list(given)


def _unrotated_in_window(value: Value) -> list[str]:
    on = value("use_sliding_window") and value("sliding_window") is not None
    return [SLIDING if on and not rotated else FULL for rotated in rotated_layers(value)]


@dataclass(frozen=True)
class Family:
    """What the models of a family have in common.

    ``fields`` are ModelConfig's; ``reads`` are the optional keys that change the model; ``defaults`` stand for absent keys.
    ``two_tables``: windows have a rotary table of their own; ``epsilon`` is the key of the norms' epsilon; ``layers`` says which layers
    have a window where no ``layer_types`` does; ``biases`` are of products whatever the keys say,
    ``attention_biases`` where a key asks for them; ``theta`` and ``share`` are the keys of the rotary base and of the
    rotated part of a head ("" where heads are rotated whole), ``types`` and ``activations`` what rope types and activations stand for.

    ``centred``: LayerNorm instead of RMSNorm, with ``gains`` or without, with ``norm_biases`` or without; ``one_more``: gains
    are stored less 1.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    layers: Callable[[Value], list[str]] = _all_full
    biases: tuple[str, ...] = ()
    attention_biases: tuple[str, ...] = ("q", "k", "v", "o")
    theta: str = "rope_theta"
    share: str = ""
    types: dict[str, str] = field(default_factory=dict)
    two_tables: bool = False
    activations: dict[str, str] = field(default_factory=dict)
    epsilon: str = "rms_norm_eps"
    centred: bool = False
    gains: bool = True
    norm_biases: bool = False
    one_more: bool = False

    def value(self, data: dict[str, Any]) -> Value:
        """Values of ``data``'s keys, or what stands for them."""

        def of(key: str) -> Any:
            return self.defaults.get(key, DEFAULTS.get(key)) if key not in data else data[key]

        return of

    def own_biases(self, value: Value) -> set[str]:
        """Products whose biases the checkpoint holds."""
        result = set(self.biases)
        result |= set(self.attention_biases) if value("attention_bias") or value("use_qkv_bias") else set()
        return result | ({"gate", "up", "down"} if value("mlp_bias") else set())

    def multipliers(self, value: Value) -> tuple[float, float, float]:
        """What the embedding, the head, and the results of modules are multiplied by."""
        given = [value(key) for key in ("embedding_multiplier", "logits_scaling", "residual_multiplier")]
        embedding, logits, residual = (1.0 if number is None else float(number) for number in given)
        return embedding * (value("hidden_size") ** 0.5 if self.one_more else 1), 1 / logits, residual


DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "max_window_layers": 28,
    "no_rope_layer_interval": 4,
    "weight_group": 128,
}
_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_GRANITE = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
_GEMMA: dict[str, Any] = {
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
FAMILIES: dict[str, Family] = {
    "llama": Family(reads=("attention_bias", "mlp_bias")),
    "mistral": Family(
        reads=("sliding_window", "layer_types"),
        defaults={"sliding_window": 4096, "max_position_embeddings": 131072, "num_key_value_heads": 8},
        layers=_all_in_window,
    ),
    "qwen2": Family(
        reads=_WINDOWS,
        defaults={"sliding_window": 4096, "max_position_embeddings": 32768, "num_key_value_heads": 32},
        layers=_last_in_window,
        biases=("q", "k", "v"),
    ),
    "qwen3": Family(
        fields={"qk_norm": "head"},
        reads=("attention_bias", *_WINDOWS),
        defaults={"sliding_window": 4096, "max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
        layers=_last_in_window,
    ),
    "phi3": Family(
        reads=("sliding_window",),
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
        layers=_all_in_window,
        share="partial_rotary_factor",
        types={"su": "longrope", "yarn": "longrope"},
    ),
    "granite": Family(
        reads=("attention_bias", "mlp_bias", *_GRANITE),
        defaults={"attention_multiplier": 1.0},
    ),
    "smollm3": Family(
        reads=("attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval", *_WINDOWS),
        defaults={
            "rope_theta": 2e6,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
        layers=_unrotated_in_window,
    ),
    "olmo": Family(reads=("attention_bias",), centred=True, gains=False),
    "olmo2": Family(
        fields={"qk_norm": "whole", "pre_norm": False, "post_norm": True},
        reads=("attention_bias",),
        defaults={"rms_norm_eps": 1e-5},
    ),
    "gemma": Family(
        reads=("attention_bias", "hidden_activation"),
        defaults=_GEMMA | {"hidden_activation": None, "num_key_value_heads": 16},
        activations={"gelu": "gelu_pytorch_tanh"},  # what the first files say and do not mean
        one_more=True,
    ),
    "gemma2": Family(
        fields={"post_norm": True},
        reads=(
            *("attention_bias", "hidden_activation", "attn_logit_softcapping", "final_logit_softcapping"),
            *("query_pre_attn_scalar", "sliding_window", "layer_types"),
        ),
        defaults=_GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "num_key_value_heads": 4},
        layers=_every_other,
        one_more=True,
    ),
    "gemma3_text": Family(
        fields={"post_norm": True, "qk_norm": "head"},
        reads=(
            *("attention_bias", "hidden_activation", "final_logit_softcapping", "query_pre_attn_scalar"),
            *("sliding_window", "sliding_window_pattern", "_sliding_window_pattern", "layer_types"),
        ),
        defaults=_GEMMA | {"rope_theta": 1e6, "max_position_embeddings": 131072, "num_key_value_heads": 4},
        layers=_by_pattern,
        two_tables=True,
        one_more=True,
    ),
    "stablelm": Family(
        reads=("use_qkv_bias", "use_parallel_residual"),
        defaults={"partial_rotary_factor": 0.25, "max_position_embeddings": 4096, "num_key_value_heads": 32},
        attention_biases=("q", "k", "v"),
        share="partial_rotary_factor",
        epsilon="layer_norm_eps",
        centred=True,
        norm_biases=True,
    ),
    "gpt_neox": Family(
        fields={"gated": False},
        reads=("attention_bias", "use_parallel_residual"),
        defaults={"rotary_pct": 0.25, "hidden_act": "gelu", "attention_bias": True, "use_parallel_residual": True},
        biases=("up", "down"),
        theta="rotary_emb_base",
        share="rotary_pct",
        epsilon="layer_norm_eps",
        centred=True,
        norm_biases=True,
    ),
}
KEYS["model_type"] = one_of(FAMILIES)
