"""Drains the accumulators, finishes the results and writes them; the argmax."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, tree
from hw.arithmetic.signature import Signature
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite, lane_of
from hw.pe.slice import Slice
from hw.vector.finish import ONE, Finish
from skipopu.isa.spec import BLOCK_ROWS, BUFFER_UNIT, MATMUL, AlignTarget, Epilogue
from skipopu.machine.config import Machine

LARGEST_HALF_HEAD = 128


class EpilogueUnit(Component):
    """One pair of rows of ``drain_ports`` ports per cycle, written ``LATENCY`` cycles after their accumulators were read.

    Members: start, instruction, active (in); token_count, slot (in), token (out: list position); round_* (in, from the
    sequencer), drained, drained_bank (out); drain_address (out, to all slices), drain_even, drain_odd (in, per port, one
    cycle later); inverse_rms (in, 32 bits per slot); half_head (in: head_dim / 2), activation, parameter (in, configuration);
    rope_* (in: write port of the rotary memory: slot, index of the 32-bit word, data); read_* (a port of the buffer),
    write_valid, write (out, to the buffer, always accepted); pause (in: drain no more for now); last_slot (in), best_token
    (out: argmax over the present chunk), chunk (in: a new chunk starts); finish (out, level: everything is written, the
    aligner may close), aligned (in: it is done); done, digest (out, the aligner's share not included); draining (out: a pair
    is taken), saturated (out).
    """

    LATENCY = 2 + Finish.LATENCY

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
                "activation": In(3),
                "parameter": In(32),
                "rope_slot": In(slot),
                "rope_word": In(8),
                "rope_data": In(32),
                "rope_enable": In(1),
                "read_address": Out(ELEMENT_ADDRESS_BITS),
                "read_enable": Out(1),
                "read_data": In(32 * machine.vector_lanes),
                "write_valid": Out(1),
                "write": Out(WordWrite(machine)),
                "pause": In(1),
                "last_slot": In(slot),
                "chunk": In(1),
                "best_token": Out(32),
                "finish": Out(1),
                "aligned": In(1),
                "done": Out(1),
                "digest": Out(32),
                "draining": Out(1),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, together = self.machine, self.machine.drain_ports
        word = self.instruction.word
        kind = field(word, MATMUL, "epilogue")
        gated = kind == Epilogue.GATED
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

        # Walk: ports (``together`` at a time), tokens, pairs
        bank, turn, token = Signal(), Signal(range(max(2, machine.ports // together))), Signal.like(self.token)
        pair = Signal(range(pairs))
        row = Signal(20)  # first row of the first port's block
        # Rotary index of each port's first pair of the block, and how far a turn advances it, below half_head
        heads, whole_turn = [Signal(9, name=f"head_pair_{i}") for i in range(together)], pairs * together
        draining = waiting.bit_select(bank, 1) & ~self.pause
        wrapped = lambda value: Mux(value >= self.half_head, value - self.half_head, value)[:9]  # noqa: E731
        last_token = token == self.token_count - 1
        here = Signal(machine.ports)
        m.d.comb += here.eq(ports_of[bank] >> (turn << (together.bit_length() - 1)))
        last_turn = (here >> together) == 0 if machine.ports > together else Const(1, 1)
        base = Array(Signal(ELEMENT_ADDRESS_BITS, name=f"base_{s}") for s in range(machine.tokens))
        m.d.comb += [
            self.token.eq(token),
            self.drain_address.eq(Cat(token, pair, bank)),
            self.drained_bank.eq(bank),
            self.draining.eq(draining),
        ]
        finished_walk = Signal()  # the last round was drained
        # head_dim is a multiple of vector_lanes: the pairs of a turn are at most half_head.
        after_turn = [wrapped(head + whole_turn) for head in heads]
        with m.If(draining):
            m.d.sync += pair.eq(pair + 1)
            with m.If(pair == pairs - 1):
                m.d.sync += [pair.eq(0), token.eq(token + 1)]
                with m.If(last_token):
                    m.d.sync += [
                        token.eq(0),
                        turn.eq(turn + 1),
                        row.eq(row + BLOCK_ROWS * together),
                        *(head.eq(value) for head, value in zip(heads, after_turn, strict=True)),
                    ]
                    with m.If(last_turn):
                        m.d.comb += self.drained.eq(1)
                        m.d.sync += [turn.eq(0), waiting.bit_select(bank, 1).eq(0), bank.eq(~bank)]
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
                *(s.eq(0) for s in (bank, turn, token, pair, row, finished_walk)),
                *(head.eq(pairs * i) for i, head in enumerate(heads)),
            ]

        # Stage 0: what is drained. All blocks of a turn lie in one word of the buffer.
        turn_row, rows, valids = Signal(20), [], []
        m.d.comb += turn_row.eq(row + (pair << 1))
        for i in range(together):
            left = Mux(last_of[bank] & ((here >> i) == 1), BLOCK_ROWS - field(word, MATMUL, "spare"), BLOCK_ROWS)
            rows.append((turn_row + BLOCK_ROWS * i)[:20])
            valids.append([draining & here[i] & (Cat(Const(odd, 1), pair) < left) for odd in range(2)])
        address = Signal(ELEMENT_ADDRESS_BITS)
        m.d.comb += [
            address.eq(base[self.slot] + Mux(gated, turn_row >> 1, turn_row)),
            self.read_address.eq(address),
            self.read_enable.eq(draining & (kind == Epilogue.RESIDUAL)),
        ]
        m.submodules.rope = rope = Memory(shape=64, depth=machine.tokens * LARGEST_HALF_HEAD, init=[])
        rope_write = rope.write_port(granularity=32)
        m.d.comb += [
            rope_write.addr.eq(self.rope_slot * LARGEST_HALF_HEAD + self.rope_word[1:]),
            rope_write.data.eq(Cat(self.rope_data, self.rope_data)),
            rope_write.en.eq(Mux(self.rope_enable, Mux(self.rope_word[0], 2, 1), 0)),
        ]

        # Stages 1 and 2: select the ports, register, finish
        scale = Mux(field(word, MATMUL, "norm"), self.inverse_rms.word_select(delay(m, self.slot, 2, "slot"), 32), ONE)
        at_end = self.LATENCY
        turn_1, lane_1 = delay(m, turn, 1, "turn"), delay(m, lane_of(machine, address), 1, "lane")
        results: list[tuple[Value, Value]] = []
        saturated = []
        for i in range(together):
            m.submodules[f"finish_{i}"] = finish = Finish()
            rope_read = rope.read_port()
            m.d.comb += [
                rope_read.addr.eq(self.slot * LARGEST_HALF_HEAD + wrapped(heads[i] + pair)),
                finish.kind.eq(kind),
                finish.activation.eq(self.activation),
                finish.parameter.eq(self.parameter),
                finish.scale.eq(scale),
                finish.valid.eq(delay_valid(m, valids[i][0], 2, f"valid_{i}")),
                finish.rotate.eq(delay(m, (kind == Epilogue.ROPE) & (rows[i] < field(word, MATMUL, "aux")), 2, f"rotate_{i}")),
                finish.cos.eq(delay(m, rope_read.data[:32], 1, f"cos_{i}")),
                finish.sin.eq(delay(m, rope_read.data[32:], 1, f"sin_{i}")),
            ]
            for name, drained in (("even", self.drain_even), ("odd", self.drain_odd)):
                of_turns = Cat(drained.word_select(i + together * t, 32) for t in range(machine.ports // together))
                m.d.sync += getattr(finish, name).eq(of_turns.word_select(turn_1, 32))
                lane = (lane_1 + BLOCK_ROWS * i + (name == "odd"))[: len(lane_1)]
                m.d.sync += getattr(finish, f"residual_{name}").eq(self.read_data.word_select(lane, 32))
            results.append((finish.result_even, finish.result_odd))
            saturated.append(finish.saturated)

        # Written: lane k holds a row of its own, or one gated pair
        stores = kind != Epilogue.NONE
        address_end, slot_end = delay(m, address, at_end, "address"), delay(m, self.slot, at_end, "slot_end")
        valid_end = [[delay_valid(m, v, at_end, f"valid_end_{i}") for v in both] for i, both in enumerate(valids)]
        first_lane = lane_of(machine, address_end)
        lanes = machine.vector_lanes
        data: list[Value] = []
        for k in range(lanes):
            plain, half = results[k // BLOCK_ROWS % together][k % 2], results[k // (BLOCK_ROWS // 2) % together][0]
            data.append(Mux(gated, half, plain))
        enables: list[Value] = []
        for i, (even, odd) in enumerate(valid_end):
            offset = Mux(gated, BLOCK_ROWS // 2 * i, BLOCK_ROWS * i)
            enables.append((Cat(even, odd & ~gated) << (first_lane + offset)[: len(first_lane)])[:lanes])
        m.d.comb += [
            self.write_valid.eq(stores & Cat(v for both in valid_end for v in both).any()),
            self.write.address.eq(address_end),
            self.write.slot.eq(slot_end),
            self.write.data.eq(Cat(data)),
            self.write.enable.eq(tree(enables, lambda a, b: a | b)),
            self.saturated.eq(Cat(saturated).any()),
        ]

        # Argmax of the chunk's last slot; both zeros are one number, ties keep the lower row.
        first_row = Mux(field(word, MATMUL, "argmax"), field(word, MATMUL, "aux") << 3, 0)
        token_rows = [[Signal(32, name=f"token_row_{i}_{odd}") for odd in range(2)] for i in range(together)]
        entries = Signal(64)
        candidates: list[Value] = []
        for i, (both, shown) in enumerate(zip(results, valid_end, strict=True)):
            row_end = delay(m, rows[i], at_end, f"row_{i}")
            for odd, (result, valid) in enumerate(zip(both, shown, strict=True)):
                m.d.comb += token_rows[i][odd].eq(row_end + first_row + odd)
                key = Mux(result[:31] == 0, 1 << 31, Mux(result[31], ~result, result | (1 << 31)))[:32]
                candidates.append(Cat(token_rows[i][odd], Mux(valid, key, 0)))
        m.d.comb += entries.eq(tree(candidates, lambda a, b: Mux(b[32:] > a[32:], b, a)))
        best = Signal(32)
        with m.If(self.chunk):
            m.d.sync += best.eq(0)
        with m.Elif(field(word, MATMUL, "argmax") & (slot_end == self.last_slot) & (entries[32:] > best)):
            m.d.sync += [best.eq(entries[32:]), self.best_token.eq(entries[:32])]
        # Signature
        m.submodules.writes = writes = Signature(2 * together)
        m.d.comb += [writes.clear.eq(self.start), self.digest.eq(writes.total)]
        for i, (both, shown) in enumerate(zip(results, valid_end, strict=True)):
            offset = Mux(gated, BLOCK_ROWS // 2 * i, BLOCK_ROWS * i)
            for odd, (result, valid) in enumerate(zip(both, shown, strict=True)):
                k = 2 * i + odd
                m.d.comb += [
                    writes.valid[k].eq(valid & ~(gated & odd)),
                    writes.where[k].eq(
                        Mux(
                            stores,
                            (address_end + offset + odd)[:ELEMENT_ADDRESS_BITS],
                            token_rows[i][odd] | Cat(Const(0, 20), slot_end),
                        )
                    ),
                    writes.value[k].eq(result),
                ]
        # Done, by way of the aligner where it has work
        settle = Signal(range(at_end + Signature.LATENCY + 2))
        empty = self.finished & (field(word, MATMUL, "rounds") == 0)
        settled = settle == at_end + Signature.LATENCY
        aligning = (field(word, MATMUL, "align") != AlignTarget.NONE) & (field(word, MATMUL, "rounds") != 0)
        with m.If(self.start):
            m.d.sync += settle.eq(0)
        with m.Elif(self.active & (finished_walk | empty)):
            m.d.comb += [self.finish.eq(aligning & settled), self.done.eq(settled & Mux(aligning, self.aligned, 1))]
            with m.If(~settled):
                m.d.sync += settle.eq(settle + 1)
            with m.If(self.done):
                m.d.sync += [settle.eq(0), finished_walk.eq(0)]
        return m
