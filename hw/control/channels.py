"""Requests the weights of a stationary array, tile by tile, ahead of it."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.component import Component, given, gives, level
from hw.control.weights import WeightRequest
from hw.memory.reader import Run
from hw.pe.stationary.tiles import head_beats, tile_size
from hw.widths import GROUP_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, MATMUL
from skipopu.machine.config import QUEUE_DEPTH, Machine


class ChannelFetch(Component):
    """Turns a MATMUL's shape into a run of beats per tile and port: of each group its scales, its zero points and its channels.

    Latency: 4 cycles from a request to its first run. Throughput: a run every 3 cycles, more where a port lets its run wait.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runs = [gives(stream.Signature(Run(machine)), f"weights that port {p} fetches") for p in range(machine.ports)]
        self.issue = given(stream.Signature(WeightRequest(machine)), "products whose weights are wanted, in their order")
        self.group = given(GROUP_BITS, "weights of a group")
        self.idle = gives(1, "nothing is inside, nor comes")
        self.on_demand = given(1, "each product's weights wait until it starts")
        self.started = given(1, "a product with weights starts, for a cycle")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, layout = self.machine, WeightRequest(self.machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        head = layout(fifo.r_data)
        m.d.comb += [fifo.w_data.eq(self.issue.payload), fifo.w_en.eq(self.issue.valid), self.issue.ready.eq(fifo.w_rdy)]
        left, beat = Signal(MATMUL.by_name["rounds"].width), Signal(Run(machine)["beat"].shape)
        count, per_group = Signal(Run(machine)["count"].shape), Signal(GROUP_BITS + 1)
        pending, accepted, taking_part = (Signal(machine.ports, name=name) for name in ("pending", "accepted", "taking_part"))
        size, channels = tile_size(m, machine, left, head.two_digits)
        scales, zeros = head_beats(m, machine, size)
        with_zeros = head.zero_points if machine.zero_points else Const(0, 1)
        rounds = Const(1) << size
        m.d.comb += taking_part.eq((1 << machine.ports) - 1)
        with m.If(left == 1):
            m.d.comb += taking_part.eq((Const(1, machine.ports + 1) << head.ports) - 1)
        for p, runs in enumerate(self.runs):
            m.d.comb += [
                runs.payload.beat.eq(beat),
                runs.payload.count.eq(count),
                runs.valid.eq(pending[p]),
                accepted[p].eq(runs.valid & runs.ready),
            ]
        demanded = Signal(2)
        m.d.sync += demanded.eq(Mux(self.on_demand, demanded + self.started - fifo.r_en, 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq((level(fifo) == 0) & ~self.issue.valid)
                m.d.sync += [left.eq(head.rounds), beat.eq(head.address << (ADDRESS_SHIFT - (machine.beat_bytes - 1).bit_length()))]
                with m.If(fifo.r_rdy & (~self.on_demand | (demanded != 0))):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += per_group.eq(scales + Mux(with_zeros, zeros, 0) + (self.group >> channels))
                m.next = "BEATS"
            with m.State("BEATS"):
                m.d.sync += [count.eq(head.groups * per_group), pending.eq(taking_part)]
                m.next = "RUNS"
            with m.State("RUNS"):
                m.d.sync += pending.eq(pending & ~accepted)
                with m.If((pending & ~accepted) == 0):
                    m.d.sync += [left.eq(left - rounds), beat.eq(beat + count)]
                    m.next = "TILE"
                    with m.If(left == rounds):
                        m.d.comb += fifo.r_en.eq(1)
                        m.next = "IDLE"
        return m
