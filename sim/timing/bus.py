"""Who waits for whom at the ports: reads for weights that were asked for before them, and what is asked for ahead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.timing.costs import DISPATCH
from sim.timing.product import first_beats, weight_beats
from sim.timing.state import State
from skipopu.isa.registers import Config
from skipopu.isa.spec import END, EXTEND, LOOP, MATMUL, TokenList
from skipopu.machine import pipeline

NONE = np.zeros(1, np.int64)
REQUEST = 6  # cycles from a product's dispatch to the first address of its weights, besides those in a queue


def requested(s: State, at: int) -> int:
    """The first address of the weights of a product that is dispatched at ``at``."""
    return at + REQUEST + pipeline.queued(s.machine)


def due(s: State, requested: int) -> int:
    """When a product's first burst is asked for whose weights could be asked for at ``requested``."""
    times = s.times
    return max(requested, times.asked + 2, times.asked + times.pending.run + 5)


def held(s: State, at: int) -> int:
    """Cycles that a read of the present ROUTE waits which could come at ``at``: for writes, and weights asked for before it."""
    return max(s.times.writes.hold(at, 0), behind_weights(s, at - s.costs.read, int(undecided(s, s.pc)[0])))


def following(s: State) -> int:
    """Beats of the first port's weights that are asked for behind the present instruction, in its layer, or places for them.

    Of a product with thresholds these are asked for, and leading groups; what lies behind it waits until it begins.
    """
    beats, masks, group = 0, False, s.walk.config[Config.GROUP]
    for step in s.walk.steps[s.pc + 1 :]:
        if step.instruction is END or beats >= s.costs.in_flight:
            break
        if step.instruction is EXTEND:
            masks = s.masked and step.fields["mask"] != 0
        if step.instruction is not MATMUL:
            continue
        if len(s.walk.lists[step.fields["list"]]):
            if masks:
                return beats + first_beats(s.costs, step.fields, group)
            beats += int(weight_beats(s.costs, step.fields, group)[0])
        masks = False
    return beats


def behind_weights(s: State, asked: int, beats: int) -> int:
    """Cycles that what is asked for at ``asked`` waits for ``beats`` of the next products' weights, asked for before it."""
    costs, rate = s.costs, s.machine.memory.rate
    first = due(s, requested(s, s.times.now + DISPATCH + pipeline.sized(s.machine)))
    if s.on_demand or first > asked:
        return 0
    last = max(first + costs.read, s.times.last.sent) + min(beats, costs.in_flight) / rate
    return max(0, int(min(last, asked + costs.in_flight / rate)) - asked - costs.read)


def undecided(s: State, begin: int) -> NDArray[np.int64]:
    """(ports,) or (1,) beats of the weights that are asked for without the loop's decision, from instruction ``begin`` on."""
    if begin not in s.undecided:
        steps = s.walk.steps
        loop = max(begin, next((step.pc for step in steps if step.instruction is LOOP), len(steps)))
        decided = (TokenList.ATTENTION, TokenList.FFN)
        waiting = (step.pc for step in steps[loop:] if step.instruction is END or step.fields.get("list") in decided)
        products = [step.fields for step in steps[loop : next(waiting, loop)] if step.instruction is MATMUL]
        s.undecided[begin] = sum((weight_beats(s.costs, f, s.walk.config[Config.GROUP]) for f in products), NONE)
    return s.undecided[begin]
