"""Read side of a memory port: clients ask for runs of beats, bursts are cut and issued, data returns through FIFOs."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, delay_valid
from hw.component import Bundle, Component, given, gives, level
from hw.memory.axi import ADDRESS_BITS, ATTENTION, BURST_INCR, LOADER, READ_CLIENTS, WEIGHTS, AxiRead
from hw.memory.places import BeatPlaces, carried
from skipopu.machine import pipeline
from skipopu.machine.config import BACKGROUND_BURSTS, Machine
from skipopu.machine.limits import LARGEST_RUN

RISING_PRIORITY = (WEIGHTS, ATTENTION, LOADER)


class Run(data.StructLayout):
    """A run of consecutive beats: ``beat`` is the address divided by the beat size, ``count`` at least 1."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"beat": ADDRESS_BITS - (machine.beat_bytes - 1).bit_length(), "count": LARGEST_RUN.bit_length()})


class RunQueue(Component):
    """Runs of one port on their way, from who asks several ports in lockstep and hears late that one has no room.

    Latency: 2 cycles from a run to ``runs``. Throughput: a run per cycle.
    """

    LATE = 4  # runs that may come, one per cycle, until who asks knows of a level: its register, that of ``room``, the level and the run itself
    DEPTH = 2 * LATE

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.push = given(1, "a run comes; LATE cycles behind the last one with ``room`` no more")
        self.run = given(Run(machine), "that run")
        self.room = gives(1, "there was room for LATE and one more a cycle before")
        self.runs = gives(stream.Signature(Run(machine)), "the eldest")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=Run(self.machine).size, depth=self.DEPTH)
        m.d.comb += [
            fifo.w_data.eq(self.run),
            fifo.w_en.eq(self.push),
            self.runs.payload.eq(fifo.r_data),
            self.runs.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.runs.ready),
        ]
        m.d.sync += self.room.eq(level(fifo) < self.DEPTH - self.LATE)
        return m


class Loads(Bundle):
    """Reads of one port, seen by who reads."""

    def __init__(self, machine: Machine) -> None:
        self.runs = gives(stream.Signature(Run(machine)), "runs of beats wanted")
        self.beats = given(stream.Signature(machine.port_bits), "their beats, in order")
        super().__init__()


class BurstReader(Component):
    """Cuts one client's runs into AXI bursts and holds the returned beats.

    A burst is issued only when the FIFO has room for all of it, so the response channel never waits for a client. Bursts
    stay inside 4096-byte pages. The next run is accepted once the last burst of the present one was issued. A beat that was not
    asked for is not held.

    Latency: 1 cycle from a run to its first burst, 2 from a pushed beat to ``beats``. Throughput: a burst and a beat per cycle.

    Parameters:
        machine: the machine.
        depth: beats of the FIFO, at least two bursts.
        most: beats on their way at once.
    """

    def __init__(self, machine: Machine, depth: int, most: int) -> None:
        self.machine, self.depth, self.most = machine, depth, most
        layout = Run(machine)
        self.runs = given(stream.Signature(layout), "runs of beats wanted")
        self.beats = gives(stream.Signature(machine.port_bits), "their beats, in order")
        self.burst_beat = gives(layout["beat"].shape, "first beat of the next burst")
        self.burst_length = gives(8, "its beats less one")
        self.burst_valid = gives(1, "there is a burst to issue, and room for its beats")
        self.burst_ready = given(1, "it is issued")
        self.push = given(1, "a beat came back")
        self.push_data = given(machine.port_bits, "that beat")
        self.idle = gives(1, "every burst of every run was issued")
        self.level = gives(count_shape(depth), "beats held")
        self.behind = gives(1, "a beat is there in the next cycle, even if the present one is taken")
        self.further = gives(1, "and in the one after it, even if that is taken too")
        self.push_last = given(1, "it is said to be its burst's last")
        self.misplaced = gives(
            1, "a beat came that was not asked for, or more or fewer than bursts have, by those said to be the last of one"
        )
        self.few_in_flight = gives(1, "few enough beats are on their way to ask for more in the background")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, most = self.machine, self.machine.burst
        # One of two places takes a beat every other cycle only.
        m.submodules.places = places = BeatPlaces(machine.port_bits, max(3, self.depth))
        beat, left = Signal.like(self.burst_beat), Signal(Run(machine)["count"].shape)
        free = Signal(count_shape(self.depth), init=self.depth)
        none_left = Signal(init=1)
        m.d.comb += [self.runs.ready.eq(none_left), self.idle.eq(none_left & ~self.runs.valid)]
        page = 4096 // machine.beat_bytes
        in_page, few_bits = beat[: page.bit_length() - 1], most.bit_length()
        size, whole, fits = Signal(range(most + 1)), Signal(), Signal()
        # Up to the run's end, to the page's end or as long as can be: each is compared with by itself, no minimum is waited for.
        m.d.comb += [
            whole.eq((left <= most) & (left[:few_bits] + in_page <= page)),
            size.eq(Mux(whole, left, Mux(in_page > page - most, page - in_page, most))),
            fits.eq((free >= most) | ((left < most) & (free[:few_bits] >= left[:few_bits])) | (free + in_page >= page)),
        ]
        # On their way: neither free places nor beats that came.
        coming = Signal(count_shape(self.depth))
        m.d.comb += [
            self.burst_beat.eq(beat),
            self.burst_length.eq(size - 1),
            self.burst_valid.eq(~none_left & fits & (coming <= self.most - most)),
            self.few_in_flight.eq(coming <= (BACKGROUND_BURSTS - 1) * most),
        ]
        issued = self.burst_valid & self.burst_ready
        taken = self.beats.valid & self.beats.ready
        # A burst whose end comes early or late is seen when nothing else is on its way, at the latest.
        bursts = Signal.like(coming)
        awaited = coming != 0
        push = self.push & awaited
        ended = push & self.push_last
        with m.If(issued ^ ended):
            m.d.sync += bursts.eq(bursts + Mux(issued, 1, -1))
        m.d.comb += self.misplaced.eq(((bursts != 0) != awaited) | (self.push & ~awaited))
        with m.If(issued):
            m.d.sync += [beat.eq(beat + size), left.eq(left - size), none_left.eq(whole)]
        with m.If(self.runs.valid & self.runs.ready):
            m.d.sync += [beat.eq(self.runs.payload.beat), left.eq(self.runs.payload.count)]
            m.d.sync += none_left.eq(self.runs.payload.count == 0)  # of a program that asks for nothing
        m.d.sync += [
            coming.eq(carried(coming, Mux(issued, self.burst_length, -1), ~push)),
            free.eq(carried(free, Mux(issued, ~Cat(self.burst_length, Const(0, 1)), 0), taken)),
        ]
        m.d.comb += [
            places.push.eq(push),
            places.push_data.eq(self.push_data),
            self.level.eq(places.level),
            self.behind.eq(places.behind),
            self.further.eq(places.further),
        ]
        connect(m, places.beats, flipped(self.beats))
        return m


class ReadPort(Component):
    """Three burst readers behind one AXI read channel; attention goes before weights, whose product has to wait for it.

    Latency: 2 cycles from a client's run to ``arvalid``, pipeline.queued more of weights, 2 from ``rvalid`` to the client's beat, pipeline.apart
    from ``stop`` and ``background``, and to ``quiet``, ``error`` and ``nobodys``. Throughput: a beat per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # Weights and entries run ahead; the loader keeps two bursts in flight.
        self.depths = (machine.weight_fifo, 2 * machine.burst, machine.kv_fifo)
        self.most = (machine.weights_in_flight or machine.weight_fifo, *self.depths[1:])
        self.axi = gives(AxiRead(machine.port_bits), "read channels of the AXI4 master", "{}")
        # Those of a stationary array's weights come for a cycle each, and ``ready`` is the RunQueue's room.
        self.runs = [given(stream.Signature(Run(machine)), f"runs of beats that client {k} wants") for k in range(READ_CLIENTS)]
        self.beats = [gives(stream.Signature(machine.port_bits), f"client {k}'s beats") for k in range(READ_CLIENTS)]
        self.background = given(1, "attention's bursts wait until memory idles, pipeline.apart cycles from now on")
        self.stop = given(1, "no more bursts, pipeline.apart cycles from now on")
        self.quiet = gives(1, "every beat asked for came, pipeline.apart cycles ago")
        self.attention_level = gives(count_shape(machine.kv_fifo), "beats held for attention")
        self.weights_behind = gives(1, "a beat of weights is there in the next cycle, even if the present one is taken")
        if pipeline.told(machine):
            self.weights_further = gives(1, "and in the one after it, even if that is taken too")
            if not machine.stationary:
                self.attention_further = gives(
                    1, "a beat is there for attention in two cycles, even if two more are taken until then"
                )
        self.error = [
            gives(1, f"a response to client {k} was not OKAY, not asked for or not as long as its burst")
            for k in range(READ_CLIENTS)
        ]
        self.nobodys = gives(1, "a response had nobody's ID")
        self.beat = gives(1, "one data beat arrived")
        super().__init__()
        self.owed = Signal(count_shape(sum(self.depths)))  # beats asked for that did not come

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bits = (self.machine.beat_bytes - 1).bit_length()
        readers: list[BurstReader] = []
        arvalid, arid = Signal(), Signal(2)
        araddr, arlen = Signal(ADDRESS_BITS), Signal(8)
        ready, apart = Signal(), pipeline.apart(self.machine)
        m.d.comb += ready.eq((~arvalid | self.axi.arready) & ~delay_valid(m, self.stop, apart, "stop"))
        background = delay_valid(m, self.background, apart, "background")
        chosen, any_valid = Signal(2), Signal()
        for k in range(READ_CLIENTS):
            reader = BurstReader(self.machine, self.depths[k], self.most[k])
            m.submodules[f"client_{k}"] = reader
            readers.append(reader)
            runs, beats = self.runs[k], self.beats[k]
            if k == WEIGHTS and self.machine.stationary:
                m.submodules.run_queue = queue = RunQueue(self.machine)
                connect(m, queue.runs, reader.runs)
                m.d.comb += [queue.push.eq(runs.valid), queue.run.eq(runs.payload), runs.ready.eq(queue.room)]
            else:
                m.d.comb += [
                    reader.runs.valid.eq(runs.valid),
                    reader.runs.payload.eq(runs.payload),
                    runs.ready.eq(reader.runs.ready),
                ]
            m.d.comb += [
                beats.valid.eq(reader.beats.valid),
                beats.payload.eq(reader.beats.payload),
                reader.beats.ready.eq(beats.ready),
                reader.push.eq(self.axi.rvalid & (self.axi.rid == k)),
                reader.push_data.eq(self.axi.rdata),
                reader.push_last.eq(self.axi.rlast),
                self.error[k].eq(delay_valid(m, (reader.push & (self.axi.rresp != 0)) | reader.misplaced, apart, f"error_{k}")),
            ]
        # The latency-bound clients go first; weights fill what they leave. What is fetched ahead comes while no weights are asked for.
        waits = [reader.burst_valid & ~background if k == ATTENTION else reader.burst_valid for k, reader in enumerate(readers)]
        with m.If(readers[ATTENTION].burst_valid & readers[ATTENTION].few_in_flight & readers[WEIGHTS].idle):
            m.d.comb += [chosen.eq(ATTENTION), any_valid.eq(1)]
        for k in RISING_PRIORITY:
            with m.If(waits[k]):
                m.d.comb += [chosen.eq(k), any_valid.eq(1)]
        with m.If(ready):
            m.d.sync += arvalid.eq(any_valid)
        with m.Elif(self.axi.arready):
            m.d.sync += arvalid.eq(0)
        asked = Signal(9)
        quiet = self.owed == 0
        m.d.sync += self.owed.eq(self.owed + asked - (self.axi.rvalid & ~quiet))
        for k, reader in enumerate(readers):
            with m.If(ready & any_valid & (chosen == k)):
                m.d.comb += [reader.burst_ready.eq(1), asked.eq(reader.burst_length + 1)]
                m.d.sync += [
                    araddr.eq(Cat(Const(0, beat_bits), reader.burst_beat)),
                    arlen.eq(reader.burst_length),
                    arid.eq(k),
                ]
        m.d.comb += [
            self.axi.arvalid.eq(arvalid),
            self.axi.araddr.eq(araddr),
            self.axi.arlen.eq(arlen),
            self.axi.arid.eq(arid),
            self.axi.arsize.eq(beat_bits),
            self.axi.arburst.eq(BURST_INCR),
            self.axi.rready.eq(1),
            self.beat.eq(self.axi.rvalid),
            self.nobodys.eq(delay_valid(m, self.axi.rvalid & (self.axi.rid >= READ_CLIENTS), apart, "nobodys")),
            self.quiet.eq(delay_valid(m, quiet, apart, "quiet")),
            self.attention_level.eq(readers[ATTENTION].level),
            self.weights_behind.eq(readers[WEIGHTS].behind),
        ]
        if pipeline.told(self.machine):
            m.d.comb += self.weights_further.eq(readers[WEIGHTS].further)
            if not self.machine.stationary:
                m.d.comb += self.attention_further.eq(readers[ATTENTION].further)
        return m
