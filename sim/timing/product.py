"""What a MATMUL takes, whatever goes on beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.timing.costs import Costs
from sim.timing.flow import Flow, Shape
from sim.timing.masked import Masked, first_thresholds, threshold_beats
from sim.timing.reader import Pending, Reader, Windows
from sim.timing.stationary import Group, Tile, Tiles
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import ADDRESS_UNIT, Epilogue, block_rows, matmul_rows
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.accumulate import terms
from skipopu.numerics.formats import BY_CODE, SCALE_WORD


class Weights(Protocol):
    """A product's weights in the fullest port, and how an array takes them.

    beats: of that port. ports: how many have weights of it. array_steps: of the array. kind: what the pace of a long stream depends on.
    """

    @property
    def beats(self) -> int: ...
    @property
    def ports(self) -> int: ...
    @property
    def array_steps(self) -> int: ...
    @property
    def kind(self) -> tuple[object, ...]: ...

    def endless(self, pairs: int) -> Weights:
        """A long stream of this kind, of ``pairs`` pairs of beats or a few more."""
        ...

    def flow(
        self,
        machine: Machine,
        readers: list[Reader],
        pending: Pending,
        due: int,
        begin: int,
        blocked: Windows = ((),),
        takes: list[int] | None = None,
    ) -> Flow:
        """See :func:`sim.timing.flow.flow`."""
        ...


@dataclass(frozen=True)
class Product:
    """A MATMUL with a number of tokens.

    Attributes:
        shape: the fullest port's stream. steps: of the array. beats: weight beats of all ports. drains: cycles of all drains.
        outputs: results per token.
    """

    shape: Weights
    steps: int
    beats: int
    drains: int
    outputs: int


def weight_beats(costs: Costs, fields: dict[str, int], group: int) -> NDArray[np.int64]:
    """(ports,) weight beats of a product with ``group`` weights per scale."""
    ports, rounds, form = costs.machine.ports, fields["rounds"], BY_CODE[fields["format"]]
    if costs.machine.stationary:
        stream = channels(costs, fields, group)
        full, short = (stream.port_bytes(port) // costs.machine.beat_bytes for port in (0, ports - 1))
    else:
        rows = block_rows(matmul_rows(fields, ports), costs.pieces(group))
        full, short = (costs.matmul_beats(n * rows, fields["groups"], group, form) for n in (rounds, rounds - 1))
    return np.where(np.arange(ports) < fields["ports"], full, short)


def first_beats(costs: Costs, fields: dict[str, int], group: int) -> int:
    """Beats of the first port that a product with thresholds asks for before it begins: these, and leading groups."""
    machine, groups = costs.machine, fields["groups"]
    of_group = tiles(costs, fields, 1, group).tiles[0].group.beats
    return first_thresholds(machine, groups, group) + machine.leading_groups(groups, group) * of_group


def product(costs: Costs, fields: dict[str, int], slots: int, group: int) -> Product:
    """The MATMUL of ``fields`` with ``slots`` tokens and ``group`` weights per scale."""
    machine, rounds, rows = costs.machine, fields["rounds"], matmul_rows(fields, costs.machine.ports)
    shape = (tiles if machine.stationary else pairs)(costs, fields, slots, group)
    return Product(
        shape=shape,
        steps=shape.array_steps,
        beats=int(weight_beats(costs, fields, group).sum()),
        drains=(rounds - 1) * costs.drain(slots, machine.ports) + costs.drain(slots, fields["ports"]),
        outputs=rows // (2 if fields["epilogue"] == Epilogue.GATED else 1),
    )


def page(costs: Costs, fields: dict[str, int]) -> int:
    """Beats from a product's first one to the next page of memory, in the first layer; layers differ by less than a burst per page."""
    units = 4096 // ADDRESS_UNIT
    return (units - fields["address"] % units) * costs.machine.beats_per_block


def pairs(costs: Costs, fields: dict[str, int], slots: int, group: int) -> Shape:
    """The stream of an array whose beats are rows."""
    machine, rounds = costs.machine, fields["rounds"]
    rows, form = matmul_rows(fields, machine.ports), BY_CODE[fields["format"]]
    pieces = costs.pieces(group)
    beats = max(1, group // machine.weight_lanes)
    per_round = block_rows(rows, pieces) * fields["groups"] * form.bits // 8 // pieces * beats
    return Shape(
        steps=slots * pieces,
        pairs=rounds * per_round,
        per_word=form.scales_per_word * form.bits // 8 // pieces * beats,
        scale=SCALE_WORD // machine.beat_bytes,
        per_round=per_round,
        page=page(costs, fields),
        flight=costs.matmul_flight(),
        drain=costs.drain(slots, machine.ports),
        last_drain=costs.drain(slots, fields["ports"]),
        ports=fields["ports"] if rounds == 1 else machine.ports,
    )


def channels(costs: Costs, fields: dict[str, int], group: int) -> ChannelStream:
    """The matrix of a product as the ports of a stationary array stream it."""
    m, form = costs.machine, BY_CODE[fields["format"]]
    return ChannelStream(matmul_rows(fields, m.ports), fields["groups"], group, m.ports, m.weight_lanes, form)


def tiles(costs: Costs, fields: dict[str, int], slots: int, group: int) -> Tiles:
    """The stream of a stationary array."""
    ports = fields["ports"] if fields["rounds"] == 1 else costs.machine.ports
    alike = tuple(alike_tiles(costs, channels(costs, fields, group), slots, fields["ports"]))
    return Tiles(alike, slots, page(costs, fields), ports)


def alike_tiles(costs: Costs, stream: ChannelStream, slots: int, last_ports: int) -> Iterator[Tile]:
    """Tiles that are alike and follow one another; ``last_ports`` have blocks of the last round."""
    machine, most, sizes = costs.machine, terms(stream.format), stream.tiles
    drain = costs.drain(slots, machine.ports)
    less = drain - costs.drain(slots, last_ports)
    while sizes:
        rounds = sizes[0]
        alike = sizes.count(rounds)
        if less and alike == len(sizes) > 1:
            alike -= 1
        sizes, each = sizes[alike:], stream.channels(rounds)
        head = (stream.scale_bytes(rounds) + stream.zero_bytes(rounds)) // machine.beat_bytes
        parts = tuple(min(most, stream.group - first) // each for first in range(0, stream.group, most))
        sums = machine.weight_lanes // 2 // each
        drained = pipeline.drain_begins(machine, sums // rounds, sums)
        yield Tile(alike, stream.groups, Group(head, parts), sums, drained, rounds * drain - (0 if sizes else less))


def beats_of(costs: Costs, fields: dict[str, int], group: int, product: Masked) -> int:
    """Beats of all ports that a product with thresholds reads, these too where its mask is not known."""
    machine, total = costs.machine, product.beats * costs.machine.ports
    if channels(costs, fields, group).tiles[-1] == 1:  # a last tile of one round is not all ports'
        *_, last = product.alike
        total -= (machine.ports - fields["ports"]) * product.tile_beats(*last)
    return total if product.again else total + threshold_beats(machine, fields["groups"], group)
