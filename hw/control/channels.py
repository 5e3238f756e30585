"""Requests the weights of a stationary array, tile by tile, ahead of it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape
from hw.component import Component, given, gives, level
from hw.control.weights import WeightRequest
from hw.memory.reader import Run
from hw.pe.stationary.active import ActiveRuns, ActiveWords
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.tiles import head_beats, tile_size
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, MATMUL
from skipopu.machine.config import QUEUE_DEPTH, Machine
from skipopu.masks import THRESHOLD_BYTES


class ChannelFetch(Component):
    """Turns a MATMUL's shape into runs of beats for the ports: of each tile all groups' scales, zero points and channels.

    With thresholds those are fetched first, by the ports that hold them; then, group by group as its active channels are known, the scales
    and runs of beats with one.

    Latency: 4 cycles from a request to its first run. Throughput: a run every 3 cycles, with thresholds one every 2, more where a port lets its
    run wait.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runs = [gives(stream.Signature(Run(machine)), f"weights that port {p} fetches") for p in range(machine.ports)]
        self.issue = given(stream.Signature(WeightRequest(machine)), "products whose weights are wanted, in their order")
        self.group = given(GROUP_BITS, "weights of a group")
        self.idle = gives(1, "nothing is inside, nor comes")
        self.on_demand = given(1, "each product's weights wait until it starts")
        self.started = given(1, "a product with weights starts, for a cycle")
        if machine.masks:
            self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
            self.masked = given(1, "a product with thresholds starts, for a cycle")
            self.groups_done = given(count_shape((1 << MATMUL.by_name["groups"].width) - 1), "whose active channels are known")
            self.active = gives(ActiveWords(machine), "reads of active channels", "active_{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, layout = self.machine, WeightRequest(self.machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        head = layout(fifo.r_data)
        m.d.comb += [fifo.w_data.eq(self.issue.payload), fifo.w_en.eq(self.issue.valid), self.issue.ready.eq(fifo.w_rdy)]
        left = Signal(MATMUL.by_name["rounds"].width)
        run, base, per_group = Signal(Run(machine)), Signal(Run(machine)["beat"].shape), Signal(GROUP_BITS + 1)
        pending, accepted, taking_part = (Signal(machine.ports, name=name) for name in ("pending", "accepted", "taking_part"))
        size, channels = tile_size(m, machine, left, head.two_digits)
        scales, zeros = head_beats(m, machine, size)
        heads = scales + (Mux(head.zero_points, zeros, 0) if machine.zero_points else 0)
        rounds = Const(1) << size
        m.d.comb += taking_part.eq((1 << machine.ports) - 1)
        with m.If(left == 1):
            m.d.comb += taking_part.eq((Const(1, machine.ports + 1) << head.ports) - 1)
        for p, runs in enumerate(self.runs):
            m.d.comb += [runs.payload.eq(run), runs.valid.eq(pending[p]), accepted[p].eq(runs.valid & runs.ready)]
        m.d.sync += pending.eq(pending & ~accepted)
        free = (pending & ~accepted) == 0
        demanded = Signal(2)
        m.d.sync += demanded.eq(Mux(self.on_demand, demanded + self.started - fifo.r_en, 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq((level(fifo) == 0) & ~self.issue.valid & (pending == 0))
                m.d.sync += [left.eq(head.rounds), base.eq(self._beat(head.address))]
                with m.If(fifo.r_rdy & (~self.on_demand | (demanded != 0))):
                    m.next = "TILE"
                    if machine.masks:
                        with m.If(head.masked):
                            m.next = "THRESHOLDS"
            with m.State("TILE"):
                m.d.sync += per_group.eq(heads + (self.group >> channels))
                m.next = "BEATS"
                if machine.masks:
                    with m.If(head.masked):
                        m.next = "GROUP"
            with m.State("BEATS"):
                with m.If(free):
                    m.d.sync += [run.beat.eq(base), run.count.eq(head.groups * per_group), pending.eq(taking_part)]
                    m.next = "RUNS"
            with m.State("RUNS"):
                with m.If(free):
                    m.d.sync += base.eq(run.beat + run.count)
                    self._next_tile(m, left, rounds, fifo)
            if machine.masks:
                self._masked(m, fifo, head, run, base, (left, rounds, channels, heads, per_group), (pending, taking_part, free))
        return m

    def _beat(self, address: Value) -> Value:
        """The beat at an address of the instruction."""
        return address << (ADDRESS_SHIFT - (self.machine.beat_bytes - 1).bit_length())

    def _next_tile(self, m: Module, left: Signal, rounds: Value, fifo: SyncFIFOBuffered) -> None:
        m.d.sync += left.eq(left - rounds)
        m.next = "TILE"
        with m.If(left == rounds):
            m.d.comb += fifo.r_en.eq(1)
            m.next = "IDLE"

    def _masked(
        self,
        m: Module,
        fifo: SyncFIFOBuffered,
        head: Any,
        run: Any,
        base: Signal,
        tile: tuple[Signal, Value, Value, Value, Signal],
        to_ports: tuple[Signal, Signal, Value],
    ) -> None:
        """States of a product with thresholds. ``open_run`` is a run that may still grow, up to a burst; it goes out when the next piece does not."""
        machine, (left, rounds, channels, heads, per_group), (pending, taking_part, free) = self.machine, tile, to_ports
        lanes, ports = word_lanes(machine).bit_length() - 1, machine.mask_ports
        m.submodules.active_runs = active = ActiveRuns(machine)
        connect(m, active.read, flipped(self.active))
        credit, group, open_run = Signal(2), Signal.like(self.groups_done), Signal(Run(machine))
        word, code = Signal.like(active.first), Signal.like(base)  # of the group's channels, of its codes
        is_open, behind = Signal(), Signal.like(base)
        begins = Signal()
        m.d.sync += credit.eq(credit + self.masked - begins)
        beats_per_group = (self.group * THRESHOLD_BYTES + (machine.beat_bytes - 1)) >> (machine.beat_bytes - 1).bit_length()
        first_word = Mux(head.source, self.inner >> lanes, 0)
        m.d.comb += [
            behind.eq(open_run.beat + open_run.count),
            active.first.eq(word),
            active.words.eq(self.group >> lanes),
            active.channels.eq(channels),
        ]
        # Thresholds: of every ``ports``th group, from the first ports' first on
        port = Signal(range(ports + 1))
        with m.State("THRESHOLDS"):
            own = (head.groups + (ports - 1) - port) >> (ports.bit_length() - 1)
            m.d.sync += [group.eq(0), word.eq(first_word), is_open.eq(0)]
            with m.If(port == ports):
                with m.If(free & (credit != 0)):
                    m.d.comb += begins.eq(1)
                    m.d.sync += port.eq(0)
                    m.next = "TILE"
            with m.Elif(free):
                m.d.sync += [
                    run.beat.eq(self._beat(head.thresholds)),
                    run.count.eq(own * beats_per_group),
                    pending.eq(Mux(own != 0, Const(1, machine.ports) << port, 0)),
                    port.eq(port + 1),
                ]
        piece, count, takes, grows = Signal.like(base), Signal.like(run.count), Signal(), Signal()
        m.d.comb += grows.eq(is_open & (behind == piece) & (open_run.count < machine.burst))

        def take(condition: Value) -> Value:
            """A piece is added to the open run, or becomes the next one when that goes out."""
            done = condition & (grows | ~is_open | free)
            with m.If(done):
                with m.If(grows):
                    m.d.sync += open_run.count.eq(open_run.count + count)
                with m.Else():
                    m.d.sync += [open_run.beat.eq(piece), open_run.count.eq(count), is_open.eq(1)]
                    with m.If(is_open):
                        m.d.sync += [run.eq(open_run), pending.eq(taking_part)]
            return done

        with m.State("GROUP"):
            m.d.comb += [piece.eq(base), count.eq(heads)]
            known = self.groups_done > group
            with m.If(take(known)):
                m.d.comb += active.start.eq(1)
                m.d.sync += code.eq(base + heads)
                m.next = "PIECES"
        with m.State("PIECES"):
            m.d.comb += [piece.eq(code + active.beat), count.eq(active.length), active.next.eq(takes)]
            m.d.comb += takes.eq(take(active.valid))
            with m.If(active.ended):
                m.d.sync += [base.eq(base + per_group), group.eq(group + 1), word.eq(word + (self.group >> lanes))]
                m.next = "GROUP"
                with m.If(group + 1 == head.groups):
                    m.d.sync += [group.eq(0), word.eq(first_word)]
                    m.next = "LAST"
        with m.State("LAST"):
            with m.If(free):
                m.d.sync += [run.eq(open_run), pending.eq(taking_part), is_open.eq(0)]
                self._next_tile(m, left, rounds, fifo)
