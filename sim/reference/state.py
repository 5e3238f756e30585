"""The reference model's tensors under the canonical names and SkipGPT's."""

from __future__ import annotations

import torch
from torch import Tensor

from sim.reference.layer import GAINS, PROJECTIONS, Layer, Router
from sim.reference.model import SkipLlama


def hf_state_dict(model: SkipLlama) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(base tensors, router tensors) under the canonical names (:mod:`compiler.frontend.canonical`) and SkipGPT's."""
    base: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embed_tokens.weight,
        "model.norm.weight": model.norm,
    }
    if not model.config.tie_word_embeddings:
        base["lm_head.weight"] = model.lm_head.weight
    if model.norm_bias is not None:
        base["model.norm.bias"] = model.norm_bias
    routers: dict[str, Tensor] = {}
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{index}."
        for name, place in PROJECTIONS.items():
            if (linear := getattr(layer, f"{name}_proj", None)) is not None:
                base[f"{prefix}{place}.weight"] = linear.weight
                if linear.bias is not None:
                    base[f"{prefix}{place}.bias"] = linear.bias
        for name in GAINS:
            if (gain := getattr(layer, name.removeprefix("self_attn."))) is not None:
                base[f"{prefix}{name}.weight"] = gain
        if layer.post_attention_layernorm_bias is not None:
            base[f"{prefix}post_attention_layernorm.bias"] = layer.post_attention_layernorm_bias
        for name in ("attention", "mlp"):
            router = getattr(layer, f"router_{name}")
            routers |= {f"{prefix}router_{name}.{part}": tensor for part, tensor in router.state_dict(keep_vars=True).items()}
    return (
        {name: tensor.detach().contiguous() for name, tensor in base.items()},
        {name: tensor.detach().contiguous() for name, tensor in routers.items()},
    )


def load_hf_state_dict(model: SkipLlama, base: dict[str, Tensor], routers: dict[str, Tensor]) -> SkipLlama:
    """Fills ``model`` from tensors under the names of :func:`hf_state_dict`; missing routers always execute.

    Routers become those of two layers where ``routers`` have them.
    """
    for index, layer in enumerate(model.layers):
        for name in ("attention", "mlp"):
            if (hidden := routers.get(f"model.layers.{index}.router_{name}.hidden_layer.weight")) is not None:
                width, size = hidden.shape
                setattr(layer, f"router_{name}", Router(size, width).to(model.embed_tokens.weight))
    own_base, own_routers = hf_state_dict(model)
    with torch.no_grad():
        for own, given in ((own_base, base), (own_routers, routers)):
            for name, tensor in own.items():
                if name in given:
                    tensor.copy_(given[name].to(tensor.dtype))
                elif own is own_routers:
                    tensor.zero_()
                else:
                    raise KeyError(name)
    return model
