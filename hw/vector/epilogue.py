"""Drains the accumulators, finishes the results and writes them; the argmax."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, tree
from hw.arithmetic.signature import Signature
from hw.component import Bundle, Component, given, gives
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite, lane_of
from hw.pe.slice import Slice
from hw.vector.finish import ONE, Finish
from hw.vector.load import RotaryWrite
from hw.vector.unit import BufferRead
from skipopu.isa.spec import BLOCK_ROWS, BUFFER_UNIT, MATMUL, AlignTarget, Epilogue
from skipopu.machine.config import Machine

LARGEST_HALF_HEAD = 128


class Round(Bundle):
    """A round of blocks whose sums are complete, seen from the sequencer."""

    def __init__(self, machine: Machine) -> None:
        self.done = gives(1, "for one cycle: a round is complete")
        self.bank = gives(1, "bank of the accumulators that hold it")
        self.ports = gives(machine.ports, "ports that have a block in it")
        self.last = gives(1, "it is the product's last")
        super().__init__()


class EpilogueUnit(Component):
    """Takes a pair of rows of ``drain_ports`` ports at a time from the accumulators to the buffer.

    Latency: LATENCY cycles from ``drain_address`` to ``write``; LATENCY + Signature.LATENCY + 1 from the product's last pair to
    ``finish`` or ``done``. Throughput: a pair of rows of ``drain_ports`` ports per cycle.
    """

    LATENCY = 2 + Finish.LATENCY

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        address = Slice.drain_address_bits(machine)
        self.active = given(1, "the product is under way")
        self.start = given(1, "for one cycle: it begins")
        self.instruction = given(Issue(machine), "its MATMUL")
        self.token_count = given(count_shape(machine.tokens), "listed tokens")
        self.token = gives(slot, "place in their list of the token that is drained")
        self.slot = given(slot, "that token's slot")
        self.finished = given(1, "the sequencer has no more rounds")
        self.round = given(Round(machine), "from the sequencer", "round_{}")
        self.drained = gives(1, "for one cycle: a round's last pair is taken")
        self.drained_bank = gives(1, "the bank that is drained")
        self.drain_address = gives(address, "accumulators to read, of all slices")
        self.drain_even = given(32 * machine.ports, "sums of the even row, per port, a cycle later")
        self.drain_odd = given(32 * machine.ports, "sums of the odd row")
        self.inverse_rms = given(32 * machine.tokens, "1/rms of each slot, FP32")
        self.half_head = given(8, "half of head_dim")
        self.activation = given(3, "an Activation")
        self.parameter = given(32, "its parameter, FP32")
        self.rotary = given(RotaryWrite(machine), "write port of the rotary memory", "rope_{}")
        self.read = gives(BufferRead(machine), "a port of the buffer, for the residual", "read_{}")
        self.write_valid = gives(1, "a word is written, and accepted")
        self.write = gives(WordWrite(machine), "that word, to the buffer")
        self.pause = given(1, "no more pairs for now")
        self.last_slot = given(slot, "slot whose largest result is wanted")
        self.chunk = given(1, "a new chunk begins: forget the largest")
        self.best_token = gives(32, "row of the chunk's largest result")
        self.finish = gives(1, "level: everything is written, the aligner may close")
        self.aligned = given(1, "the aligner is done")
        self.done = gives(1, "for one cycle: the product is done")
        self.digest = gives(32, "with done: signature of the results, without the aligner's share")
        self.draining = gives(1, "a pair is taken")
        self.saturated = gives(1, "a result was too large for FP32")
        super().__init__()

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
        with m.If(self.round.done):
            m.d.sync += [
                waiting.bit_select(self.round.bank, 1).eq(1),
                ports_of[self.round.bank].eq(self.round.ports),
                last_of[self.round.bank].eq(self.round.last),
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
            self.read.address.eq(address),
            self.read.enable.eq(draining & (kind == Epilogue.RESIDUAL)),
        ]
        m.submodules.rope = rope = Memory(shape=64, depth=machine.tokens * LARGEST_HALF_HEAD, init=[])
        rope_write = rope.write_port(granularity=32)
        m.d.comb += [
            rope_write.addr.eq(self.rotary.slot * LARGEST_HALF_HEAD + self.rotary.word[1:]),
            rope_write.data.eq(Cat(self.rotary.data, self.rotary.data)),
            rope_write.en.eq(Mux(self.rotary.enable, Mux(self.rotary.word[0], 2, 1), 0)),
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
            for odd, (drained, given_sum, residual) in enumerate(
                (
                    (self.drain_even, finish.even, finish.residual_even),
                    (self.drain_odd, finish.odd, finish.residual_odd),
                )
            ):
                of_turns = Cat(drained.word_select(i + together * t, 32) for t in range(machine.ports // together))
                m.d.sync += given_sum.eq(of_turns.word_select(turn_1, 32))
                lane = (lane_1 + BLOCK_ROWS * i + odd)[: len(lane_1)]
                m.d.sync += residual.eq(self.read.data.word_select(lane, 32))
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
