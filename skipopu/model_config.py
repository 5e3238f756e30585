"""Shape of a decoder-only model, read from a Hugging Face ``config.json``; its family is no part of it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipopu import gguf_file
from skipopu.accept import BOOLEAN, MAPPING, NULL, Accepted, list_of, number, one_of, read_json, whole
from skipopu.errors import CheckpointError
from skipopu.families import KEYS, PRODUCTS
from skipopu.family_config import end_tokens, fields
from skipopu.rope import Rope as Rope

OWN = "skipopu"  # the key of what a Llama's configuration does not say
_REAL = number(-1e9, 1e9)
_TABLE = Accepted(
    "a mapping of frequencies and factor",
    lambda table: (
        MAPPING.holds(table)
        and set(table) == {"frequencies", "factor"}
        and list_of(_REAL).holds(table["frequencies"])
        and _REAL.holds(table["factor"])
    ),
)
GENERAL: dict[str, Accepted] = {
    "rope": list_of(_TABLE),
    "rope_of_layer": list_of(whole(0, 1024)),
    "attention_scale": number(1e-9, 1e9) | NULL,
    "qk_norm": one_of(["", "head", "whole"]),
    "counted_head_dim": whole(0, 4096),
    "pre_norm": BOOLEAN,
    "post_norm": BOOLEAN,
    "gated": BOOLEAN,
    "parallel": BOOLEAN,
    "biases": list_of(one_of(PRODUCTS)),
    "ffn_norm_bias": BOOLEAN,
    "final_bias": BOOLEAN,
    "windows": list_of(whole(0, 1 << 32)),
    "attention_cap": number(0, 1e9),
    "logit_cap": number(0, 1e9),
}
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


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder whose modules are attention and a feed-forward network; all sizes in elements.

    ``rope_theta`` is the base of the rotary frequencies, ``eos_token_ids`` end generation, ``hidden_act`` is the activation of
    the feed-forward network, by its Hugging Face name.
    ``weight_group`` is the number of weights per scale that the model was trained for. ``byte_level``: ids 0 to 255 are the bytes of
    text, which the checkpoint has to declare (``"byte_level": true``): nothing else tells them from a tokenizer's ids.

    What families differ in, a plain Llama by default:

    ``rope``: rotary tables, one of ``rope_theta`` over whole heads when empty; ``rope_of_layer`` is each layer's table (the first
    when empty). ``attention_scale`` is what scores q . k are multiplied by (1 / sqrt(head_dim)). ``qk_norm``: RMSNorm of Q and of
    K before the rotation, over each "head" or the "whole" projection; "" for none;
    ``counted_head_dim``: elements of a head in their means, others being padding (0: all). ``pre_norm``: modules read the normalised
    residual; ``post_norm``: their results are normalised before they are added to it. ``gated``: act(gate) * up, else act(up).
    ``parallel``: the feed-forward network reads the residual that attention reads. ``biases``: which of q, k, v, o, gate, up, down
    add one to their products, ``ffn_norm_bias``: the norm in front of the feed-forward network does, ``final_bias``: the last
    norm does. ``windows``: per layer, the tokens that a query sees, itself among them (0: all; empty: no layer has one).
    ``attention_cap``, ``logit_cap``: c in c * tanh(x / c), 0 for none.
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
    weight_group: int = 128
    byte_level: bool = False
    rope: tuple[Rope, ...] = ()
    rope_of_layer: tuple[int, ...] = ()
    attention_scale: float | None = None
    qk_norm: str = ""
    counted_head_dim: int = 0
    pre_norm: bool = True
    post_norm: bool = False
    gated: bool = True
    parallel: bool = False
    biases: tuple[str, ...] = ()
    ffn_norm_bias: bool = False
    final_bias: bool = False
    windows: tuple[int, ...] = ()
    attention_cap: float = 0.0
    logit_cap: float = 0.0

    @property
    def rope_tables(self) -> tuple[Rope, ...]:
        """The rotary tables; without any, one of ``rope_theta`` over whole heads."""
        half = self.head_dim // 2
        return self.rope or (Rope(tuple((self.rope_theta ** (-np.arange(half) / half)).tolist())),)

    @property
    def untied(self) -> ModelConfig:
        """The same model with a head of its own, which is quantised where the embedding is not."""
        return dataclasses.replace(self, tie_word_embeddings=False)

    @property
    def queries_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    def window(self, layer: int, context: int) -> int:
        """Tokens that a query of ``layer`` sees in a context of so many; 0 where it sees all of them."""
        window = self.windows[layer] if self.windows else 0
        return window if window < context else 0

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Reads a Hugging Face configuration of any family in :data:`skipopu.families.FAMILIES`.

        Raises:
            CheckpointError: a key is missing, of the wrong type, out of range, or asks for something unsupported.
        """
        result = fields(data, where)
        if OWN in data:
            result |= _own(data[OWN], result["num_layers"], f"{where}: {OWN}")
            if (counted := result.get("counted_head_dim", 0)) > result["head_dim"]:
                raise CheckpointError(
                    f"{where}: {OWN}.counted_head_dim is {counted}; accepted: up to head_dim, {result['head_dim']}"
                )
            if result["ffn_norm_bias"] and not result.get("pre_norm", True):
                raise CheckpointError(
                    f"{where}: {OWN}.ffn_norm_bias is true and pre_norm false; accepted: a bias of a norm that there is"
                )
        return ModelConfig(**result)

    @staticmethod
    def load(directory: Path) -> ModelConfig:
        """Reads ``directory/config.json`` (or that file itself, or a GGUF file); raises CheckpointError when it is missing or malformed.

        A tokenizer beside it says what ids are, whatever the file declares; the end tokens of a ``generation_config.json`` are
        end tokens too.
        """
        path = Path(directory)
        if path.suffix == gguf_file.SUFFIX:
            return ModelConfig.from_dict(gguf_file.read(path).config, str(path))
        path = path / "config.json" if path.is_dir() or path.suffix != ".json" else path
        if not os.path.exists(path):
            raise CheckpointError(f"{path}: no such file; a checkpoint directory holds config.json and *.safetensors")
        config = ModelConfig.from_dict(read_json(path, CheckpointError), str(path))
        if any(os.path.lexists(path.parent / name) for name in TOKENIZERS):
            config = dataclasses.replace(config, byte_level=False)
        if path.name == "config.json" and os.path.lexists(beside := path.with_name("generation_config.json")):
            what = f"{beside}: eos_token_id"
            given = KEYS["eos_token_id"].check(read_json(beside, CheckpointError).get("eos_token_id"), what, CheckpointError)
            eos = dict.fromkeys((*config.eos_token_ids, *end_tokens(given, config.vocab_size, what)))
            config = dataclasses.replace(config, eos_token_ids=tuple(eos))
        return config

    def to_hf(self) -> dict[str, Any]:
        """The same shape as a Hugging Face configuration dictionary: a Llama's, and under a key of its own what is none."""
        own = {name: getattr(self, name) for name in GENERAL if getattr(self, name) != getattr(ModelConfig, name, None)}
        own |= {"rope": [dataclasses.asdict(table) for table in self.rope]} if self.rope else {}
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
        } | ({OWN: own} if own else {})


def _own(data: Any, layers: int, where: str) -> dict[str, Any]:
    """Fields that a Hugging Face configuration has no keys for; raises CheckpointError for what is no such field or value."""
    MAPPING.check(data, where, CheckpointError)
    for key, given in data.items():
        if key not in GENERAL:
            raise CheckpointError(f"{where}.{key} is not known; accepted: {', '.join(GENERAL)}")
        GENERAL[key].check(given, f"{where}.{key}", CheckpointError)
    result = {key: tuple(given) if isinstance(given, list | tuple) else given for key, given in data.items()}
    if "rope" in result:
        result["rope"] = tuple(Rope(tuple(table["frequencies"]), table["factor"]) for table in result["rope"])
    tables = max(1, len(result.get("rope", ())))
    if beyond := [number for number in result.get("rope_of_layer", ()) if number >= tables]:
        raise CheckpointError(f"{where}.rope_of_layer names table {beyond[0]}; accepted: below {tables}")
    for key in ("rope_of_layer", "windows"):
        if len(result.get(key, ())) not in (0, layers):
            raise CheckpointError(f"{where}.{key} has {len(result[key])} entries; accepted: {layers}, one a layer, or none")
    return result
