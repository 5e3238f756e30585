"""Weights channel by channel: how the ports of a stationary array stream a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS
from skipopu.layout import round_up
from skipopu.numerics.formats import INT4, Format

U8 = NDArray[np.uint8]
F16 = NDArray[np.float16]


def full_tile(lanes: int, bits: int) -> int:
    """Rounds of one block per port that a tile has at most: as many rows as a beat of ``lanes`` nibbles has codes of ``bits``."""
    return lanes * 4 // bits // BLOCK_ROWS


def tile_rounds(rounds: int, full: int) -> list[int]:
    """How a product's rounds are cut into tiles: full ones, then what is left, by powers of two."""
    left = rounds % full
    return [full] * (rounds // full) + [1 << bit for bit in reversed(range(left.bit_length())) if left >> bit & 1]


@dataclass(frozen=True)
class ChannelStream:
    """Shape of a quantised matrix as the ports of a stationary array stream it.

    Rows are cut into blocks of 8; block b belongs to port b mod ports. A port's blocks are cut into tiles of as many rows as a beat has
    codes, the last ones of a half, a quarter and so on; a beat of a tile with a ``1 / C`` of the rows has C neighbouring input channels.
    Tile after tile, groups ascend; a group is the FP16 scales of the tile's rows, the bytes of their zero points where the format has
    some, each from a beat of its own on, then the group's channels. In a beat stand the pairs of nibbles (of two neighbouring rows, or of
    one row's digits) of all rows and inside each those of its channels: pair, channel, member. Element 0 of a beat is its lowest nibble.

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
    def full(self) -> int:
        """Rounds of a full tile."""
        return full_tile(self.lanes, self.format.bits)

    @property
    def tiles(self) -> list[int]:
        """Rounds of each tile."""
        return tile_rounds(-(-self.blocks // self.ports), self.full)

    @property
    def beat_bytes(self) -> int:
        return self.lanes // 2

    def scale_bytes(self, rounds: int) -> int:
        """Of a group's scales in a tile of ``rounds``, whole beats."""
        return round_up(2 * BLOCK_ROWS * rounds, self.beat_bytes)

    def zero_bytes(self, rounds: int) -> int:
        """Of its zero points."""
        return round_up(BLOCK_ROWS * rounds, self.beat_bytes) if self.format.zero_points else 0

    def channels(self, rounds: int) -> int:
        """Input channels of a beat."""
        return self.full // rounds

    def group_bytes(self, rounds: int) -> int:
        """Of a group of a tile of ``rounds``."""
        return self.scale_bytes(rounds) + self.zero_bytes(rounds) + self.group // self.channels(rounds) * self.beat_bytes

    def port_tiles(self, port: int) -> list[int]:
        """Tiles of which a port has a block; what it has not of their rows is zero."""
        tiles, first = [], 0
        for rounds in self.tiles:
            if first * self.ports + port < self.blocks:
                tiles.append(rounds)
            first += rounds
        return tiles

    def port_bytes(self, port: int) -> int:
        """Bytes that port fetches."""
        return self.groups * sum(self.group_bytes(rounds) for rounds in self.port_tiles(port))

    @property
    def size(self) -> int:
        """Bytes reserved in every port."""
        return round_up(self.port_bytes(0), ADDRESS_UNIT)

    def parts(self, rows: int) -> Iterator[tuple[slice, ChannelStream]]:
        """What can be packed on its own: slices of about ``rows`` rows and their streams, which follow one another in every port."""
        least = self.unit
        step = least * max(1, rows // least)
        for first in range(0, max(self.rows - step, 0) + 1, step):
            last = first + step if first + 2 * step <= self.rows else self.rows
            yield slice(first, last), replace(self, rows=last - first)

    @property
    def unit(self) -> int:
        """Rows after which a matrix may be cut in two: full tiles in all ports, whole address units."""
        tile = self.groups * self.group_bytes(self.full)
        return BLOCK_ROWS * self.ports * self.full * (ADDRESS_UNIT // int(np.gcd(ADDRESS_UNIT, tile)))

    def pack(self, q: NDArray[np.int8], scale: F16) -> list[U8]:
        """Streams of all ports from integers q (rows, groups, group) and scale (rows, groups)."""
        padded = self.ports * sum(self.tiles)
        integers = np.zeros((padded * BLOCK_ROWS, self.groups, self.group), np.int8)
        scales = np.zeros(integers.shape[:2], np.float16)
        integers[: self.rows], scales[: self.rows] = q, scale
        by_port = integers.reshape(-1, self.ports, BLOCK_ROWS, self.groups, self.group).swapaxes(0, 1)
        scales_of = scales.reshape(-1, self.ports, BLOCK_ROWS, self.groups).swapaxes(0, 1)
        streams: list[U8] = []
        for port in range(self.ports):
            stream, at, first = np.zeros(self.size, np.uint8), 0, 0
            for rounds in self.port_tiles(port):
                own = slice(first, first + rounds)
                tile = self._tile(
                    by_port[port, own].reshape(-1, self.groups, self.group), scales_of[port, own].reshape(-1, self.groups)
                )
                stream[at : at + tile.size] = tile.reshape(-1)
                at, first = at + tile.size, first + rounds
            streams.append(stream)
        return streams

    def _tile(self, q: NDArray[np.int8], scale: F16) -> U8:
        """(groups, bytes of a group) of a tile's integers (rows, groups, group) and scales (rows, groups)."""
        rounds = len(q) // BLOCK_ROWS
        channels, head, zeros = self.channels(rounds), self.scale_bytes(rounds), self.zero_bytes(rounds)
        tile = np.zeros((self.groups, self.group_bytes(rounds)), np.uint8)
        tile[:, : 2 * len(q)] = np.ascontiguousarray(scale.T).view(np.uint8)
        if zeros:
            tile[:, head : head + len(q)] = self.format.zeros(q).T
        nibbles = self.format.nibbles(q).reshape(-1, 2, self.groups, self.group // channels, channels)
        pairs = (nibbles[:, 0] | nibbles[:, 1] << 4).transpose(1, 2, 0, 3)  # groups, beats, pairs, channels
        tile[:, head + zeros :] = pairs.reshape(self.groups, -1)
        return tile

    def unpack(self, streams: list[U8]) -> tuple[NDArray[np.int8], F16]:
        """The inverse of :meth:`pack`: q (rows, groups, group) and scale (rows, groups)."""
        q = np.zeros((sum(self.tiles), self.ports, BLOCK_ROWS, self.groups, self.group), np.int8)
        scale = np.zeros(q.shape[:-1], np.float16)
        for port in range(self.ports):
            at, first = 0, 0
            for rounds in self.port_tiles(port):
                size = self.groups * self.group_bytes(rounds)
                codes, own = self._of_tile(streams[port][at : at + size].reshape(self.groups, -1), rounds)
                q[first : first + rounds, port] = codes.reshape(rounds, BLOCK_ROWS, self.groups, self.group)
                scale[first : first + rounds, port] = own.reshape(rounds, BLOCK_ROWS, self.groups)
                at, first = at + size, first + rounds
        return (
            q.reshape(-1, self.groups, self.group)[: self.rows],
            np.ascontiguousarray(scale.reshape(-1, self.groups)[: self.rows]),
        )

    def _of_tile(self, tile: U8, rounds: int) -> tuple[NDArray[np.int8], F16]:
        """The inverse of :meth:`_tile`."""
        rows, channels = BLOCK_ROWS * rounds, self.channels(rounds)
        head, zeros = self.scale_bytes(rounds), self.zero_bytes(rounds)
        scale = np.ascontiguousarray(tile[:, : 2 * rows]).view(np.float16).T
        zero = tile[:, head : head + rows].T if zeros else np.zeros((rows, self.groups), np.uint8)
        pairs = tile[:, head + zeros :].reshape(self.groups, self.group // channels, -1, channels).transpose(2, 0, 1, 3)
        nibbles = np.stack([pairs & 15, pairs >> 4], 1, dtype=np.uint8).reshape(-1, self.groups, self.group)
        return self.format.integers(nibbles, zero), scale
