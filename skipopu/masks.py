"""Masks of input channels: which products have one, and where their thresholds lie in each port's memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.layout import U8, round_up
from skipopu.model_config import ModelConfig
from skipopu.numerics.mask import THRESHOLD_BITS

U16 = NDArray[np.uint16]
THRESHOLD_BYTES = THRESHOLD_BITS // 8
MASK_FIELDS = (
    "list",
    "source",
    "norm",
    "groups",
    "layered",
)  # fields of a MATMUL that its mask follows from, besides its thresholds

# What a layer's products read, by the names that files of thresholds have. The head and routers are never masked.
ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER = "self_attn.input", "self_attn.output", "mlp.input", "mlp.inner"
INPUT_OF = dict.fromkeys(("kv", "q", "k", "v"), ATTENTION) | {"o": ATTENTION_OUTPUT}
INPUT_OF |= dict.fromkeys(("gate_up", "gate", "up"), FFN) | {"down": FFN_INNER}


def channels(config: ModelConfig) -> dict[str, int]:
    """Channels of each input."""
    hidden = config.hidden_size
    return {
        ATTENTION: hidden,
        ATTENTION_OUTPUT: config.num_heads * config.head_dim,
        FFN: hidden,
        FFN_INNER: config.intermediate_size,
    }


def weights(config: ModelConfig) -> dict[str, int]:
    """Weights of one layer's matrices, by the input that they read."""
    inner, keys = config.intermediate_size, config.num_kv_heads * config.head_dim
    rows = {
        ATTENTION: config.num_heads * config.head_dim + 2 * keys,
        ATTENTION_OUTPUT: config.hidden_size,
        FFN: 2 * inner if config.gated else inner,
        FFN_INNER: config.hidden_size,
    }
    return {name: size * rows[name] for name, size in channels(config).items()}


@dataclass(frozen=True)
class ThresholdTable:
    """Thresholds of one product's input, uint16 little endian, as the ports hold them.

    Group g lies in port g mod ports; in each port groups ascend, each padded to whole beats.

    Attributes: groups, group (channels of each), ports, beat (bytes of a port's beat).
    """

    groups: int
    group: int
    ports: int
    beat: int

    @property
    def group_bytes(self) -> int:
        """Bytes of a group in its port."""
        return round_up(THRESHOLD_BYTES * self.group, self.beat)

    @property
    def size(self) -> int:
        """Bytes reserved in every port."""
        return round_up(-(-self.groups // self.ports) * self.group_bytes, ADDRESS_UNIT)

    def pack(self, thresholds: U16) -> list[U8]:
        """Tables of all ports from (channels,) uint16; 0 for those behind the last."""
        padded = np.zeros(self.groups * self.group, "<u2")
        padded[: len(thresholds)] = thresholds
        tables = np.zeros((self.groups, self.group_bytes), np.uint8)
        tables[:, : THRESHOLD_BYTES * self.group] = padded.view(np.uint8).reshape(self.groups, -1)
        parts = [np.zeros(self.size, np.uint8) for _ in range(self.ports)]
        for port, part in enumerate(parts):
            own = tables[port :: self.ports].reshape(-1)
            part[: len(own)] = own
        return parts

    def unpack(self, parts: list[U8]) -> U16:
        """The inverse: (groups, group) uint16."""
        thresholds = np.zeros((self.groups, self.group), np.uint16)
        for port, part in enumerate(parts):
            count = len(range(port, self.groups, self.ports))
            own = part[: count * self.group_bytes].reshape(count, self.group_bytes)[:, : THRESHOLD_BYTES * self.group]
            thresholds[port :: self.ports] = np.ascontiguousarray(own).view("<u2")
        return thresholds
