"""Random weights on the device: half precision, or INT4 with one scale per 128 inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipopu.model_config import ModelConfig

GROUP = 128
HALF = GROUP // 2  # bytes of a group: byte j holds input j in its low, input j + 64 in its high four bits
ZERO = 8  # code of weight 0


@dataclass(frozen=True)
class Matrix:
    """Weights of one product.

    Attributes:
        data: (rows, inputs) in half precision, or (rows, inputs / 2) uint8; by channel (inputs, rows) or (inputs, rows / 2).
        scales: (rows, inputs / 128) in half precision, by channel (inputs / 128, rows); None without quantisation.
        by_channel: an input's weights lie beside each other, so that they can be left out.
    """

    data: Tensor
    scales: Tensor | None = None
    by_channel: bool = False

    @property
    def rows(self) -> int:
        return self._shape[self.by_channel]

    @property
    def inputs(self) -> int:
        return self._shape[not self.by_channel]

    @property
    def _shape(self) -> tuple[int, int]:
        """Of the weights, as they lie."""
        return self.data.shape[0], self.data.shape[1] * (1 if self.scales is None else 2)

    @property
    def bytes(self) -> int:
        """Bytes that one product with a vector reads."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.scales) if t is not None)

    def read(self, active: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes that products read of whose inputs the shares ``active`` are active; scales are read whole."""
        return self.bytes - (1 - active) * self.data.numel() * self.data.element_size()

    def plain(self, dtype: torch.dtype) -> Tensor:
        """(rows, inputs), dequantised exactly."""
        if self.scales is None:
            values = self.data.to(dtype)
        else:
            codes = self.data.view(len(self.data), -1, HALF)
            signed = torch.cat([codes & 15, codes >> 4], 2).to(dtype) - ZERO
            scales = self.scales.to(dtype)
            if self.by_channel:
                signed, scales = signed.view(-1, GROUP, self.rows), scales[:, None]
            else:
                scales = scales[:, :, None]
            values = (signed * scales).view(self._shape)
        return values.T if self.by_channel else values


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


def quantise(weight: Tensor, by_channel: bool = False) -> Matrix:
    """Symmetric INT4, the largest magnitude of a group on +-7; ``weight`` is (rows, inputs) of half precision.

    By channel, ``rows`` too are a multiple of 128: bytes then hold two rows, 64 apart.
    """
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    scales = (groups.abs().amax(2) / 7).to(weight.dtype)
    codes = (groups / scales.float()[:, :, None]).round().clamp(-7, 7).to(torch.int32) + ZERO
    if by_channel:
        codes, scales = codes.view(weight.shape).T.reshape(weight.shape[1], -1, GROUP), scales.T.contiguous()
    packed = codes[:, :, :HALF] | codes[:, :, HALF:] << 4
    return Matrix(packed.to(torch.uint8).view(len(codes), -1).contiguous(), scales, by_channel)


def random_weights(
    config: ModelConfig, precision: str, device: torch.device, seed: int = 0, by_channel: bool = False
) -> Weights:
    """Gaussian weights that keep the residual's size; ``precision`` is fp16, bf16 or int4 (on fp16).

    The layers' matrices lie ``by_channel`` or not; their values are the same.
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16

    def normal(rows: int, inputs: int) -> Tensor:
        values = torch.empty(rows, inputs, dtype=dtype, device=device)
        return values.normal_(0, inputs**-0.5, generator=generator)

    def matrix(rows: int, inputs: int, by_channel: bool = by_channel) -> Matrix:
        values = normal(rows, inputs)
        if precision == "int4":
            return quantise(values, by_channel)
        return Matrix(values.T.contiguous(), by_channel=True) if by_channel else Matrix(values)

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
    head = matrix(config.vocab_size, hidden, by_channel=False)
    return Weights(config, dtype, layers, head, normal(config.vocab_size, hidden))
