"""Requests the weight streams of dispatched MATMULs, ahead of the array."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.component import Component, given, gives, level
from hw.memory.reader import Run
from hw.widths import GROUP_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, BLOCK_ROWS, MATMUL, SHORT_BLOCK_ROWS
from skipopu.machine.config import QUEUE_DEPTH, Machine
from skipopu.machine.limits import LARGEST_RUN
from skipopu.numerics.formats import INT4, SCALE_WORD

SCALES = INT4.scales_per_word
SHAPE = {name: MATMUL.by_name[name].width for name in ("rounds", "ports", "groups")}  # of a product, bits of each


class WeightRequest(data.StructLayout):
    """The weights of one MATMUL: ``rounds``, ``ports`` and ``groups`` are the instruction's, ``address`` has the layer base.

    two_digits: of a row's code. short: its only block is a short one. zero_points: groups have them, on machines that know such formats.
    masked: its input's channels have ``thresholds`` (an address); again: they are active where they were for the product before; source: of the
    instruction; on machines with masks.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {"address": 32, **SHAPE, "two_digits": 1, "short": 1}
            | ({"zero_points": 1} if machine.zero_points else {})
            | ({"masked": 1, "again": 1, "thresholds": 32, "source": 1} if machine.masks else {})
        )


def thirds(m: Module, value: Value) -> Value:
    """``value`` / 3, rounded up: value + 3 times 0.010101..., twice as many digits with each addition."""
    total, shift = value + 3, 2
    bits = len(total)
    while shift < bits:
        more = Signal(len(total) + shift + 1, name=f"thirds_{shift}")
        m.d.comb += more.eq(total + (total << shift))
        total, shift = more, 2 * shift
    return total >> shift


class WeightFetch(Component):
    """Turns a MATMUL's shape into one run of beats per port and hands the runs to the ports' weight readers.

    A port with b blocks of 8 rows fetches g = 8 * b * groups groups: 64 bytes of scales for each 32 of them (24 with zero points),
    rounded up, and group / 2 bytes each, twice that of two digits.

    Latency: 5 cycles from a request to its runs. Throughput: a request every 4 cycles, more where a port lets its run wait.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runs = [gives(stream.Signature(Run(machine)), f"weights that port {p} fetches") for p in range(machine.ports)]
        self.issue = given(stream.Signature(WeightRequest(machine)), "products whose weights are wanted, in their order")
        self.group = given(GROUP_BITS, "weights of a group")
        self.idle = gives(1, "nothing is inside")
        self.on_demand = given(1, "each product's weights wait until it starts")
        self.started = given(1, "a product with weights starts, for a cycle")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        layout = WeightRequest(machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        head = layout(fifo.r_data)
        m.d.comb += [fifo.w_data.eq(self.issue.payload), fifo.w_en.eq(self.issue.valid), self.issue.ready.eq(fifo.w_rdy)]
        scale_beats = SCALE_WORD // machine.beat_bytes
        finer = 2 * machine.short_groups  # groups may be quarters of beats, blocks of them are whole beats
        per_group = self.group >> (machine.weight_lanes.bit_length() - 1 - finer)
        pending = Signal(machine.ports)
        block_bits, run_bits = SHAPE["groups"] + BLOCK_ROWS.bit_length(), LARGEST_RUN.bit_length()
        product_bits = SHAPE["rounds"] + block_bits
        full_groups, short_groups = Signal(product_bits), Signal(product_bits)
        full_beats, short_beats = Signal(run_bits), Signal(run_bits)
        per_block = Signal(block_bits)
        accepted, full = Signal(machine.ports), Signal(machine.ports)  # full: ports with a block in every round
        for p, runs in enumerate(self.runs):
            m.d.comb += [
                runs.payload.beat.eq(head.address << (ADDRESS_SHIFT - (machine.beat_bytes - 1).bit_length())),
                runs.payload.count.eq(Mux(full[p], full_beats, short_beats)),
                runs.valid.eq(pending[p]),
                accepted[p].eq(runs.ready),
            ]

        def beats(groups: Signal) -> Value:
            words: Value = (groups + (SCALES - 1)) >> (SCALES.bit_length() - 1)
            if machine.zero_points:
                words = Mux(head.zero_points, thirds(m, (groups + 7) >> 3), words)
            codes: Value = groups * per_group << head.two_digits
            return words * scale_beats + (codes >> finer if finer else codes)

        demanded = Signal(2)
        m.d.sync += demanded.eq(Mux(self.on_demand, demanded + self.started - fifo.r_en, 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(level(fifo) == 0)
                m.d.sync += per_block.eq(head.groups * Mux(head.short, SHORT_BLOCK_ROWS, BLOCK_ROWS))
                with m.If(fifo.r_rdy & (~self.on_demand | (demanded != 0))):
                    m.next = "GROUPS"
            with m.State("GROUPS"):
                m.d.sync += [
                    full_groups.eq(head.rounds * per_block),
                    short_groups.eq((head.rounds - 1)[: SHAPE["rounds"]] * per_block),
                    full.eq(Cat(head.ports > p for p in range(machine.ports))),
                ]
                m.next = "BEATS"
            with m.State("BEATS"):
                m.d.sync += [full_beats.eq(beats(full_groups)), short_beats.eq(beats(short_groups))]
                # Groups have beats.
                m.d.sync += pending.eq(Mux(full_groups != 0, full, 0) | Mux(short_groups != 0, ~full, 0))
                m.next = "RUNS"
            with m.State("RUNS"):
                m.d.sync += pending.eq(pending & ~accepted)
                with m.If((pending & ~accepted) == 0):
                    m.d.comb += fifo.r_en.eq(1)
                    m.next = "IDLE"
        return m
