"""What a MATMUL takes, whatever goes on beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.timing.costs import Costs
from sim.timing.flow import Shape
from skipopu.isa.spec import ADDRESS_UNIT, Epilogue, block_rows, matmul_rows
from skipopu.numerics.formats import BY_CODE, SCALE_WORD


@dataclass(frozen=True)
class Product:
    """A MATMUL with a number of tokens.

    Attributes:
        shape: of the fullest port's stream. steps: of the array. beats: weight beats of all ports. drains: cycles of all drains.
        outputs: results per token.
    """

    shape: Shape
    steps: int
    beats: int
    drains: int
    outputs: int


def weight_beats(costs: Costs, fields: dict[str, int], group: int) -> NDArray[np.int64]:
    """(ports,) weight beats of a product with ``group`` weights per scale."""
    ports, rounds = costs.machine.ports, fields["rounds"]
    rows, form = block_rows(matmul_rows(fields, ports), costs.pieces(group)), BY_CODE[fields["format"]]
    full, short = (costs.matmul_beats(n * rows, fields["groups"], group, form) for n in (rounds, rounds - 1))
    return np.where(np.arange(ports) < fields["ports"], full, short)


def product(costs: Costs, fields: dict[str, int], slots: int, group: int) -> Product:
    """The MATMUL of ``fields`` with ``slots`` tokens and ``group`` weights per scale."""
    machine, rounds = costs.machine, fields["rounds"]
    rows, form = matmul_rows(fields, machine.ports), BY_CODE[fields["format"]]
    pieces = costs.pieces(group)
    beats = max(1, group // machine.weight_lanes)
    per_round = block_rows(rows, pieces) * fields["groups"] * form.bits // 8 // pieces * beats
    drain, last_drain = costs.drain(slots, machine.ports), costs.drain(slots, fields["ports"])
    page = 4096 // ADDRESS_UNIT
    shape = Shape(
        steps=slots * pieces,
        pairs=rounds * per_round,
        per_word=form.scales_per_word * form.bits // 8 // pieces * beats,
        scale=SCALE_WORD // machine.beat_bytes,
        per_round=per_round,
        # Of the first layer; layers differ by less than a burst per page.
        page=(page - fields["address"] % page) * machine.beats_per_block,
        flight=costs.matmul_flight(),
        drain=drain,
        last_drain=last_drain,
        ports=fields["ports"] if rounds == 1 else machine.ports,
    )
    return Product(
        shape=shape,
        steps=shape.pairs * shape.steps,
        beats=int(weight_beats(costs, fields, group).sum()),
        drains=(rounds - 1) * drain + last_drain,
        outputs=rows // (2 if fields["epilogue"] == Epilogue.GATED else 1),
    )
