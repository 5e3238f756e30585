"""What a MATMUL takes, whatever goes on beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.timing.costs import Costs
from skipopu.isa.spec import Epilogue, WeightFormat, block_rows, matmul_rows


@dataclass(frozen=True)
class Product:
    """A MATMUL with a number of tokens.

    Attributes:
        steps: of the array. cycles: of its stream when weights are always there.
        full, beats: weight beats of the fullest port, of all ports.
        rate: beats per cycle that come. refill: see :meth:`Costs.weight_refill`.
        drained: see :meth:`Costs.drained_stream`. drains, last_drain: cycles of all drains, of the last one.
        outputs: results per token.
    """

    steps: int
    cycles: int
    full: int
    beats: int
    rate: float
    refill: float
    drained: int
    drains: int
    last_drain: int
    outputs: int


def weight_beats(costs: Costs, fields: dict[str, int], group: int) -> NDArray[np.int64]:
    """(ports,) weight beats of a product with ``group`` weights per scale."""
    ports, rounds = costs.machine.ports, fields["rounds"]
    rows, bits = block_rows(matmul_rows(fields, ports)), WeightFormat(fields["format"]).bits
    full, short = (costs.matmul_beats(n * rows, fields["groups"], group, bits) for n in (rounds, rounds - 1))
    return np.where(np.arange(ports) < fields["ports"], full, short)


def product(costs: Costs, fields: dict[str, int], slots: int, group: int) -> Product:
    """The MATMUL of ``fields`` with ``slots`` tokens and ``group`` weights per scale."""
    ports, rounds = costs.machine.ports, fields["rounds"]
    rows, bits, beats = matmul_rows(fields, ports), WeightFormat(fields["format"]).bits, weight_beats(costs, fields, group)
    steps, cycles = costs.matmul_stream(slots, rounds * block_rows(rows), fields["groups"], group, bits)
    drain, last_drain, full = costs.drain(slots, ports), costs.drain(slots, fields["ports"]), int(beats.max())
    return Product(
        steps=steps,
        cycles=cycles,
        full=full,
        beats=int(beats.sum()),
        rate=costs.weight_rate(slots),
        refill=costs.weight_refill(full),
        drained=costs.drained_stream(rounds, steps // slots * max(slots, 2) // rounds, drain),
        drains=(rounds - 1) * drain + last_drain,
        last_drain=last_drain,
        outputs=rows // (2 if fields["epilogue"] == Epilogue.GATED else 1),
    )
