"""Random weights on the device: half precision, or INT4 with one scale per 128 inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipopu.model_config import ModelConfig

GROUP = 128
HALF = GROUP // 2  # bytes of a group: byte j holds input j in its low, input j + 64 in its high four bits
ZERO = 8  # code of weight 0


@dataclass(frozen=True)
class Matrix:
    """Weights of one product.

    Attributes:
        data: (rows, inputs) in half precision, or (rows, inputs / 2) uint8.
        scales: (rows, inputs / 128) in half precision; None without quantisation.
    """

    data: Tensor
    scales: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.data.shape[0]

    @property
    def inputs(self) -> int:
        return self.data.shape[1] * (1 if self.scales is None else 2)

    @property
    def bytes(self) -> int:
        """Bytes that one product with a vector reads."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.scales) if t is not None)

    def plain(self, dtype: torch.dtype) -> Tensor:
        """(rows, inputs), dequantised exactly."""
        if self.scales is None:
            return self.data.to(dtype)
        codes = self.data.view(self.rows, -1, HALF)
        signed = torch.cat([codes & 15, codes >> 4], 2).to(dtype) - ZERO
        return (signed * self.scales.to(dtype)[:, :, None]).view(self.rows, self.inputs)


@dataclass(frozen=True)
class Layer:
    """Norm weights are folded into qkv and gate_up. Rows: Q, K, V; gate, then up. router: (2, hidden)."""

    qkv: Matrix
    o: Matrix
    gate_up: Matrix
    down: Matrix
    router: Tensor


@dataclass(frozen=True)
class Weights:
    config: ModelConfig
    dtype: torch.dtype
    layers: list[Layer]
    head: Matrix
    embedding: Tensor  # (vocabulary, hidden)

    @property
    def device(self) -> torch.device:
        return self.embedding.device


def quantise(weight: Tensor) -> Matrix:
    """Symmetric INT4, the largest magnitude of a group on +-7; ``weight`` is (rows, inputs) of half precision."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    scales = (groups.abs().amax(2) / 7).to(weight.dtype)
    codes = (groups / scales.float()[:, :, None]).round().clamp(-7, 7).to(torch.int32) + ZERO
    packed = codes[:, :, :HALF] | codes[:, :, HALF:] << 4
    return Matrix(packed.to(torch.uint8).view(weight.shape[0], -1).contiguous(), scales)


def random_weights(config: ModelConfig, precision: str, device: torch.device, seed: int = 0) -> Weights:
    """Gaussian weights that keep the residual's size; ``precision`` is fp16, bf16 or int4 (on fp16)."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16

    def normal(rows: int, inputs: int) -> Tensor:
        values = torch.empty(rows, inputs, dtype=dtype, device=device)
        return values.normal_(0, inputs**-0.5, generator=generator)

    def matrix(rows: int, inputs: int) -> Matrix:
        values = normal(rows, inputs)
        return quantise(values) if precision == "int4" else Matrix(values)

    hidden, heads, kv_heads, dim = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
    layers = [
        Layer(
            matrix((heads + 2 * kv_heads) * dim, hidden),
            matrix(hidden, heads * dim),
            matrix(2 * config.intermediate_size, hidden),
            matrix(hidden, config.intermediate_size),
            normal(2, hidden),
        )
        for _ in range(config.num_layers)
    ]
    return Weights(config, dtype, layers, matrix(config.vocab_size, hidden), normal(config.vocab_size, hidden))
