"""Where bytes lie in each port's memory: weight streams, embedding rows, KV entries, router records.

Every function packs or unpacks one structure; compiler, functional engine and tests share them. Addresses are bytes
inside a port, multiples of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS, BUFFER_UNIT
from skipopu.machine.config import Machine

U8 = NDArray[np.uint8]
SCALES_PER_WORD = 32  # FP16 scales that travel ahead of their 32 groups, 64 bytes


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def buffer_stride(elements: int) -> int:
    """Elements between token slots of a vector in the FP32 buffer."""
    return round_up(elements, 2 * BUFFER_UNIT)


@dataclass(frozen=True)
class WeightStream:
    """Shape of a quantised matrix as the ports stream it.

    Rows are cut into blocks of 8; block b belongs to port b mod ports. Inside a block groups ascend and hold the 8 rows'
    codes: consecutive groups belong to different accumulators. Each 32 groups of a port's stream are preceded by a
    64-byte word of their FP16 scales. Codes are nibbles, element 0 lowest.
    """

    rows: int
    groups: int
    group: int
    ports: int

    @property
    def blocks(self) -> int:
        return -(-self.rows // BLOCK_ROWS)

    def port_groups(self, port: int) -> int:
        """Groups in one port's stream."""
        return -(-(self.blocks - port) // self.ports) * BLOCK_ROWS * self.groups if self.blocks > port else 0

    def port_bytes(self, port: int) -> int:
        """Bytes that port fetches."""
        groups = self.port_groups(port)
        return -(-groups // SCALES_PER_WORD) * 2 * SCALES_PER_WORD + groups * self.group // 2

    @property
    def size(self) -> int:
        """Bytes reserved in every port."""
        return round_up(self.port_bytes(0), ADDRESS_UNIT)

    def pack(self, q: NDArray[np.int8], scale: NDArray[np.float16]) -> list[U8]:
        """Streams of all ports from q (rows, groups, group) and scale (rows, groups)."""
        padded = self.blocks * BLOCK_ROWS
        codes = np.zeros((padded, self.groups, self.group), np.uint8)
        codes[: self.rows] = q.view(np.uint8) & 15
        scales = np.zeros((padded, self.groups), np.float16)
        scales[: self.rows] = scale
        nibbles = codes[..., 0::2] | codes[..., 1::2] << 4
        by_block = nibbles.reshape(self.blocks, BLOCK_ROWS, self.groups, -1).transpose(0, 2, 1, 3)
        scale_block = scales.reshape(self.blocks, BLOCK_ROWS, self.groups).transpose(0, 2, 1)
        streams: list[U8] = []
        for port in range(self.ports):
            groups = self.port_groups(port)
            words = -(-groups // SCALES_PER_WORD)
            body = np.zeros((words * SCALES_PER_WORD, self.group // 2), np.uint8)
            body[:groups] = by_block[port :: self.ports].reshape(groups, self.group // 2)
            head = np.zeros(words * SCALES_PER_WORD, np.float16)
            head[:groups] = scale_block[port :: self.ports].reshape(groups)
            parts = [
                head.view(np.uint8).reshape(words, 2 * SCALES_PER_WORD),
                body.reshape(words, self.group // 2 * SCALES_PER_WORD),
            ]
            joined = np.concatenate(parts, 1).reshape(-1)
            stream = np.zeros(self.size, np.uint8)
            stream[: self.port_bytes(port)] = joined[: self.port_bytes(port)]
            streams.append(stream)
        return streams

    def unpack(self, streams: list[U8]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
        """The inverse of :meth:`pack`: q (rows, groups, group) and scale (rows, groups)."""
        shape = (self.blocks, self.groups, BLOCK_ROWS)
        nibbles = np.zeros((*shape, self.group // 2), np.uint8)
        scales = np.zeros(shape, np.float16)
        for port in range(self.ports):
            groups = self.port_groups(port)
            words = -(-groups // SCALES_PER_WORD)
            joined = np.zeros(words * SCALES_PER_WORD * (2 + self.group // 2), np.uint8)
            joined[: self.port_bytes(port)] = streams[port][: self.port_bytes(port)]
            table = joined.reshape(words, SCALES_PER_WORD * (2 + self.group // 2))
            head = table[:, : 2 * SCALES_PER_WORD].copy().view(np.float16).reshape(-1)[:groups]
            body = table[:, 2 * SCALES_PER_WORD :].reshape(-1, self.group // 2)[:groups]
            mine = groups // (self.groups * BLOCK_ROWS)
            scales[port :: self.ports] = head.reshape(mine, *shape[1:])
            nibbles[port :: self.ports] = body.reshape(mine, *shape[1:], self.group // 2)
        nibbles = nibbles.transpose(0, 2, 1, 3).reshape(-1, self.groups, self.group // 2)[: self.rows]
        codes = np.stack([nibbles & 15, nibbles >> 4], -1).reshape(self.rows, self.groups, self.group)
        q = ((codes ^ 8).astype(np.int16) - 8).astype(np.int8)
        return q, scales.transpose(0, 2, 1).reshape(-1, self.groups)[: self.rows]


@dataclass(frozen=True)
class EmbeddingRows:
    """FP16 embedding rows: port p holds elements p*part .. (p+1)*part - 1 of every row, part = row bytes / 2."""

    hidden: int
    vocabulary: int
    ports: int

    @property
    def row_bytes(self) -> int:
        return round_up(-(-self.hidden // self.ports) * 2, ADDRESS_UNIT)

    @property
    def size(self) -> int:
        return self.row_bytes * self.vocabulary

    def pack(self, table: NDArray[np.float16]) -> list[U8]:
        """Parts of all ports from (vocabulary, hidden)."""
        part = self.row_bytes // 2
        padded = np.zeros((self.vocabulary, part * self.ports), np.float16)
        padded[:, : self.hidden] = table
        return [
            np.ascontiguousarray(padded[:, p * part : (p + 1) * part]).view(np.uint8).reshape(-1) for p in range(self.ports)
        ]

    def unpack(self, parts: list[U8]) -> NDArray[np.float16]:
        rows = [part[: self.size].view(np.float16).reshape(self.vocabulary, -1) for part in parts]
        return np.concatenate(rows, 1)[:, : self.hidden]


@dataclass(frozen=True)
class KvEntry:
    """One token's K and V at one layer, whole in one port.

    A header holds, per KV head, K's and V's shared exponent fields (one byte each); K of all heads follows, then V, FP16,
    each head padded to whole beats.
    """

    kv_heads: int
    head_dim: int
    machine: Machine

    @property
    def head_beats(self) -> int:
        return -(-self.head_dim // self.machine.kv_lanes)

    @property
    def header_beats(self) -> int:
        return -(-2 * self.kv_heads // self.machine.beat_bytes)

    @property
    def key_beats(self) -> int:
        """Beats of the header and K, the first of an entry's two bursts."""
        return self.header_beats + self.kv_heads * self.head_beats

    @property
    def beats(self) -> int:
        return self.header_beats + 2 * self.kv_heads * self.head_beats

    @property
    def size(self) -> int:
        """Bytes, padded to 64."""
        return round_up(self.beats * self.machine.beat_bytes, ADDRESS_UNIT)

    def pack(self, k: NDArray[np.float16], v: NDArray[np.float16], exponents: NDArray[np.int64]) -> U8:
        """Entry bytes from k and v (kv_heads, head_dim) and exponent fields (kv_heads, 2)."""
        beat, lanes = self.machine.beat_bytes, self.machine.kv_lanes
        entry = np.zeros(self.beats * beat, np.uint8)
        entry[: 2 * self.kv_heads] = exponents.reshape(-1)
        body = np.zeros((2, self.kv_heads, self.head_beats * lanes), np.float16)
        body[0, :, : self.head_dim], body[1, :, : self.head_dim] = k, v
        entry[self.header_beats * beat :] = body.view(np.uint8).reshape(-1)
        return entry


ROUTER_RECORD_BYTES = ADDRESS_UNIT


def pack_router_record(bias: tuple[float, float], modes: tuple[int, int]) -> U8:
    """64 bytes: FP32 bias of the attention and FFN difference, then the two RouteMode codes in bits 1:0 and 3:2 of byte 8."""
    record = np.zeros(ROUTER_RECORD_BYTES, np.uint8)
    record[:8] = np.array(bias, np.float32).view(np.uint8)
    record[8] = modes[0] | modes[1] << 2
    return record


RING_RECORD_BYTES = 16  # uint32: sequence number + 1, instruction index, signature, cycle of retirement (timing only)
