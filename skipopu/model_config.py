"""Shape of a decoder-only Llama-family model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopu.accept import BOOLEAN, MAPPING, NULL, list_of, number, one_of, read_json, shown, whole
from skipopu.errors import CheckpointError
from skipopu.numerics.activation import ACTIVATIONS

NORMS = {"llama": "rms", "olmo": "layer"}
# Files that a tokenizer leaves in a checkpoint directory.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
ROPE = {
    "rope_type": one_of(["default"]),
    "type": one_of(["default"]),
    "rope_theta": number(1, 1e15) | NULL,
    "partial_rotary_factor": one_of([1, 1.0, None]),
}
TOKEN = whole(0, (1 << 32) - 2)
# Keys of config.json that are looked at; null stands for an absent key where it is accepted.
KEYS = {
    "model_type": one_of(NORMS),
    "hidden_size": whole(1, 1 << 20),
    "intermediate_size": whole(1, 1 << 20),
    "num_hidden_layers": whole(1, 1024),
    "num_attention_heads": whole(1, 4096),
    "num_key_value_heads": whole(1, 4096) | NULL,
    "head_dim": whole(1, 4096) | NULL,
    "vocab_size": whole(1, 1 << 24),
    "max_position_embeddings": whole(1, 1 << 32),
    "rms_norm_eps": number(1e-30, 1),
    "rope_theta": ROPE["rope_theta"],
    "rope_parameters": MAPPING | NULL,
    "rope_scaling": MAPPING | NULL,
    "partial_rotary_factor": ROPE["partial_rotary_factor"],
    "tie_word_embeddings": BOOLEAN,
    "byte_level": BOOLEAN,
    "eos_token_id": TOKEN | list_of(TOKEN) | NULL,
    "hidden_act": one_of(ACTIVATIONS),
    "weight_group": whole(1, 1 << 20),
    # What these would ask for is not there.
    "attention_bias": one_of([False, None]),
    "mlp_bias": one_of([False, None]),
    "sliding_window": NULL,
    "pretraining_tp": one_of([1, None]),
    "clip_qkv": NULL,
    "quantization_config": NULL,
    "compression_config": NULL,
    "quantization": NULL,
}
REQUIRED = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class Rope:
    """A rotary table: at position p, pair i of a head turns by p * frequencies[i]; cos and sin are multiplied by ``factor``.

    Pairs are (i, i + n) of a head's first 2n elements, n = len(frequencies); the elements behind them are not rotated, nor are any
    where there are no frequencies.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama-architecture model; all sizes in elements.

    ``rope_theta`` is the base of the rotary frequencies, ``eos_token_ids`` end generation, ``hidden_act`` is the activation of
    the gated feed-forward network, by its Hugging Face name. ``norm`` is "rms", or "layer" for LayerNorm without parameters.
    ``weight_group`` is the number of weights per scale that the model was trained for. ``byte_level``: ids 0 to 255 are the bytes of
    text, which the checkpoint has to declare (``"byte_level": true``): nothing else tells them from a tokenizer's ids.

    What families differ in, a plain Llama by default:

    ``rope``: rotary tables, one of ``rope_theta`` over whole heads when empty; ``rope_of_layer`` is each layer's table (the first
    when empty). ``attention_scale`` is what scores q . k are multiplied by (1 / sqrt(head_dim)). ``qk_norm``: RMSNorm of Q and of
    K before the rotation, over each "head" or the "whole" projection; "" for none. ``pre_norm``: modules read the normalised
    residual; ``post_norm``: their results are normalised before they are added to it. ``gated``: act(gate) * up, else act(up).
    ``parallel``: the feed-forward network reads the residual that attention reads. ``biases``: which of q, k, v, o, gate, up, down
    add one to their products, ``final_bias``: the last norm does. ``windows``: per layer, the tokens that a query sees, itself
    among them (0: all; empty: no layer has one). ``attention_cap``, ``logit_cap``: c in c * tanh(x / c), 0 for none.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    eos_token_ids: tuple[int, ...] = ()
    hidden_act: str = "silu"
    norm: str = "rms"
    weight_group: int = 128
    byte_level: bool = False
    rope: tuple[Rope, ...] = ()
    rope_of_layer: tuple[int, ...] = ()
    attention_scale: float | None = None
    qk_norm: str = ""
    pre_norm: bool = True
    post_norm: bool = False
    gated: bool = True
    parallel: bool = False
    biases: tuple[str, ...] = ()
    final_bias: bool = False
    windows: tuple[int, ...] = ()
    attention_cap: float = 0.0
    logit_cap: float = 0.0

    @property
    def queries_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    def window(self, layer: int, context: int) -> int:
        """Tokens that a query of ``layer`` sees in a context of so many; 0 where it sees all of them."""
        window = self.windows[layer] if self.windows else 0
        return window if window < context else 0

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Reads the Hugging Face keys of a Llama or OLMo configuration.

        Raises:
            CheckpointError: a key is missing, of the wrong type, out of range, or asks for something unsupported.
        """
        MAPPING.check(data, f"{where}: the content", CheckpointError)
        if missing := [key for key in REQUIRED if key not in data]:
            raise CheckpointError(f"{where}: {missing[0]} is missing; accepted: {KEYS[missing[0]].text}")
        for key, kind in KEYS.items():
            if key in data:
                kind.check(data[key], f"{where}: {key}", CheckpointError)

        def value(key: str, default: Any) -> Any:
            return default if data.get(key) is None else data[key]

        heads, vocabulary = data["num_attention_heads"], data["vocab_size"]
        kv_heads = value("num_key_value_heads", heads)
        head_dim = value("head_dim", data["hidden_size"] // heads)
        if heads % kv_heads:
            raise CheckpointError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
        if head_dim % 2 or not head_dim:
            raise CheckpointError(f"{where}: head_dim is {head_dim}; accepted: an even number, rotary embedding needs pairs")
        byte_level = value("byte_level", False)
        if byte_level and vocabulary < 256:
            raise CheckpointError(f"{where}: byte_level is true; accepted: false for a vocabulary of {vocabulary}, below 256")
        given = value("eos_token_id", ())
        eos = tuple(dict.fromkeys(given if isinstance(given, list | tuple) else (given,)))
        if beyond := [token for token in eos if token >= vocabulary]:
            raise CheckpointError(f"{where}: eos_token_id is {beyond[0]}; accepted: ids below vocab_size, {vocabulary}")
        norm = NORMS[data["model_type"]]
        return ModelConfig(
            hidden_size=data["hidden_size"],
            intermediate_size=data["intermediate_size"],
            num_layers=data["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=vocabulary,
            max_positions=value("max_position_embeddings", 2048),
            rms_norm_eps=float(value("rms_norm_eps", 1e-6)) if norm == "rms" else 1e-5,
            rope_theta=_rope_theta(data, where),
            tie_word_embeddings=value("tie_word_embeddings", False),
            eos_token_ids=eos,
            hidden_act=value("hidden_act", "silu"),
            norm=norm,
            weight_group=value("weight_group", 128),
            byte_level=byte_level,
        )

    @staticmethod
    def load(directory: Path) -> ModelConfig:
        """Reads ``directory/config.json`` (or that file itself); raises CheckpointError when it is missing or malformed.

        A tokenizer beside it says what ids are, whatever the file declares.
        """
        path = Path(directory)
        path = path / "config.json" if path.is_dir() or path.suffix != ".json" else path
        if not os.path.exists(path):
            raise CheckpointError(f"{path}: no such file; a checkpoint directory holds config.json and *.safetensors")
        config = ModelConfig.from_dict(read_json(path, CheckpointError), str(path))
        if any((path.parent / name).exists() for name in TOKENIZERS):
            config = dataclasses.replace(config, byte_level=False)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The same shape as a Hugging Face configuration dictionary."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": self.hidden_act,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": list(self.eos_token_ids) or None,
            "torch_dtype": "float32",
            "weight_group": self.weight_group,
            "byte_level": self.byte_level,
        }


def _rope_theta(data: dict[str, Any], where: str) -> float:
    """Base of the rotary frequencies, which stands under one of three keys.

    Raises:
        CheckpointError: any of them asks for scaled frequencies, or they name different bases.
    """
    found: dict[float, str] = {}
    for source in ("rope_theta", "rope_parameters", "rope_scaling"):
        table = {source: data.get(source)} if source == "rope_theta" else data.get(source) or {}
        for key, value in table.items():
            name = source if source == key else f"{source}.{key}"
            if key not in ROPE:
                raise CheckpointError(f"{where}: {name} is {shown(value)}; accepted keys: {', '.join(ROPE)}")
            ROPE[key].check(value, f"{where}: {name}", CheckpointError)
            if key == "rope_theta" and value is not None:
                found.setdefault(float(value), name)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise CheckpointError(f"{where}: {first} is {one:g} and {second} is {other:g}; accepted: one base")
    return next(iter(found), 10000.0)
