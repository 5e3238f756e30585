"""Drains the accumulators and finishes each result: 1/rms, RoPE, SwiGLU, residual, argmax."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add, FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, lane_of
from hw.pe.slice import Slice
from skipopu.isa.spec import BLOCK_ROWS, BUFFER_UNIT, MATMUL, Epilogue
from skipopu.machine.config import Machine
from skipopu.numerics.tables import OUTPUT_BITS, SIGMOID, SIGMOID_FRACTION_BITS

ONE = 0x3F800000
LARGEST_HALF_HEAD = 128


class EpilogueUnit(Component):
    """One result per cycle; a result is written 20 cycles after its accumulator was read.

    Members: start, instruction, active (in); token_count, slot (in), token (out: list position); round_* (in, from the
    sequencer), drained, drained_bank (out); drain_address (out, to all slices), drain_even, drain_odd (in, per port, one
    cycle later); inverse_rms (in, 32 bits per slot); half_head (in: head_dim / 2); rope_* (in: write port of the rotary
    memory: slot, index of the 32-bit word, data); read_* and write_* (buffer ports); last_slot (in), best_token (out: argmax
    over the present chunk), chunk (in: a new chunk starts); done, digest (out); saturated (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        address = Slice.drain_address_bits(machine)
        super().__init__(
            {
                "active": In(1),
                "start": In(1),
                "instruction": In(Issue(machine)),
                "token_count": In(count_shape(machine.tokens)),
                "token": Out(slot),
                "slot": In(slot),
                "finished": In(1),
                "round_done": In(1),
                "round_bank": In(1),
                "round_ports": In(machine.ports),
                "round_last": In(1),
                "drained": Out(1),
                "drained_bank": Out(1),
                "drain_address": Out(address),
                "drain_even": In(32 * machine.ports),
                "drain_odd": In(32 * machine.ports),
                "inverse_rms": In(32 * machine.tokens),
                "half_head": In(8),
                "rope_slot": In(slot),
                "rope_word": In(8),
                "rope_data": In(32),
                "rope_enable": In(1),
                "read_address": Out(ELEMENT_ADDRESS_BITS),
                "read_enable": Out(1),
                "read_data": In(32 * machine.vector_lanes),
                "write_address": Out(ELEMENT_ADDRESS_BITS),
                "write_data": Out(32),
                "write_enable": Out(1),
                "last_slot": In(slot),
                "chunk": In(1),
                "best_token": Out(32),
                "done": Out(1),
                "digest": Out(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        word = self.instruction.word
        kind = field(word, MATMUL, "epilogue")
        swiglu = kind == Epilogue.SWIGLU
        pairs = BLOCK_ROWS // 2

        # Rounds waiting to be drained, at most one per bank.
        waiting = Signal(2)
        ports_of = Array(Signal(machine.ports, name=f"ports_{b}") for b in range(2))
        last_of = Array(Signal(name=f"last_{b}") for b in range(2))
        with m.If(self.round_done):
            m.d.sync += [
                waiting.bit_select(self.round_bank, 1).eq(1),
                ports_of[self.round_bank].eq(self.round_ports),
                last_of[self.round_bank].eq(self.round_last),
            ]

        # Walk: ports, tokens, pairs, halves
        bank, port, token = Signal(), Signal(range(max(2, machine.ports))), Signal.like(self.token)
        pair, half = Signal(range(pairs)), Signal()
        row = Signal(20)  # first row of the block
        head_pair, walk_pair = Signal(9), Signal(9)  # rotary index of the block's first pair, of the present one
        draining = waiting.bit_select(bank, 1)
        wrapped = lambda value: Mux(value >= self.half_head, value - self.half_head, value)[:9]  # noqa: E731
        last_half = half | swiglu
        last_token = token == self.token_count - 1
        last_port = (ports_of[bank] >> port) == 1
        base = Array(Signal(ELEMENT_ADDRESS_BITS, name=f"base_{s}") for s in range(machine.tokens))
        m.d.comb += [
            self.token.eq(token),
            self.drain_address.eq(Cat(token, pair, bank)),
            self.drained_bank.eq(bank),
        ]
        finished_walk = Signal()  # the last round was drained
        with m.If(draining):
            m.d.sync += half.eq(~half)
            with m.If(last_half):
                m.d.sync += [half.eq(0), pair.eq(pair + 1), walk_pair.eq(wrapped(walk_pair + 1))]
                with m.If(pair == pairs - 1):
                    m.d.sync += [token.eq(token + 1), walk_pair.eq(head_pair)]
                    with m.If(last_token):
                        next_pair = wrapped(head_pair + pairs)
                        m.d.sync += [
                            token.eq(0),
                            port.eq(port + 1),
                            row.eq(row + BLOCK_ROWS),
                            head_pair.eq(next_pair),
                            walk_pair.eq(next_pair),
                        ]
                        with m.If(last_port):
                            m.d.comb += self.drained.eq(1)
                            m.d.sync += [port.eq(0), waiting.bit_select(bank, 1).eq(0), bank.eq(~bank)]
                            with m.If(last_of[bank]):
                                m.d.sync += finished_walk.eq(1)
        # Buffer addresses of the slots' vectors
        setup = Signal(range(machine.tokens + 1), init=machine.tokens)
        running_base = Signal(ELEMENT_ADDRESS_BITS)
        with m.If(setup != machine.tokens):
            m.d.sync += [
                setup.eq(setup + 1),
                base[setup].eq(running_base),
                running_base.eq(running_base + field(word, MATMUL, "stride") * BUFFER_UNIT),
            ]
        with m.If(self.start):
            m.d.sync += [
                setup.eq(0),
                running_base.eq(field(word, MATMUL, "dst") * BUFFER_UNIT),
                bank.eq(0),
                port.eq(0),
                token.eq(0),
                pair.eq(0),
                half.eq(0),
                row.eq(0),
                head_pair.eq(0),
                walk_pair.eq(0),
                finished_walk.eq(0),
            ]

        # Stage 0: what is drained
        last_block = last_of[bank] & last_port
        exists = ~last_block | (Cat(half, pair) < BLOCK_ROWS - field(word, MATMUL, "spare"))
        valid = draining & exists
        this_row = Signal(20)
        m.d.comb += this_row.eq(row + Cat(half, pair))
        stored = Mux(swiglu, this_row[1:], this_row)
        address = Signal(ELEMENT_ADDRESS_BITS)
        m.d.comb += [
            address.eq(base[self.slot] + stored),
            self.read_address.eq(address),
            self.read_enable.eq(valid & (kind == Epilogue.RESIDUAL)),
        ]
        m.submodules.rope = rope = Memory(shape=64, depth=machine.tokens * LARGEST_HALF_HEAD, init=[])
        rope_write, rope_read = rope.write_port(granularity=32), rope.read_port()
        m.d.comb += [
            rope_write.addr.eq(self.rope_slot * LARGEST_HALF_HEAD + self.rope_word[1:]),
            rope_write.data.eq(Cat(self.rope_data, self.rope_data)),
            rope_write.en.eq(Mux(self.rope_enable, Mux(self.rope_word[0], 2, 1), 0)),
            rope_read.addr.eq(self.slot * LARGEST_HALF_HEAD + walk_pair),
        ]
        rotate = (kind == Epilogue.ROPE) & (this_row < field(word, MATMUL, "aux"))

        # Stage 1: select the port, register
        port_1 = delay(m, port, 1, "port")
        even, odd = Signal(32), Signal(32)
        m.d.sync += [even.eq(self.drain_even.word_select(port_1, 32)), odd.eq(self.drain_odd.word_select(port_1, 32))]
        lane_1 = delay(m, lane_of(machine, address), 1, "lane")
        residual_2 = Signal(32)
        m.d.sync += residual_2.eq(self.read_data.word_select(lane_1, 32))
        cos_2, sin_2 = delay(m, rope_read.data[:32], 1, "cos"), delay(m, rope_read.data[32:], 1, "sin")

        # Stage 2: times 1/rms
        slot_2 = delay(m, self.slot, 2, "slot")
        scale = Mux(field(word, MATMUL, "norm"), self.inverse_rms.word_select(slot_2, 32), ONE)
        m.submodules.scale_even = scale_even = Multiply()
        m.submodules.scale_odd = scale_odd = Multiply()
        valid_2 = delay_valid(m, valid, 2, "valid")
        for unit, operand in ((scale_even, even), (scale_odd, odd)):
            m.d.comb += [unit.a.eq(operand), unit.b.eq(scale), unit.valid.eq(valid_2)]
        # Stage 4: both results of the pair
        a_4, b_4 = scale_even.z, scale_odd.z
        m.submodules.gate = gate = Multiply()
        m.d.comb += [gate.a.eq(a_4), gate.b.eq(b_4), gate.valid.eq(delay_valid(m, valid_2 & swiglu, 2, "gated"))]
        m.submodules.table = table = Quadratic((SIGMOID,))
        exponent = a_4[23:31]
        top = 127 + SIGMOID.argument_bits - SIGMOID_FRACTION_BITS - 1  # largest biased exponent below the table's end
        argument = Signal(SIGMOID.argument_bits)
        with m.If(exponent > top):
            m.d.sync += argument.eq((1 << SIGMOID.argument_bits) - 1)
        with m.Else():
            right = Mux(top - exponent > 31, 31, top - exponent)[:5]
            m.d.sync += argument.eq(Mux(exponent == 0, 0, Cat(a_4[:23], Const(1, 1)) >> right))
        m.d.comb += table.u.eq(argument)
        m.submodules.sigmoid = sigmoid = FromInteger(OUTPUT_BITS + 2)
        negative = delay(m, a_4[31], 1 + Quadratic.LATENCY, "negative")
        m.d.comb += [
            sigmoid.mantissa.eq(Mux(negative, (1 << OUTPUT_BITS) - table.y, table.y)),
            sigmoid.exponent.eq(-OUTPUT_BITS),
        ]
        # Stage B: x1 * y1 (+ or -) x2 * y2
        at_b = 4 + 1 + Quadratic.LATENCY + FromInteger.LATENCY
        wait = at_b - 4
        a_b, b_b = delay(m, a_4, wait, "a"), delay(m, b_4, wait, "b")
        gate_b = delay(m, gate.z, wait - Multiply.LATENCY, "gate")
        cos_b, sin_b = delay(m, cos_2, at_b - 2, "cos_b"), delay(m, sin_2, at_b - 2, "sin_b")
        half_b, rotate_b = delay(m, half, at_b, "half"), delay(m, rotate, at_b, "rotate")
        own, other = Mux(half_b, b_b, a_b), Mux(half_b, a_b, b_b)
        m.submodules.first = first = Multiply()
        m.submodules.second = second = Multiply()
        m.d.comb += [
            first.a.eq(Mux(swiglu, gate_b, own)),
            first.b.eq(Mux(swiglu, sigmoid.z, cos_b)),
            second.a.eq(other),
            second.b.eq(sin_b),
        ]
        valid_b = delay_valid(m, valid, at_b, "valid_b")
        m.d.comb += [first.valid.eq(valid_b & (swiglu | rotate_b)), second.valid.eq(valid_b & rotate_b)]
        at_add = at_b + Multiply.LATENCY
        plain = delay(m, own, Multiply.LATENCY, "plain")
        rotate_add, half_add = delay(m, rotate_b, Multiply.LATENCY, "rotate"), delay(m, half_b, Multiply.LATENCY, "half")
        valid_add = delay_valid(m, valid_b, Multiply.LATENCY, "valid_add")
        residual = kind == Epilogue.RESIDUAL
        m.submodules.add = add = Add()
        m.d.comb += [
            add.a.eq(Mux(residual, delay(m, residual_2, at_add - 2, "residual"), first.z)),
            add.b.eq(Mux(residual, plain, second.z)),
            add.subtract.eq(~residual & ~half_add),
            add.valid.eq(valid_add & (residual | rotate_add)),
        ]
        at_end = at_add + Add.LATENCY
        unchanged = delay(m, Mux(swiglu, first.z, plain), Add.LATENCY, "unchanged")
        result = Mux(residual | delay(m, rotate_add, Add.LATENCY, "rotate_end"), add.z, unchanged)
        valid_end = delay_valid(m, valid, at_end, "valid_end")
        address_end = delay(m, address, at_end, "address")
        row_end: Value = delay(m, this_row, at_end, "row")
        stores = kind != Epilogue.NONE
        m.d.comb += [
            self.write_address.eq(address_end),
            self.write_data.eq(result),
            self.write_enable.eq(valid_end & stores),
            self.saturated.eq(
                scale_even.saturated | scale_odd.saturated | gate.saturated | first.saturated | second.saturated | add.saturated
            ),
        ]
        # Argmax of the chunk's last slot; both zeros are one number, ties keep the lower row.
        first_row = Mux(field(word, MATMUL, "argmax"), field(word, MATMUL, "aux") << 3, 0)
        token_row = Signal(32)
        m.d.comb += token_row.eq(row_end + first_row)
        plain_end = delay(m, plain, Add.LATENCY, "plain_end")
        key = Signal(32)
        m.d.comb += key.eq(Mux(plain_end[:31] == 0, 1 << 31, Mux(plain_end[31], ~plain_end, plain_end | (1 << 31))))
        best = Signal(32)
        slot_end = delay(m, self.slot, at_end, "slot_end")
        with m.If(self.chunk):
            m.d.sync += best.eq(0)
        with m.Elif(valid_end & field(word, MATMUL, "argmax") & (slot_end == self.last_slot) & (key > best)):
            m.d.sync += [best.eq(key), self.best_token.eq(token_row)]
        # Signature
        m.submodules.writes = writes = Signature(1)
        m.d.comb += [
            writes.clear.eq(self.start),
            writes.valid[0].eq(valid_end),
            writes.where[0].eq(Mux(stores, address_end, token_row | Cat(Const(0, 20), slot_end))),
            writes.value[0].eq(result),
            self.digest.eq(writes.total),
        ]
        settle = Signal(range(at_end + Signature.LATENCY + 2))
        empty = self.finished & (field(word, MATMUL, "rounds") == 0)
        with m.If(self.start):
            m.d.sync += settle.eq(0)
        with m.Elif(self.active & (finished_walk | empty)):
            m.d.sync += settle.eq(settle + 1)
            m.d.comb += self.done.eq(settle == at_end + Signature.LATENCY)
        return m
