"""The same function with weights that no training has rounded: residual stream and values in another basis."""

from __future__ import annotations

import dataclasses

import numpy as np

from compiler.frontend.canonical import EMBEDDING, HEAD
from compiler.frontend.checkpoint import Checkpoint
from compiler.quantise.products import folded


def can_turn(checkpoint: Checkpoint) -> bool:
    """Whether nothing but products and linear routers reads the residual stream, after norms without biases, and only O reads values."""
    config = checkpoint.config
    linear = all(router.hidden is None for both in checkpoint.routers or () for router in both)
    return config.pre_norm and linear and not (config.biases or config.post_norm or config.ffn_norm_bias or config.final_bias)


def turned(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """``checkpoint``, gains folded and head of its own, in random orthogonal bases; see :func:`can_turn`."""
    config, rng = checkpoint.config, np.random.default_rng(seed)
    stream, head = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (config.hidden_size, config.head_dim))
    tensors = {name: tensor.astype(np.float64) for name, tensor in folded(config, checkpoint.tensors).items()}
    for name, tensor in tensors.items():
        product = name.rpartition(".")[0].rpartition(".")[2]
        if product in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") or name in (EMBEDDING, HEAD):
            tensors[name] = tensor @ stream
        if product in ("o_proj", "down_proj"):
            tensors[name] = stream.T @ tensor
        if product == "v_proj":
            by_head = tensors[name].reshape(config.num_kv_heads, config.head_dim, -1)
            tensors[name] = np.einsum("de,hdn->hen", head, by_head).reshape(-1, config.hidden_size)
        if product == "o_proj":
            by_head = tensors[name].reshape(-1, config.num_heads, config.head_dim)
            tensors[name] = (by_head @ head).reshape(config.hidden_size, -1)
    routers = checkpoint.routers and [
        (
            dataclasses.replace(attention, weight=(attention.weight @ stream).astype(np.float32)),
            dataclasses.replace(ffn, weight=(ffn.weight @ stream).astype(np.float32)),
        )
        for attention, ffn in checkpoint.routers
    ]
    plain = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return dataclasses.replace(checkpoint, config=config.untied, tensors=plain, routers=routers)
