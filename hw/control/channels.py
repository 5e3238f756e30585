"""Requests the weights of a stationary array, tile by tile, ahead of it."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, registered
from hw.component import Component, given, gives, level
from hw.control.active_tile import ActiveTile
from hw.control.weights import WeightRequest
from hw.memory.reader import Run
from hw.pe.stationary.active import ActiveWords
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.tiles import head_beats, leading_groups, tile_size
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, MATMUL
from skipopu.machine.config import QUEUE_DEPTH, Machine
from skipopu.masks import THRESHOLD_BYTES


class ChannelFetch(Component):
    """Turns a MATMUL's shape into runs of beats for the ports: of each tile all groups' scales, zero points and channels.

    With thresholds those are fetched first, by the ports that hold them, where the product before has not the same mask, and the first tile's
    leading groups whole; then, group by group as its active channels are known, the scales and runs of beats with one.

    Ports take runs as they come; whether all have room for more is known late (:class:`hw.memory.reader.RunQueue`).

    Latency: 5 cycles from a request to its first run. Throughput: a run every 3 cycles, with thresholds one per cycle, more where a port has no room.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runs = [
            gives(stream.Signature(Run(machine)), f"weights that port {p} fetches, for a cycle; ready: see RunQueue.room")
            for p in range(machine.ports)
        ]
        self.issue = given(stream.Signature(WeightRequest(machine)), "products whose weights are wanted, in their order")
        self.group = given(GROUP_BITS, "weights of a group")
        self.idle = gives(1, "nothing is inside")
        self.on_demand = given(1, "each product's weights wait until it starts")
        self.started = given(1, "a product with weights starts, for a cycle")
        if machine.masks:
            self.inner = given(ELEMENT_BITS, "first element of the activations' inner region")
            self.masked = given(1, "a product with thresholds of its own starts, for a cycle")
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
        run, base = Signal(Run(machine)), Signal(Run(machine)["beat"].shape)
        pending, taking_part = (Signal(machine.ports, name=name) for name in ("pending", "taking_part"))
        size, channels = tile_size(m, machine, left, head.two_digits)
        scales, zeros = head_beats(m, machine, size)
        heads = scales + (Mux(head.zero_points, zeros, 0) if machine.zero_points else 0)
        per_group = registered(m, heads + (self.group >> channels), "per_group")
        behind = registered(m, (left - (Const(1) << size))[: len(left)], "behind")  # rounds of the tiles behind this one
        m.d.comb += taking_part.eq((1 << machine.ports) - 1)
        with m.If(left == 1):
            m.d.comb += taking_part.eq((Const(1, machine.ports + 1) << head.ports) - 1)
        for p, runs in enumerate(self.runs):
            m.d.comb += [runs.payload.eq(run), runs.valid.eq(pending[p])]
        m.d.sync += pending.eq(0)
        room = registered(m, Cat(runs.ready for runs in self.runs).all(), "room")
        tile = ActiveTile(machine) if machine.masks else None
        leading: Value = Const(0, 1)
        ahead = Signal()
        if tile is not None:
            m.submodules.tile = tile
            leading = registered(m, leading_groups(machine, head.groups, self.group), "leading")
            ahead = Signal.like(leading)  # those of the next tile that were asked for
            lanes = word_lanes(machine).bit_length() - 1
            first_word = Mux(head.source, self.inner >> lanes, 0)
            behind_leading = registered(m, leading * (self.group >> lanes), "behind_leading")
            connect(m, tile.active, flipped(self.active))
            m.d.comb += [
                tile.base.eq(base),
                # Stable from a cycle behind a tile's begin
                tile.heads.eq(registered(m, heads, "own_heads")),
                tile.per_group.eq(per_group),
                tile.channels.eq(registered(m, channels, "own_channels")),
                tile.groups.eq(head.groups),
                tile.group.eq(self.group),
                tile.leading.eq(ahead),
                tile.first_word.eq(first_word + Mux(ahead == 0, 0, behind_leading)),
                tile.groups_done.eq(self.groups_done),
            ]
        demanded = Signal(2)
        m.d.sync += demanded.eq(Mux(self.on_demand, demanded + self.started - fifo.r_en, 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq((level(fifo) == 0) & (pending == 0))
                m.d.sync += [left.eq(head.rounds), base.eq(self._beat(head.address))]
                with m.If(fifo.r_rdy & (~self.on_demand | (demanded != 0))):
                    m.next = "TILE"
                    if machine.masks:
                        with m.If(head.masked & ~head.again):
                            m.next = "THRESHOLDS"
            with m.State("TILE"):
                m.next = "BEATS"
                if tile is not None:
                    m.d.sync += ahead.eq(0)
                    with m.If(head.masked):
                        m.d.comb += tile.start.eq(1)
                        m.next = "ACTIVE"
            with m.State("BEATS"):
                with m.If(room):
                    m.d.sync += [run.beat.eq(base), run.count.eq(head.groups * per_group), pending.eq(taking_part)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += base.eq(run.beat + run.count)
                self._next_tile(m, left, behind, fifo)
            if tile is not None:
                credit, begins = Signal(2), Signal()
                m.d.sync += credit.eq(credit + self.masked - begins)
                self._thresholds(m, head, run, pending, room)
                with m.State("LEADING"):
                    with m.If(room):
                        m.d.sync += [
                            run.beat.eq(base),
                            run.count.eq(leading * per_group),
                            pending.eq(Mux(leading != 0, taking_part, 0)),
                            ahead.eq(leading),
                        ]
                        m.next = "BEGIN"
                with m.State("BEGIN"):
                    with m.If(credit != 0):
                        m.d.comb += begins.eq(1)
                        m.d.sync += base.eq(run.beat + run.count)
                        m.next = "TILE"
                with m.State("ACTIVE"):
                    m.d.comb += tile.runs.ready.eq(room)
                    with m.If(room & tile.runs.valid):
                        m.d.sync += [run.eq(tile.runs.payload), pending.eq(taking_part)]
                        with m.If(tile.last):
                            m.d.sync += base.eq(tile.end)
                            self._next_tile(m, left, behind, fifo)
        return m

    def _beat(self, address: Value) -> Value:
        """The beat at an address of the instruction."""
        return address << (ADDRESS_SHIFT - (self.machine.beat_bytes - 1).bit_length())

    def _next_tile(self, m: Module, left: Signal, behind: Signal, fifo: SyncFIFOBuffered) -> None:
        m.d.sync += left.eq(behind)
        m.next = "TILE"
        with m.If(behind == 0):
            m.d.comb += fifo.r_en.eq(1)
            m.next = "IDLE"

    def _thresholds(self, m: Module, head: data.View, run: data.View, pending: Signal, room: Value) -> None:
        """The state in which thresholds are asked for: of every ``mask_ports``th group, from the first ports' first on."""
        machine, ports = self.machine, self.machine.mask_ports
        port = Signal(range(ports))
        beats_per_group = (self.group * THRESHOLD_BYTES + (machine.beat_bytes - 1)) >> (machine.beat_bytes - 1).bit_length()
        with m.State("THRESHOLDS"):
            own = (head.groups + (ports - 1) - port) >> (ports.bit_length() - 1)
            with m.If(room):
                m.d.sync += [
                    run.beat.eq(self._beat(head.thresholds)),
                    run.count.eq(own * beats_per_group),
                    pending.eq(Mux(own != 0, Const(1, machine.ports) << port, 0)),
                    port.eq(port + 1),
                ]
                with m.If(port == ports - 1):
                    m.d.sync += port.eq(0)
                    m.next = "LEADING"
