"""A unit's queue: every instruction once and in order, started with its tokens only."""

from __future__ import annotations

from amaranth.hdl import Signal, Value

from hw.control.issue import UNITS as MASK_BITS
from hw.control.issue import field
from hw.control.queue import UnitQueue
from skipopu.isa.spec import ALIGN
from skipopu.machine.config import QUEUE_DEPTH, Machine
from tests.formal.laws import Laws, Unit

NUMBER_BITS = 4  # of an instruction's number, which tells those apart that are inside


def laws() -> Laws:
    laws, queue = Laws(), UnitQueue(Machine.load("mono"))
    m, issue, head = laws.m, queue.issue, queue.instruction
    m.submodules.queue = queue
    issued, retired = issue.valid & issue.ready, queue.retired.valid & queue.retired.ready
    count, gone = laws.counter(NUMBER_BITS, issued, 0), laws.counter(NUMBER_BITS, retired, 0)
    m.d.comb += issue.valid.eq(laws.free(1))
    laws.drive(Value.cast(issue.payload.word), issue.payload.empty, queue.done, queue.digest, queue.retired.ready)
    m.d.comb += issue.payload.sequence.eq(count)
    # A token that is there stays until it is taken.
    tokens, unused = Signal(MASK_BITS), Signal(MASK_BITS)
    m.d.sync += unused.eq(tokens & ~queue.take)
    m.d.comb += [tokens.eq(unused | laws.free(MASK_BITS)), queue.tokens.eq(tokens)]
    pop, push = field(head.word, ALIGN, "pop"), field(head.word, ALIGN, "push")
    # What happened with the head so far
    took, ran = Signal(), Signal()
    m.d.sync += [took.eq((took | queue.take.any()) & ~retired), ran.eq((ran | (queue.active & queue.done)) & ~retired)]

    laws.law(
        "an instruction retires after it was issued, each once and in order",
        ~queue.retired.valid | ((gone != count) & (queue.retired.payload.sequence == gone)),
    )
    laws.law(
        "the unit is shown the instruction that was issued next behind those that retired",
        ~(queue.next | queue.active | queue.retired.valid) | ((gone != count) & (head.sequence == gone)),
    )
    laws.law(
        "tokens are taken that are there, all that the head pops, once",
        ~queue.take.any() | (((pop & ~tokens) == 0) & (queue.take == pop) & ~took),
    )
    laws.law(
        "the unit runs what is not empty, with its tokens taken, once",
        ~queue.active | (~head.empty & (took | (pop == 0)) & ~ran),
    )
    laws.law(
        "what retires has taken its tokens and run, unless it is empty",
        ~queue.retired.valid | ((took | (pop == 0)) & (ran | head.empty)),
    )
    laws.law("tokens are given with retirement: those that the head pushes", queue.give == push & retired.replicate(MASK_BITS))
    laws.law("the instruction stands while the unit runs it", laws.stands(queue.active, queue.done, Value.cast(head)))
    laws.law("waiting: the head lacks a token", ~queue.waiting | ((gone != count) & ((pop & ~tokens) != 0)))
    laws.law("idle: just when nothing is inside", queue.idle == (gone == count))
    waited = Signal()
    m.d.sync += waited.eq((waited | queue.waiting) & ~retired)
    laws.reached(
        "the fifth instruction waits, runs and gives a token", retired & waited & ran & (push != 0) & (gone == QUEUE_DEPTH)
    )
    return laws


UNITS = (Unit("hw/control/queue.py", laws, "queue of `mono`"),)
