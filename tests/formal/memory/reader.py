"""Read port: AXI4, no more than it has places for, and every client's beats, each once and in order.

A client gets the beats of its runs, in order: the bursts are its runs in order, memory brings what has one ID in the order in which
it was asked for, and what came reaches the client in that order. The first and the last are claimed here, the other is AXI4's.
"""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Array, Cat, Mux, Signal, Value
from amaranth.lib import data, stream

from hw.arithmetic.pipeline import tree
from hw.memory.axi import ATTENTION, READ_CLIENTS, AxiRead
from hw.memory.reader import BurstReader, ReadPort, Run
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), burst=2, weight_fifo=4, kv_fifo=4)
MOST = 15  # beats of a run here
BEAT_BITS = 12  # of an address in beats: eight pages
NUMBER_BITS = 3  # of a beat's number, which tells those apart that are under way
TAKEN = 2  # bursts per client that memory holds before it takes no other
DEADLINE = 12  # cycles of what is not proven for any number


class Memory:
    """Behind the port: takes bursts when it likes, brings their beats when it likes, those of a client in order.

    Attributes:
        owed: per client, beats that it was asked for and did not bring.
        sound: what holds of all these counts by themselves, said because proofs need it.
    """

    def __init__(self, laws: Laws, axi: AxiRead) -> None:
        m = laws.m
        asked, came = axi.arvalid & axi.arready, axi.rvalid & axi.rready
        named, full, last, sound = Signal(2), [], [], []
        self.owed: list[Signal] = []
        for k in range(READ_CLIENTS):
            # Beats left of its bursts, the eldest first.
            first, second = (Signal(range(MACHINE.burst + 1), name=f"burst_{k}_{j}") for j in range(TAKEN))
            owed = Signal(range(TAKEN * MACHINE.burst + 1), name=f"owed_{k}")
            ask, come = asked & (axi.arid == k), came & (axi.rid == k)
            m.d.sync += owed.eq(owed + Mux(ask, axi.arlen + 1, 0) - come)
            m.d.sync += first.eq(first - come)
            with m.If(come & (first == 1)):
                m.d.sync += [first.eq(second), second.eq(0)]
            with m.If(ask):
                with m.If((first == 0) | (come & (first == 1) & (second == 0))):
                    m.d.sync += first.eq(axi.arlen + 1)
                with m.Else():
                    m.d.sync += second.eq(axi.arlen + 1)
            self.owed.append(owed)
            full.append(second != 0)
            last.append(first == 1)
            within = (first <= MACHINE.burst) & (second <= MACHINE.burst) & ((first != 0) | (second == 0))
            sound.append(within & (owed == first + second))
        self.sound = Cat(sound).all()
        waits = laws.before(axi.rvalid & ~axi.rready)
        m.d.comb += [
            named.eq(Mux(waits, laws.before(named), laws.free(range(READ_CLIENTS), "named"))),
            axi.arready.eq(laws.free(1, "arready") & ~Array(full)[axi.arid]),
            axi.rid.eq(named),
            axi.rvalid.eq((Array(self.owed)[named] != 0) & (waits | laws.free(1, "rvalid"))),
            axi.rlast.eq(Array(last)[named]),
        ]


def free_run(laws: Laws) -> data.View[Run]:
    """Any run of up to :data:`MOST` beats."""
    run: data.View[Run] = Signal(Run(MACHINE))
    laws.m.d.comb += [run.beat.eq(laws.free(BEAT_BITS, "start")), run.count.eq(laws.free(range(1, MOST + 1), "count"))]
    return run


def bursts_are_runs(laws: Laws, whose: str, runs: stream.Interface, asked: Value, beat: Value, length: Value) -> Signal:
    """Claims it, of bursts of ``length`` + 1 beats from ``beat``; gives the beats of the run that no burst asked for yet."""
    m = laws.m
    take = runs.valid & runs.ready
    # Beats no burst asked for and the first of them, before and with this cycle's burst: the latter are what the unit counts by itself.
    before, first = Signal(MOST.bit_length()), Signal(BEAT_BITS + 1)
    left, following = Signal.like(before), Signal.like(first)
    m.d.comb += [left.eq(before - Mux(asked, length + 1, 0)), following.eq(first + Mux(asked, length + 1, 0))]
    m.d.sync += [before.eq(Mux(take, runs.payload.count, left)), first.eq(Mux(take, runs.payload.beat, following))]
    laws.law(
        f"{whose} bursts are its runs, each from its first beat to its last",
        (~asked | ((beat == first) & (length < before))) & (~take | (left == 0)),
    )
    return before


def reader_laws() -> Laws:
    """Of one client's reader."""
    laws, depth = Laws(), 2 * MACHINE.burst + 1
    reader = BurstReader(MACHINE, depth, depth)
    m = laws.m
    m.submodules.reader = reader
    laws.offer(reader.runs, free_run(laws))
    laws.drive(reader.beats.ready, reader.burst_ready, reader.push_last)
    size = Signal(range(MACHINE.burst + 1))
    m.d.comb += size.eq(reader.burst_length + 1)
    asked, got = reader.burst_valid & reader.burst_ready, reader.beats.valid & reader.beats.ready
    # Places that nothing was asked for, beats under way, and beats that came and were not taken.
    places, owed, waiting = Signal(range(depth + 1), init=depth), Signal(range(depth + 1)), Signal(range(depth + 1))
    came_before, got_before = Signal(NUMBER_BITS), Signal(NUMBER_BITS)
    m.d.comb += [reader.push.eq((owed != 0) & laws.free(1)), reader.push_data.eq(came_before)]
    m.d.sync += [
        places.eq(places - Mux(asked, size, 0) + got),
        owed.eq(owed + Mux(asked, size, 0) - reader.push),
        waiting.eq(waiting + reader.push - got),
        came_before.eq(came_before + reader.push),
        got_before.eq(got_before + got),
    ]
    left = bursts_are_runs(laws, "a client's", reader.runs, asked, reader.burst_beat, reader.burst_length)
    laws.law("a client is asked no more beats for than it has places", ~reader.burst_valid | (places >= size))
    laws.law("the level is the number of beats that came and were not taken", reader.level == waiting)
    laws.law(
        "a client gets the beats that came, each once and in order",
        ~reader.beats.valid | ((waiting != 0) & (reader.beats.payload == got_before)),
    )
    late = Signal(2)
    m.d.sync += late.eq(Mux((waiting != 0) & ~reader.beats.valid, late + 1, 0))
    laws.law("a client sees what came after 2 cycles at the latest", late < 2)
    laws.law(
        "what a client wants is asked for, at the latest when nothing is under way and there is room",
        (left == 0) | (owed != 0) | (places < MACHINE.burst) | reader.burst_valid,
    )
    laws.law("idle: just when nothing is left to be asked for", reader.idle == ((left == 0) & ~reader.runs.valid))
    laws.reached("all places are taken by beats that came", waiting == depth)
    return laws


def laws() -> Laws:
    """Of the port."""
    laws, port = Laws(), ReadPort(MACHINE)
    m, axi = laws.m, port.axi
    m.submodules.port = port
    beat_bits = (MACHINE.beat_bytes - 1).bit_length()
    page = 4096 // MACHINE.beat_bytes
    laws.drive(port.background, port.stop)
    memory = Memory(laws, axi)
    asked, came = axi.arvalid & axi.arready, axi.rvalid & axi.rready
    shown = axi.arvalid & ~laws.before(axi.arvalid & ~axi.arready)  # for the first time
    total, under_way = Signal(range(sum(port.depths) + 1)), Signal(range(sum(port.depths) + 1))
    m.d.sync += total.eq(total + Mux(asked, axi.arlen + 1, 0) - came)
    m.d.comb += under_way.eq(total + Mux(axi.arvalid, axi.arlen + 1, 0))
    laws.law(
        "a burst that was shown stands until it is taken",
        laws.stands(axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.arid, axi.arsize, axi.arburst),
    )
    laws.law(
        "a burst stays inside its page of 4096 bytes",
        ~axi.arvalid | (axi.araddr[beat_bits:12] + axi.arlen < page) & (axi.araddr[:beat_bits] == 0),
    )
    laws.law(
        "a burst is no longer than the machine's and has a client's ID",
        ~axi.arvalid | ((axi.arlen < MACHINE.burst) & (axi.arid < READ_CLIENTS)),
    )
    laws.law("what comes is taken at once", axi.rready)
    laws.law(
        "quiet: just when no burst is shown and no beat owed",
        (port.owed == under_way)
        & (port.quiet == (under_way == 0))
        & (total == tree(memory.owed, lambda a, b: a + b))
        & memory.sound,
    )
    laws.law("no beat that was asked for is an error, nor the end of its burst", ~(Cat(port.error).any() | port.nobodys))
    held, numbers = [], []
    for k, (runs, beats, depth) in enumerate(zip(port.runs, port.beats, port.depths, strict=True)):
        laws.offer(runs, free_run(laws))
        laws.drive(beats.ready)
        got, mine = beats.valid & beats.ready, axi.arid == k
        bursts_are_runs(laws, f"client {k}'s", runs, shown & mine, axi.araddr >> beat_bits, axi.arlen)
        # Those of a burst that is shown are taken already.
        places, free = Signal(range(depth + 1), init=depth, name=f"places_{k}"), Signal(range(depth + 1), name=f"free_{k}")
        m.d.sync += places.eq(places - Mux(asked & mine, axi.arlen + 1, 0) + got)
        m.d.comb += free.eq(places - Mux(axi.arvalid & mine, axi.arlen + 1, 0))
        held.append(depth - free)
        came_before, got_before = (Signal(NUMBER_BITS, name=f"{name}_{k}") for name in ("came", "got"))
        m.d.sync += [came_before.eq(came_before + (came & (axi.rid == k))), got_before.eq(got_before + got)]
        numbers.append(came_before)
        laws.law(
            f"client {k} gets what came with its ID, each beat once and in order",
            ~beats.valid | ((came_before != got_before) & (beats.payload == got_before)),
            bound=DEADLINE,
        )
        laws.reached(f"client {k} gets its third beat", got & (got_before == 2), within=DEADLINE)
    m.d.comb += axi.rdata.eq(Array(numbers)[axi.rid])
    laws.reached(
        "all clients are owed beats, attention as many as it has places for",
        (memory.owed[0] != 0) & (memory.owed[1] != 0) & (held[ATTENTION] == port.depths[ATTENTION]),
    )
    return laws


def error_laws() -> Laws:
    """With whatever comes back."""
    laws, port = Laws(), ReadPort(MACHINE)
    m, axi = laws.m, port.axi
    m.submodules.port = port
    laws.drive(axi.arready, axi.rvalid, axi.rid, axi.rresp, axi.rlast, port.background, port.stop)
    came = axi.rvalid & axi.rready
    laws.law("a beat is nobody's just when it has nobody's ID", port.nobodys == (came & (axi.rid >= READ_CLIENTS)))
    wrong = Cat(came & (axi.rid == k) & (axi.rresp != 0) & ~error for k, error in enumerate(port.error))
    laws.law("a response other than OKAY is an error of the client whose ID it has", ~wrong.any())
    # Asked for: in the bursts that were shown.
    asked = Signal(9)
    m.d.comb += asked.eq(Mux(axi.arvalid & ~laws.before(axi.arvalid & ~axi.arready), axi.arlen + 1, 0))
    owed = [Signal(9, name=f"owed_{k}") for k in range(READ_CLIENTS)]
    for k, (runs, beats, count, error) in enumerate(zip(port.runs, port.beats, owed, port.error, strict=True)):
        laws.offer(runs, free_run(laws))
        laws.drive(beats.ready)
        now = Signal(9, name=f"owed_now_{k}")
        m.d.comb += now.eq(count + Mux(axi.arid == k, asked, 0))
        mine = came & (axi.rid == k)
        m.d.sync += count.eq(now - (mine & (now != 0)))
        laws.law(f"a beat that client {k} did not ask for is its error", ~mine | (now != 0) | error)
    laws.law("quiet when no client is owed a beat, whatever came", (Cat(owed).any() | (asked != 0)) | port.quiet)
    return laws


_OF = "64-bit port, bursts of 2 beats, runs of 1 to 15 beats"
UNITS = (
    Unit("hw/memory/reader.py", reader_laws, f"{_OF}, 5 places"),
    Unit("hw/memory/reader.py", laws, f"{_OF}, 4 places per client, 2 bursts of each under way"),
    Unit("hw/memory/reader.py", error_laws, "64-bit port"),
)
