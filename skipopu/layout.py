"""Where bytes lie in each port's memory: weight streams, embedding rows, KV entries, router records.

Every function packs or unpacks one structure; compiler, functional engine and tests share them. Addresses are bytes
inside a port, multiples of 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS, BUFFER_UNIT, block_rows
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, SCALE_WORD, ZERO_BITS, Format

U8 = NDArray[np.uint8]
F16 = NDArray[np.float16]


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def buffer_stride(elements: int) -> int:
    """Elements between token slots of a vector in the FP32 buffer: whole words of every machine."""
    return round_up(elements, 4 * BUFFER_UNIT)


@dataclass(frozen=True)
class WeightStream:
    """Shape of a quantised matrix as the ports stream it.

    Rows are cut into blocks of 8 (a matrix of up to 6 rows: one of 6); block b belongs to port b mod ports. Inside a block groups
    ascend. For each group the format's pairs of nibbles follow one another, and inside a pair beats of its first and second member
    alternate. Groups shorter than a beat stand side by side in it, two or four of neighbouring pairs (all blocks have 8 rows then). Each 32 groups of rows in a port's stream are preceded by a 64-byte word of their FP16 scales; of a format with zero
    points each 24 groups, by 24 scales and from byte 48 their zero points, 5 bits each. Element 0 of a beat is its lowest nibble.

    Attributes: rows, groups, group (elements per group), ports, lanes (nibbles per beat), format of the codes.
    """

    rows: int
    groups: int
    group: int
    ports: int
    lanes: int
    format: Format = INT4

    @property
    def blocks(self) -> int:
        return -(-self.rows // BLOCK_ROWS)

    @property
    def pieces(self) -> int:
        """Groups side by side in a beat."""
        return max(1, self.lanes // self.group)

    @property
    def block_rows(self) -> int:
        return block_rows(self.rows, self.pieces)

    @property
    def group_bytes(self) -> int:
        """Bytes of one row's group."""
        return self.group * self.format.bits // 8

    def port_groups(self, port: int) -> int:
        """Groups of rows in one port's stream."""
        return -(-(self.blocks - port) // self.ports) * self.block_rows * self.groups if self.blocks > port else 0

    def port_bytes(self, port: int) -> int:
        """Bytes that port fetches."""
        groups = self.port_groups(port)
        return -(-groups // self.format.scales_per_word) * SCALE_WORD + groups * self.group_bytes

    @property
    def size(self) -> int:
        """Bytes reserved in every port."""
        return round_up(self.port_bytes(0), ADDRESS_UNIT)

    def parts(self, rows: int) -> Iterator[tuple[slice, WeightStream]]:
        """What can be packed on its own: slices of about ``rows`` rows and their streams, which follow one another in every port.

        Each but the last gives all ports whole words of scales; the last has what remains, less than twice as many rows.
        """
        per_word = self.format.scales_per_word
        least = BLOCK_ROWS * self.ports * per_word // math.gcd(per_word, BLOCK_ROWS * self.groups)
        step = least * max(1, rows // least)
        for first in range(0, max(self.rows - step, 0) + 1, step):
            last = first + step if first + 2 * step <= self.rows else self.rows
            yield slice(first, last), replace(self, rows=last - first)

    @property
    def unit(self) -> int:
        """Rows after which a matrix may be cut in two: whole words of scales in every port."""
        return self.ports * self.format.scales_per_word

    @property
    def _body(self) -> tuple[int, ...]:
        """Shape of the codes in stream order: blocks, groups, pairs with the same beats, beats, members, pieces of a beat, their bytes."""
        pairs, beats = self.block_rows * self.format.bits // 8 // self.pieces, max(1, self.group // self.lanes)
        return self.blocks, self.groups, pairs, beats, 2, self.pieces, self.lanes // self.pieces // 2

    def _words_of(self, scale: F16, zero: U8) -> U8:
        """(words, 64) bytes of (count,) scales and zero points."""
        per_word = self.format.scales_per_word
        words = -(-len(scale) // per_word)
        table = np.zeros((words, SCALE_WORD), np.uint8)
        table[:, : 2 * per_word] = _filled(scale, (words, per_word)).view(np.uint8)
        if self.format.zero_points:
            bits = _filled(zero, (words, per_word))[..., None] >> np.arange(ZERO_BITS) & 1
            packed = np.packbits(bits.reshape(words, per_word * ZERO_BITS), 1, bitorder="little")
            table[:, 2 * per_word :][:, : packed.shape[1]] = packed
        return table

    def _of_words(self, table: U8) -> tuple[F16, U8]:
        """The inverse: scales and zero points of whole words."""
        per_word = self.format.scales_per_word
        scale = table[:, : 2 * per_word].copy().view(np.float16).reshape(-1)
        if not self.format.zero_points:
            return scale, np.zeros(len(scale), np.uint8)
        bits = np.unpackbits(table[:, 2 * per_word :], 1, per_word * ZERO_BITS, bitorder="little")
        return scale, (bits.reshape(-1, ZERO_BITS) << np.arange(ZERO_BITS)).sum(1).astype(np.uint8)

    def pack(self, q: NDArray[np.int8], scale: F16) -> list[U8]:
        """Streams of all ports from integers q (rows, groups, group) and scale (rows, groups)."""
        padded, per_word = self.blocks * self.block_rows, self.format.scales_per_word
        integers = np.zeros((padded, self.groups, self.group), np.int8)
        integers[: self.rows] = q
        codes = self.format.nibbles(integers)
        scales = np.zeros((padded, self.groups), np.float16)
        scales[: self.rows] = scale
        blocks, groups, pairs, beats, members, pieces, size = self._body
        nibbles = codes[..., 0::2] | codes[..., 1::2] << 4
        by_block = nibbles.reshape(blocks, pairs, pieces, members, groups, beats, size).transpose(0, 4, 1, 5, 3, 2, 6)
        by_block = by_block.reshape(blocks, groups * self.block_rows * self.group_bytes)
        scale_block = scales.reshape(blocks, self.block_rows, groups).transpose(0, 2, 1)
        zero_block = self.format.zeros(integers).reshape(blocks, self.block_rows, groups).transpose(0, 2, 1)
        streams: list[U8] = []
        for port in range(self.ports):
            count = self.port_groups(port)
            head = self._words_of(scale_block[port :: self.ports].reshape(-1), zero_block[port :: self.ports].reshape(-1))
            body = np.zeros((len(head) * per_word, self.group_bytes), np.uint8)
            body[:count] = by_block[port :: self.ports].reshape(count, self.group_bytes)
            joined = np.concatenate([head, body.reshape(len(head), self.group_bytes * per_word)], 1).reshape(-1)
            stream = np.zeros(self.size, np.uint8)
            stream[: self.port_bytes(port)] = joined[: self.port_bytes(port)]
            streams.append(stream)
        return streams

    def unpack(self, streams: list[U8]) -> tuple[NDArray[np.int8], F16]:
        """The inverse of :meth:`pack`: q (rows, groups, group) and scale (rows, groups)."""
        blocks, groups, pairs, beats, members, pieces, size = self._body
        body = np.zeros((blocks, groups * self.block_rows * self.group_bytes), np.uint8)
        scales = np.zeros((blocks, groups, self.block_rows), np.float16)
        zeros = np.zeros(scales.shape, np.uint8)
        per_word = self.format.scales_per_word
        for port in range(self.ports):
            count = self.port_groups(port)
            words = -(-count // per_word)
            word_bytes = SCALE_WORD + per_word * self.group_bytes
            joined = np.zeros(words * word_bytes, np.uint8)
            joined[: self.port_bytes(port)] = streams[port][: self.port_bytes(port)]
            table = joined.reshape(words, word_bytes)
            own, zero = self._of_words(table[:, :SCALE_WORD])
            scales[port :: self.ports] = own[:count].reshape(-1, groups, self.block_rows)
            zeros[port :: self.ports] = zero[:count].reshape(-1, groups, self.block_rows)
            codes = table[:, SCALE_WORD:].reshape(-1, self.group_bytes)[:count]
            body[port :: self.ports] = codes.reshape(-1, body.shape[1])
        nibbles = body.reshape(blocks, groups, pairs, beats, members, pieces, size).transpose(0, 2, 5, 4, 1, 3, 6)
        nibbles = nibbles.reshape(blocks * pairs * pieces * members, groups, self.group // 2)
        codes = np.stack([nibbles & 15, nibbles >> 4], -1, dtype=np.uint8).reshape(-1, groups, self.group)
        q = self.format.integers(codes, zeros.transpose(0, 2, 1).reshape(-1, groups))
        return q[: self.rows], scales.transpose(0, 2, 1).reshape(-1, groups)[: self.rows]


def _filled(x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """(count,) elements, zeros behind them, as ``shape``."""
    whole = np.zeros(shape, x.dtype)
    whole.reshape(-1)[: len(x)] = x
    return whole


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


@overload
def port_of(token: int, ports: int) -> int: ...
@overload
def port_of(token: NDArray[np.int64], ports: int) -> NDArray[np.int64]: ...
def port_of(token: int | NDArray[np.int64], ports: int) -> int | NDArray[np.int64]:
    """The port that holds the entries of the token at a position; of an array of positions too."""
    return token % ports
