"""One form for the tensors of every family: Llama's names, plain gains, RMSNorm, multipliers part of the tensors.

LayerNorm(h) = RMSNorm(h - mean(h)) * gain + bias, and the mean is linear in what is added to the residual stream: taking it out
of the embedding's rows and out of the columns of O and down (and of their biases) leaves a stream without mean, which routers
read too. The bias is part of the products that read it: W (x + b) = W x + W b; not in front of a gate, whose products are combined
before anything is added: there it stays the norm's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.tensors import F32, Codes, FileTensors, Held, NoCodes, Shape, Tensors, blocks
from skipopu.errors import CheckpointError
from skipopu.families import FAMILIES
from skipopu.model_config import OWN, ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
READERS = {"q": "input_layernorm", "k": "input_layernorm", "v": "input_layernorm"} | dict.fromkeys(
    ("gate", "up"), "post_attention_layernorm"
)
PARTS = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PRODUCT = re.compile(r"model\.layers\.\d+\.(?:self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj\.(weight|bias)")
EVERY = slice(None)
F64 = NDArray[np.float64]


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of a model's canonical tensors."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sizes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    sizes |= {"gate": (ffn, hidden)} if config.gated else {}
    sizes |= {"up": (ffn, hidden), "down": (hidden, ffn)}
    gains = {"input_layernorm": hidden, "post_attention_layernorm": hidden} if config.pre_norm else {}
    gains |= {"attention_post_norm": hidden, "mlp_post_norm": hidden} if config.post_norm else {}
    if config.qk_norm:
        whole = config.qk_norm == "whole"
        gains |= {
            "self_attn.q_norm": queries if whole else config.head_dim,
            "self_attn.k_norm": keys if whole else config.head_dim,
        }
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    if config.final_bias:
        shapes["model.norm.bias"] = (hidden,)
    norm_biases = ["post_attention_layernorm"] if config.ffn_norm_bias else []
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{PARTS[name]}.weight": size for name, size in sizes.items()}
        shapes |= {f"{prefix}{PARTS[name]}.bias": sizes[name][:1] for name in config.biases}
        shapes |= {f"{prefix}{name}.weight": (size,) for name, size in gains.items()}
        shapes |= {f"{prefix}{name}.bias": (hidden,) for name in norm_biases}
    return shapes


@dataclass(frozen=True)
class Names:
    """What a family's checkpoints call things.

    ``parts`` and ``whole`` map canonical modules, of a layer and of the model, to their own. ``fused`` maps own modules to the
    canonical ones whose rows they hold, one module after the other, or ``by_head`` all of them for one head after the other.
    ``ignored`` ends names of tensors that are no weights; ``one_norm``: a parallel layer has no second norm.
    """

    parts: dict[str, str] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    layers: str = "model.layers."
    fused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_head: bool = False
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    one_norm: bool = False


_POST_NORMS = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}
_BETWEEN = {**_POST_NORMS, "post_attention_layernorm": "pre_feedforward_layernorm"}
NAMES = {
    "olmo2": Names(_POST_NORMS),
    "gemma2": Names(_BETWEEN),
    "gemma3_text": Names(_BETWEEN),
    "phi3": Names(
        fused={
            "self_attn.qkv_proj": (PARTS["q"], PARTS["k"], PARTS["v"]),
            "mlp.gate_up_proj": (PARTS["gate"], PARTS["up"]),
        }
    ),
    "stablelm": Names(one_norm=True),
    "gpt_neox": Names(
        parts={PARTS["o"]: "attention.dense", PARTS["up"]: "mlp.dense_h_to_4h", PARTS["down"]: "mlp.dense_4h_to_h"},
        whole={
            "model.embed_tokens": "gpt_neox.embed_in",
            "model.norm": "gpt_neox.final_layer_norm",
            "lm_head": "embed_out",
        },
        layers="gpt_neox.layers.",
        fused={"attention.query_key_value": (PARTS["q"], PARTS["k"], PARTS["v"])},
        by_head=True,
        ignored=("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"),
    ),
}


class Canonical:
    """The canonical tensors of a checkpoint's own, and which of those it takes.

    ``needed`` are the names and shapes of the checkpoint's own tensors; ``tensors`` computes a canonical one when it is asked for.
    """

    def __init__(self, config: ModelConfig, data: Mapping[str, Any], own: Tensors, where: Callable[[str], Path]) -> None:
        self.kind = data["model_type"]
        self.config, self.own, self.where = config, own, where
        self.family, self.names = FAMILIES[self.kind], NAMES.get(self.kind, Names())
        value = self.family.value(dict(data))
        self.tied = bool(value("tie_word_embeddings"))
        self.biased = self.family.own_biases(value) | set(data.get(OWN, {}).get("biases", ()))
        self.embedding, self.head, self.residual = self.family.multipliers(value)
        self.parts = self.names.parts | (
            {"post_attention_layernorm": "input_layernorm"} if self.names.one_norm and config.parallel else {}
        )
        # transformers calls a head lm_head in memory, whatever the family's files call it.
        renamed = HEAD in own.shapes and self.names.whole.get("lm_head", "lm_head") + ".weight" not in own.shapes
        self.whole = self.names.whole | ({"lm_head": "lm_head"} if renamed else {})
        self.shapes = expected_shapes(config)
        self.means: dict[str, F64] = {}  # of columns: each takes the whole tensor, as do
        self.folded: dict[str, F32] = {}  # biases that hold a norm's
        self.needed = self._needed()
        self.tensors = Tensors(self.shapes, self._read, self._codes)

    def _needed(self) -> dict[str, Shape]:
        needed: dict[str, Shape] = {}
        for name, shape in self.shapes.items():
            product = _PRODUCT.fullmatch(name)
            if product and product[2] == "bias" and product[1] not in self.biased:
                continue
            if (name == HEAD and self.tied) or (_gain(name) and not self.family.gains):
                continue
            own, members = self._own(name)
            rows = sum(self.shapes[_sibling(name, member)][0] for member in members) if members else shape[0]
            needed[own] = (rows, *shape[1:])
            if _gain(name) and self.family.norm_biases:
                needed[own.removesuffix("weight") + "bias"] = shape
        return needed

    def _own(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The checkpoint's own name of a canonical tensor, and the canonical modules that it holds, if several."""
        if (match := _IN_LAYER.fullmatch(name)) is None:
            module, _, kind = name.rpartition(".")
            return f"{self.whole.get(module, module)}.{kind}", ()
        layer, part, kind = match.groups()
        for own, members in self.names.fused.items():
            if part in members:
                return f"{self.names.layers}{layer}.{own}.{kind}", members
        return f"{self.names.layers}{layer}.{self.parts.get(part, part)}.{kind}", ()

    def own_name(self, name: str) -> str:
        """What the checkpoint calls a canonical tensor, or the one that holds it."""
        return self._own(name)[0]

    def take(self, own: str, rows: slice | np.ndarray = EVERY) -> F32:
        """Rows of one of the checkpoint's own tensors, which have to be numbers."""
        around, within = _around(rows)
        tensor = self.own.read(own, around)[within]
        if not np.isfinite(tensor).all():
            parts = self.own.packed[own].tensors if isinstance(self.own, FileTensors) and own in self.own.packed else ()
            made = f", made of {', '.join(parts)}," if parts else ""
            raise CheckpointError(f"{self.where(own)}: tensor {own}{made} holds NaN, infinity, or a number beyond FP32")
        return tensor

    def _place(self, name: str, rows: slice) -> tuple[str, slice | np.ndarray]:
        """The checkpoint's own tensor that holds rows of a canonical one, and its rows."""
        own, members = self._own(name)
        if not members:
            return own, rows
        sizes = [self.shapes[_sibling(name, member)][0] for member in members]
        place = [_sibling(name, member) for member in members].index(name)
        if self.names.by_head:
            every = np.arange(sum(sizes)).reshape(-1, len(members), self.config.head_dim)[:, place].reshape(-1)
            return own, every[rows]
        start, stop, step = rows.indices(sizes[place])
        before = sum(sizes[:place])
        return own, slice(before + start, before + stop, step)

    def _plain(self, name: str, rows: slice = EVERY) -> F32:
        """Rows of a canonical tensor as the checkpoint has them."""
        return self.take(*self._place(name, rows))

    def _codes(self, name: str, rows: slice) -> Held:
        """Rows of a canonical matrix as the checkpoint's own integers, where it is one of its own times a number."""
        own, wanted = self._place(EMBEDDING if name == HEAD and self.tied else name, rows)
        around, within = _around(wanted)
        if not isinstance(found := self.own.codes(own, around), Codes):
            return found
        product = _PRODUCT.fullmatch(name)
        result = product is not None and product[1] in ("o", "down")
        if self.family.centred and (result or name == EMBEDDING):
            return NoCodes("the mean over their rows, or columns, is taken off", found.format)
        return found[within] * (self.head if name == HEAD else self.residual if result else 1.0)

    def _read(self, name: str, rows: slice) -> F32:
        with np.errstate(over="ignore"):  # found by the compiler, which says what the formats hold
            return self._computed(name, rows)

    def _computed(self, name: str, rows: slice) -> F32:
        if name == EMBEDDING:
            tensor = self._plain(name, rows)
            return _times(without(mean(tensor, 1), tensor) if self.family.centred else tensor, self.embedding)
        if name == HEAD:
            return _times(self._plain(EMBEDDING if self.tied else HEAD, rows), self.head)
        if _gain(name):
            if not self.family.gains:
                return np.ones(self.shapes[name], np.float32)[rows]
            return self._plain(name, rows) + np.float32(self.family.one_more)
        product = _PRODUCT.fullmatch(name)
        if product is None:
            return self._plain(name, rows)
        if product[1] in ("o", "down"):
            if not self.family.centred:
                return _times(self._plain(name, rows), self.residual)
            if name not in self.means:
                self.means[name] = mean(self._plain(name), 0)
            return _times(without(self.means[name], self._plain(name, rows)), self.residual)
        if product[2] == "weight" or not self.family.norm_biases:
            return self._plain(name, rows)
        if name not in self.folded:
            self.folded[name] = self._with_norms(name, product[1])
        return self.folded[name][rows]

    def _with_norms(self, name: str, product: str) -> F32:
        """A product's bias and what its weights make of the bias of the norm in front of it."""
        norm = re.sub(r"(self_attn|mlp)\..*", f"{READERS[product]}.bias", name)
        weight, added = name.removesuffix("bias") + "weight", self.take(self._own(norm)[0])
        parts = [self._plain(weight, part).astype(np.float64) @ added for part in blocks(self.shapes[weight])]
        own = self._plain(name) if product in self.biased else 0
        return (np.concatenate(parts) + own).astype(np.float32)


def _around(rows: slice | np.ndarray) -> tuple[slice, slice | np.ndarray]:
    """A slice that has all of ``rows``, and these in it."""
    if isinstance(rows, slice):
        return rows, EVERY
    first, last = (int(rows.min()), int(rows.max())) if len(rows) else (0, -1)
    return slice(first, last + 1), rows - first


def mean(tensor: F32, axis: int) -> F64:
    return tensor.mean(axis, keepdims=True, dtype=np.float64)


def without(mean: F64, tensor: F32) -> F32:
    """``tensor`` less ``mean``, taken in float64."""
    return (tensor - mean).astype(np.float32)


def _times(tensor: F32, factor: float) -> F32:
    return tensor if factor == 1 else tensor * np.float32(factor)


def _gain(name: str) -> bool:
    return name.endswith("norm.weight")


def _sibling(name: str, part: str) -> str:
    """The tensor of module ``part`` in the layer of ``name``."""
    match = _IN_LAYER.fullmatch(name)
    assert match
    return f"model.layers.{match[1]}.{part}.{match[3]}"
