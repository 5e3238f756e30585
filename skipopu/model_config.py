"""Shape of a decoder-only Llama-family model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopu.errors import CheckpointError
from skipopu.isa.spec import ACTIVATIONS

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
_UNSUPPORTED = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "pretraining_tp": (1, None),
    "clip_qkv": (None,),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama-architecture model; all sizes in elements.

    ``rope_theta`` is the base of the rotary frequencies, ``eos_token_ids`` end generation, ``hidden_act`` is the activation of
    the gated feed-forward network, by its Hugging Face name. ``norm`` is "rms", or "layer" for LayerNorm without parameters.
    ``weight_group`` is the number of weights per scale that the model was trained for. ``byte_level``: ids 0 to 255 are the bytes of
    text, which the checkpoint has to declare (``"byte_level": true``): nothing else tells them from a tokenizer's ids.
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

    @property
    def queries_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Reads the Hugging Face keys of a Llama configuration.

        Raises:
            CheckpointError: a key is missing, of the wrong type, or asks for something unsupported.
        """
        if data.get("model_type") not in NORMS:
            raise CheckpointError(
                f"{where}: model_type is {data.get('model_type')!r}; supported: {', '.join(map(repr, NORMS))}"
            )
        norm = NORMS[data["model_type"]]
        for key, accepted in _UNSUPPORTED.items():
            if key in data and data[key] not in accepted:
                raise CheckpointError(f"{where}: {key} is {data[key]!r}; supported: {accepted[0]!r}")
        rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise CheckpointError(f"{where}: rope type is {rope.get('rope_type')!r}; supported: 'default'")

        def positive(key: str, default: int | None = None) -> int:
            value = data.get(key)
            if value is None:
                value = default
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise CheckpointError(f"{where}: {key} is {value!r}; a positive integer is needed")
            return value

        hidden, heads = positive("hidden_size"), positive("num_attention_heads")
        kv_heads = positive("num_key_value_heads", heads)
        head_dim = positive("head_dim", hidden // heads)
        if heads % kv_heads:
            raise CheckpointError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
        if head_dim % 2:
            raise CheckpointError(f"{where}: head_dim {head_dim} is odd; rotary embedding needs pairs")
        activation = data.get("hidden_act", "silu")
        if activation not in ACTIVATIONS:
            raise CheckpointError(f"{where}: hidden_act is {activation!r}; supported: {', '.join(ACTIVATIONS)}")
        byte_level = data.get("byte_level", False)
        if not isinstance(byte_level, bool) or (byte_level and positive("vocab_size") < 256):
            raise CheckpointError(
                f"{where}: byte_level is {byte_level!r}; accepted: false, or true with a vocabulary of at least 256"
            )
        eos = data.get("eos_token_id")
        return ModelConfig(
            hidden_size=hidden,
            intermediate_size=positive("intermediate_size"),
            num_layers=positive("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=positive("vocab_size"),
            max_positions=positive("max_position_embeddings", 2048),
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)) if norm == "rms" else 1e-5,
            rope_theta=float(rope.get("rope_theta", data.get("rope_theta", 10000.0))),
            tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            hidden_act=activation,
            norm=norm,
            weight_group=positive("weight_group", 128),
            byte_level=byte_level,
        )

    @staticmethod
    def load(directory: Path) -> ModelConfig:
        """Reads ``directory/config.json`` (or that file itself); raises CheckpointError when it is missing or malformed.

        A tokenizer beside it says what ids are, whatever the file declares.
        """
        path = Path(directory)
        path = path / "config.json" if path.is_dir() or path.suffix != ".json" else path
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; a checkpoint directory holds config.json and *.safetensors") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not valid JSON ({error})") from None
        config = ModelConfig.from_dict(data, str(path))
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
