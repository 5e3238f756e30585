"""What lives on the device from token to token: buffers, the pool of KV entries, routing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.baselines.gpu.masks import Masks
from sim.baselines.gpu.weights import Weights

POLICIES = ("dense", "reuse")


@dataclass
class State:
    """One sequence. Layer l's valid entry of token t lies at ``place[l, t]`` of the pool, rope applied.

    Attributes:
        policy: "dense": every token's keys and values at every layer; "reuse": of executed attention only, a token that skips
            keeps the entry of the layer before; None: nothing is skipped.
        tokens: (context + 1,) int64. position: (1,) int64, of the token that the next step takes.
        trace: (layers, 2, context) uint8, or None: the routers decide.
        executed: (layers, 2) int32, of the present token. taken: (layers, 2) int64, how often each module was executed.
        place: (layers, context) int32. entries: (1,) int32, allocated.
        keys, values: (entries, kv heads, head_dim) in half precision.
        rope: (context, 2, head_dim / 2) float32, cos and sin.
        h: (hidden,) float32. qkv, mixed, fed: of a layer, in half precision. logits: (vocabulary,) float32.
        router: (layers, 2) float32, the routers' sums.
        masks: of input channels, or None: nothing is masked.
    """

    policy: str | None
    tokens: Tensor
    position: Tensor
    trace: Tensor | None
    executed: Tensor
    taken: Tensor
    place: Tensor
    entries: Tensor
    keys: Tensor
    values: Tensor
    rope: Tensor
    h: Tensor
    qkv: Tensor
    mixed: Tensor
    fed: Tensor
    logits: Tensor
    router: Tensor
    masks: Masks | None = None

    def active(self, layer: int, name: str) -> Tensor | None:
        """(channels,) uint8, which of an input's channels the present token reads; None: all."""
        return None if self.masks is None else self.masks.present[0, layer, self.masks.places[name]]

    def reset(self) -> None:
        """Before a new sequence."""
        self.position.zero_()
        self.entries.zero_()
        self.taken.zero_()
        self.executed.fill_(1)


def new_state(
    weights: Weights, context: int, policy: str | None, trace: NDArray[np.bool_] | None, masks: Masks | None = None
) -> State:
    """For sequences of up to ``context`` tokens; ``trace`` is bool (layers, 2, at least context - 1), layer 0's attention executed."""
    c, device, dtype = weights.config, weights.device, weights.dtype
    layers = c.num_layers

    def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    given = None
    pool = layers * context
    if trace is not None and policy is not None:
        padded = np.ones((layers, 2, context), np.uint8)
        padded[:, :, : min(context, trace.shape[2])] = trace[:, :, :context]
        given = torch.from_numpy(padded).to(device)
        pool = int(padded[:, 0].sum()) if policy == "reuse" else pool
    place = torch.arange(layers * context, dtype=torch.int32, device=device).view(layers, context)
    if policy == "reuse":
        place.zero_()
    angle = torch.arange(context)[:, None] * c.rope_theta ** (
        -torch.arange(c.head_dim // 2, dtype=torch.float64) * 2 / c.head_dim
    )
    return State(
        policy=policy,
        tokens=zeros(context + 1, dtype=torch.int64),
        position=zeros(1, dtype=torch.int64),
        trace=given,
        executed=torch.ones(layers, 2, dtype=torch.int32, device=device),
        taken=zeros(layers, 2, dtype=torch.int64),
        place=place,
        entries=zeros(1, dtype=torch.int32),
        keys=zeros(pool, c.num_kv_heads, c.head_dim),
        values=zeros(pool, c.num_kv_heads, c.head_dim),
        rope=torch.stack([angle.cos(), angle.sin()], 1).float().to(device),
        h=zeros(c.hidden_size, dtype=torch.float32),
        qkv=zeros((c.num_heads + 2 * c.num_kv_heads) * c.head_dim),
        mixed=zeros(c.num_heads * c.head_dim),
        fed=zeros(c.intermediate_size),
        logits=zeros(c.vocab_size, dtype=torch.float32),
        router=zeros(layers, 2, dtype=torch.float32),
        masks=masks,
    )
