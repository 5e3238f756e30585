"""The pool of KV places: each new entry gets the next one of its token's port, until there is none, and the map says which."""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import registered
from hw.control.issue import field
from hw.kv.format import EntryFormatter
from hw.kv.write import KvWriteUnit
from hw.widths import PLACE_BITS
from skipopu.isa.spec import KVWRITE
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit
from tests.hw.kv.support import SentToPorts

MACHINE = dataclasses.replace(Machine.load("mono"), ports=2, kv_heads=1)
SLOT_BITS = 2  # of a slot of the chunk, and of a chunk's first token here
ROW_BITS = 3  # of a row of the map
MOST_PLACES = 3  # in a port
ENTRY_BEATS = 2  # of an entry
DEADLINE = 20  # cycles looked at where there is no proof for all
FULL_AFTER = 7  # cycles: right behind a run's start the chunk's first token is looked for, then its slot
TO_PORT = 3  # cycles from an entry's being sent to its run at the port


class Formatter(EntryFormatter):
    """In the formatter's stead: stages an entry, of beats 0 and 1, two cycles after it is told to or some time later."""

    def __init__(self, laws: Laws) -> None:
        super().__init__(MACHINE)
        self.some_time = laws.free(1, "staged")

    def elaborate(self, platform: object) -> Module:
        m, busy = Module(), Signal()
        m.d.sync += [busy.eq(self.start | (busy & ~self.done)), self.staged.data.eq(self.staged.address[0])]
        m.d.comb += [self.done.eq(busy & registered(m, busy, "staging") & self.some_time), self.beats.eq(ENTRY_BEATS)]
        return m


def ago(laws: Laws, value: Value, cycles: int) -> Value:
    """The value of ``cycles`` ago; 0 in the first ones."""
    for _ in range(cycles):
        value = laws.before(value)
    return value


def laws() -> Laws:
    laws, unit = Laws(), KvWriteUnit(MACHINE)
    vars(unit.format)["_MustUse__used"] = True  # another one stands in its place
    unit.format = Formatter(laws)
    m, task, instruction, map_write = laws.m, unit.task, unit.task.instruction, unit.map_write
    m.submodules.unit = ports = SentToPorts(unit)
    restart, ended = laws.free(1, "restart") & ~task.active, laws.before(task.done)
    m.d.comb += [
        unit.restart.eq(restart),
        task.active.eq(laws.before(task.active & ~task.done) | (laws.free(1) & ~ended & ~laws.before(restart))),
    ]
    # An instruction stands from a cycle before it runs; chunks come in rising order.
    position, earlier, context = Signal(SLOT_BITS), Signal(SLOT_BITS), laws.fixed(ROW_BITS, "context")
    row, kv_slots = Signal(ROW_BITS), laws.fixed(range(MOST_PLACES + 1), "kv_slots")
    for value, shape in (
        (position, SLOT_BITS),
        (row, ROW_BITS),
        (Value.cast(instruction.mask), MACHINE.tokens),
        (Value.cast(instruction.count), range(MACHINE.tokens + 1)),
        (Value.cast(instruction.first_layer), 1),
    ):
        m.d.comb += value.eq(Mux(task.active, laws.before(value), laws.free(shape)))
    m.d.sync += earlier.eq(Mux(restart, 0, Mux(task.active, position, earlier)))
    laws.assume(~task.active | (position >= earlier))
    m.d.comb += [
        instruction.position.eq(position),
        instruction.map_row.eq(row),
        unit.context.eq(context),
        unit.kv_slots.eq(kv_slots),
        unit.pool.entry.eq(1),
    ]
    late = field(instruction.word, KVWRITE, "late")
    m.d.comb += late.eq(Mux(task.active, laws.before(late), laws.free(SLOT_BITS + 1)))
    laws.drive(unit.hold)
    m.d.sync += unit.map.data.place.eq(unit.map.address)  # the map's entry of an address is its lower bits

    # The slot whose turn it is, and the entries of each port so far
    slot, uses = Signal(SLOT_BITS), Array(Signal(PLACE_BITS, name=f"uses_{p}") for p in range(MACHINE.ports))
    token = Signal(SLOT_BITS + 1)
    m.d.comb += token.eq(position + slot)
    before = Signal.like(unit.map.address)  # in the map, of the slot's token in the layer before
    m.d.comb += before.eq(row + token - context)
    listed, port, mine = instruction.mask.bit_select(slot, 1), token[0], uses[token[0]]
    m.d.sync += slot.eq(Mux(task.active & ~task.done, slot + map_write.enable, 0))
    for p, count in enumerate(uses):
        m.d.sync += count.eq(Mux(restart, 0, count + (map_write.enable & listed & (port == p))))
    full = task.active & (slot < instruction.count) & listed & (mine >= kv_slots)

    # Memory: a run's beats are taken behind it, and the entry is there some time after them. What they hold is looked at in an
    # example only: too much for a proof.
    asked, there, left, right = Signal(), Signal(), Signal(len(unit.send.count)), Signal()
    run = Cat(writes.runs.valid & writes.runs.ready for writes in ports.writes)
    beat = Cat(writes.beats.valid & writes.beats.ready for writes in ports.writes)
    for writes in ports.writes:
        laws.drive(writes.runs.ready)
        m.d.comb += writes.beats.ready.eq(laws.free(1) & asked & (left != 0))
    written = laws.free(1, "written") & asked & (left == 0)
    m.d.comb += ports.written.eq(written << port)
    counts = Array(writes.runs.payload.count for writes in ports.writes)
    with m.If(run.any()):
        m.d.sync += [asked.eq(1), left.eq(counts[port]), right.eq(1)]
    with m.Elif(beat.any()):
        data = Array(writes.beats.payload.data for writes in ports.writes)[port]
        m.d.sync += [left.eq(left - 1), right.eq(right & (data[0] == (ENTRY_BEATS - left)[0]))]
    with m.If(written):
        m.d.sync += asked.eq(0)
    m.d.sync += there.eq((there | written) & ~map_write.enable)

    entry = map_write.enable & listed
    laws.law(
        "a new entry has the place behind the one given out before in its token's port, the first one 0: none is given twice or left out",
        ~entry | (map_write.data.place == mine),
    )
    laws.law("no place is given out that the pool does not have", ~entry | (map_write.data.place < kv_slots))
    laws.law("the pool is said to be full only when the next listed slot's port has no place left", ~unit.pool_full | full)
    waits = Signal(range(FULL_AFTER + 2))
    m.d.sync += waits.eq(Mux(full & ~unit.pool_full, waits + 1, 0))
    laws.law(f"that is told in {FULL_AFTER} cycles", waits < FULL_AFTER, bound=DEADLINE)
    laws.law(
        "a run is an entry's beats, to the token's port, from its place on, which the pool has, of an entry that is not there yet",
        ~run.any()
        | (
            (run == 1 << port)
            & ~asked
            & ~there
            & (mine < kv_slots)
            & (Array(writes.runs.payload.beat for writes in ports.writes)[port] == mine * MACHINE.beats_per_block)
            & (counts[port] == ENTRY_BEATS)
        ),
    )
    laws.law("an entry is mapped when memory has it", ~entry | there)
    laws.law(
        "the map is written slot by slot, each once and in order",
        ~map_write.enable | (task.active & (slot < instruction.count) & (map_write.address == row + token)),
    )
    laws.law(
        "a slot that is not listed gets the entry of the layer before",
        ~(map_write.enable & ~listed) | (map_write.data.place == before),
        bound=DEADLINE,
    )
    laws.law("an instruction is done when all its slots are mapped", ~task.done | (slot == instruction.count))
    offered = Cat(writes.runs.valid for writes in ports.writes).any()
    held = unit.hold & (late != 0) & (position >= late) & (instruction.count == 1)
    laws.law(
        "a single token's entry from the instruction's position on is not sent while it is told to wait",
        ~offered | laws.before(offered) | ago(laws, ~held, TO_PORT),
    )
    copied = Signal()
    m.d.sync += copied.eq(task.active & ~task.done & (copied | (map_write.enable & ~listed)))
    formatted = laws.before(unit.format.done)
    laws.reached(
        "the pool is full behind an entry of the same instruction",
        unit.pool_full & (mine == 1) & (slot == 2) & instruction.mask[0],
        within=DEADLINE,
    )
    laws.reached("an entry is mapped behind one that was copied", entry & copied & right, within=DEADLINE)
    laws.reached("an entry that was told to wait is sent", offered & ago(laws, held & formatted, TO_PORT + 1), within=DEADLINE)
    return laws


UNITS = (Unit("hw/kv/write.py", laws, f"{MACHINE.ports} ports of up to {MOST_PLACES} places, runs that begin at token 0"),)
