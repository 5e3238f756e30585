"""Drains the accumulators, finishes the results and writes them; the argmax."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, registered, tree
from hw.arithmetic.signature import Signature
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.library import Library
from hw.memory.buffer import BufferRead, WordWrite, lane_of
from hw.pe.argmax import Argmax
from hw.pe.drain import PAIRS, Drain
from hw.pe.finish import ONE, Finish
from hw.pe.rotary import RotaryMemory, RotaryWrite
from hw.pe.rounds import Rounds
from hw.pe.slices import slice_of
from hw.widths import ELEMENT_BITS, OUTPUT_BITS
from skipopu.isa.spec import BLOCK_ROWS, BUFFER_UNIT, MATMUL, AlignTarget, Epilogue
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.signature import SLOT_SHIFT


class EpilogueUnit(Component):
    """Takes ``drain_pairs`` pairs of rows of ``drain_ports`` ports at a time from the accumulators to the buffer.

    Latency: LATENCY cycles from ``drain_address`` to the results, WRITTEN to ``write``; WRITTEN + 1 from the product's last pair to ``finish``,
    LATENCY + pipeline.results_known + 1 to ``done``. Throughput: those per cycle.
    """

    LATENCY, WRITTEN = pipeline.EPILOGUE, pipeline.RESULT_WRITTEN

    def __init__(self, machine: Machine, library: Library | None = None) -> None:
        self.machine, self.library = machine, library
        slot = bits_for_index(machine.tokens)
        address = slice_of(machine).drain_address_bits(machine)
        self.active = given(1, "the product is under way, from the cycle after its start")
        self.start = given(1, "for one cycle: it begins")
        self.instruction = given(Issue(machine), "its MATMUL")
        self.token_count = given(count_shape(machine.tokens), "listed tokens")
        self.token = gives(slot, "place in their list of the token that is drained")
        self.slot = given(slot, "that token's slot")
        self.finished = given(1, "the sequencer has no more rounds")
        self.round = given(Rounds(machine), "from the sequencer", "round_{}")
        self.drained = gives(1, "for one cycle: a round's last pair is taken")
        self.drained_bank = gives(1, "the bank that is drained")
        self.drain_address = gives(address, "accumulators to read, of all slices")
        self.drain_even = given(32 * machine.ports * machine.drain_pairs, "sums of the even rows, per port, a cycle later")
        self.drain_odd = given(32 * machine.ports * machine.drain_pairs, "sums of the odd rows")
        self.inverse_rms = given(32 * machine.tokens, "1/rms of each slot, FP32")
        self.half_head = given(8, "half of head_dim")
        self.activation = given(3, "function of gated pairs, an Activation")
        self.parameter = given(32, "its parameter, FP32")
        self.rotary = given(RotaryWrite(machine), "write port of the rotary memory", "rope_{}")
        self.read = gives(BufferRead(machine), "a port of the buffer, for the residual", "read_{}")
        self.write_valid = gives(1, "a word is written, and accepted")
        self.write = gives(WordWrite(machine), "that word, to the buffer")
        self.pause = given(1, "no more pairs for now")
        self.chunk = given(1, "a new chunk begins: forget the largest")
        self.best_slot = given(slot, "slot whose largest result is wanted")
        self.best_token = gives(32, "row of that slot's largest result in the chunk")
        self.finish = gives(1, "level: everything is written, the aligner may close")
        self.aligning = gives(1, "the instruction's results are aligned too; stable until it is done")
        self.aligned = given(1, "the aligner is done")
        self.done = gives(1, "for one cycle: the product is done")
        self.digest = gives(32, "with done: signature of the results, without the aligner's share")
        self.draining = gives(1, "a pair is taken")
        self.saturated = gives(1, "a result was too large for FP32")
        super().__init__()
        # Which results are rows is worked out so many cycles later, where there is a bank's round to be looked up before.
        self.late = int(machine.stationary)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, together, pairs = self.machine, self.machine.drain_ports, self.machine.drain_pairs
        # The instruction stands from before its start until it is done.
        word = self.instruction.word
        self._own = {f.name: registered(m, field(word, MATMUL, f.name), f"own_{f.name}") for f in MATMUL.fields[1:]}
        kind = field(word, MATMUL, "epilogue")
        aligning = (field(word, MATMUL, "align") != AlignTarget.NONE) & (field(word, MATMUL, "rounds") != 0)
        m.d.sync += self.aligning.eq(aligning)
        self._gated, self._stores, self._nothing = (
            registered(m, condition, name)
            for name, condition in (
                ("gated", kind == Epilogue.GATED),
                ("stores", kind != Epilogue.NONE),
                ("nothing", field(word, MATMUL, "rounds") == 0),
            )
        )
        m.submodules.drain = drain = Drain(machine)
        connect(m, flipped(self.round), drain.round)
        m.d.comb += [
            drain.start.eq(self.start),
            drain.token_count.eq(self.token_count),
            drain.half_head.eq(self.half_head),
            drain.pause.eq(self.pause),
            drain.done.eq(self.done),
            self.token.eq(drain.token),
            self.draining.eq(drain.draining),
            self.drained.eq(drain.drained),
            self.drained_bank.eq(drain.bank),
            self.drain_address.eq(
                Cat(drain.token, drain.pair[(pairs - 1).bit_length() :], drain.within, drain.bank)
                if machine.stationary
                else Cat(drain.token, drain.pair, drain.bank)
            ),
        ]
        # What is taken: two results of each port. All blocks of a turn lie in one word of the buffer.
        rows, valids = [], []
        late = self.late
        draining = delay_valid(m, drain.draining, late, "taken_draining")
        last, blocks, pair = (delay(m, value, late, f"taken_{value.name}") for value in (drain.last, drain.blocks, drain.pair))
        for i in range(together):
            left = Mux(last & ((blocks >> i) == 1), BLOCK_ROWS - self._field("spare"), BLOCK_ROWS)
            rows += [(drain.row + (BLOCK_ROWS * i + 2 * j))[:OUTPUT_BITS] for j in range(pairs)]
            for j in range(pairs):
                first = pair if pairs == 1 else (pair + j)[: len(pair)]
                valids += [draining & blocks[i] & (Cat(Const(odd, 1), first) < left) for odd in range(2)]
        address = Signal(ELEMENT_BITS)
        m.d.comb += [
            address.eq(self._base(m) + Mux(self._gated, drain.row >> 1, drain.row)),
            self.read.address.eq(address),
            self.read.enable.eq(drain.draining & (self._field("epilogue") == Epilogue.RESIDUAL)),
        ]
        results = self._finished(m, drain, rows, valids, delay(m, lane_of(machine, address), 1, "lane"))
        at_end = self.LATENCY
        valid_end = [delay_valid(m, valid, at_end - late, f"valid_end_{k}") for k, valid in enumerate(valids)]
        address_end, slot_end = delay(m, address, at_end, "address"), delay(m, self.slot, at_end, "slot_end")
        self._write(m, address_end, slot_end, valid_end, results)
        # Numbers of the rows among all that the argmax compares
        first = Mux(self._field("argmax"), self._field("aux") << 3, 0)
        row_end = [delay(m, row, at_end, f"row_{i}") for i, row in enumerate(rows)]
        numbers = [Signal(32, name=f"number_{k}") for k in range(2 * together * pairs)]
        m.d.comb += [number.eq(row_end[k // 2] + first + k % 2) for k, number in enumerate(numbers)]
        m.submodules.argmax = argmax = Argmax(2 * together * pairs, machine.tokens)
        m.d.comb += [
            argmax.clear.eq(self.chunk),
            argmax.enable.eq(self._field("argmax")),
            argmax.slot.eq(slot_end),
            argmax.asked.eq(self.best_slot),
            self.best_token.eq(argmax.best),
            *(port.eq(valid) for port, valid in zip(argmax.valid, valid_end, strict=True)),
            *(port.eq(number) for port, number in zip(argmax.row, numbers, strict=True)),
            *(port.eq(result) for port, result in zip(argmax.result, results, strict=True)),
        ]
        m.submodules.writes = writes = Signature(2 * together * pairs)
        m.d.comb += [writes.clear.eq(self.start), self.digest.eq(writes.total)]
        for k, (result, valid, number) in enumerate(zip(results, valid_end, numbers, strict=True)):
            first = address_end + self._offset(k // 2 // pairs)
            stored = ((first if pairs == 1 else first + self._within(k // 2 % pairs)) + k % 2)[:ELEMENT_BITS]
            m.d.comb += [
                writes.valid[k].eq(valid & ~(self._gated & (k % 2))),
                writes.where[k].eq(Mux(self._stores, stored, number | Cat(Const(0, SLOT_SHIFT), slot_end))),
                writes.value[k].eq(result),
            ]
        self._complete(m, drain.finished)
        return m

    def _field(self, name: str) -> Value:
        return self._own[name]

    def _within(self, pair: int) -> Value:
        """From a block's first result to those of a ``pair`` that is drained with it."""
        return Mux(self._gated, pair, 2 * pair)

    def _offset(self, i: int) -> Value:
        """From a turn's first result to the first one of its port ``i``, in the buffer."""
        return Mux(self._gated, PAIRS * i, BLOCK_ROWS * i)

    def _base(self, m: Module) -> Value:
        """Buffer address of the slot's vector; all are there ``tokens`` cycles after start, before the first round."""
        tokens = self.machine.tokens
        base = Array(Signal(ELEMENT_BITS, name=f"base_{s}") for s in range(tokens))
        setup, running = Signal(range(tokens + 1), init=tokens), Signal(ELEMENT_BITS)
        with m.If(self.start):
            m.d.sync += [setup.eq(0), running.eq(self._field("dst") * BUFFER_UNIT)]
        with m.Elif(setup != tokens):
            m.d.sync += [
                setup.eq(setup + 1),
                base[setup].eq(running),
                running.eq(running + self._field("stride") * BUFFER_UNIT),
            ]
        return base[self.slot]

    def _finished(self, m: Module, drain: Drain, rows: list[Value], valids: list[Value], lane: Value) -> list[Value]:
        """Results of the ports, even and odd in turn, ``LATENCY`` cycles after they were taken: select, register, finish."""
        machine, together = self.machine, self.machine.drain_ports
        kind = self._field("epilogue")
        scale = Mux(self._field("norm"), self.inverse_rms.word_select(delay(m, self.slot, 1, "slot"), 32), ONE)
        scale = registered(m, scale, "scale")
        m.submodules.rotary = rotary = RotaryMemory(machine)
        connect(m, flipped(self.rotary), rotary.write)
        m.d.comb += rotary.slot.eq(self.slot)
        turn = delay(m, drain.turn, 1, "turn")
        results: list[Value] = []
        saturated: list[Value] = []
        pairs = machine.drain_pairs
        for i in range(together * pairs):
            m.submodules[f"finish_{i}"] = finish = self._finish(f"finish_{i}")
            rotated = (kind == Epilogue.ROPE) & (rows[i] < self._field("aux"))
            m.d.comb += [
                *([] if i % pairs else [rotary.pair[i // pairs].eq(drain.rotary[i // pairs])]),
                finish.kind.eq(kind),
                finish.activation.eq(self.activation),
                finish.parameter.eq(self.parameter),
                finish.scale.eq(scale),
                finish.valid.eq(delay_valid(m, valids[2 * i], 2 - self.late, f"valid_{i}")),
                finish.rotate.eq(delay(m, rotated, 2, f"rotate_{i}")),
                finish.cos.eq(delay(m, rotary.cos[i], 1, f"cos_{i}")),
                finish.sin.eq(delay(m, rotary.sin[i], 1, f"sin_{i}")),
            ]
            sums = ((self.drain_even, finish.even, finish.residual_even), (self.drain_odd, finish.odd, finish.residual_odd))
            for odd, (drained, taken, residual) in enumerate(sums):
                of_turns = Cat(drained.word_select(i + together * pairs * t, 32) for t in range(drain.turns))
                own = (lane + (BLOCK_ROWS * (i // pairs) + i % pairs * 2) + odd)[: len(lane)]
                m.d.sync += [taken.eq(of_turns.word_select(turn, 32)), residual.eq(self.read.data.word_select(own, 32))]
            results += [finish.result_even, finish.result_odd]
            saturated.append(finish.saturated)
        m.d.comb += self.saturated.eq(Cat(saturated).any())
        return results

    def _finish(self, name: str) -> Finish:
        """Of a stationary array, which has many of them, a module that they share."""
        machine = self.machine
        if self.library is None or not machine.stationary:
            return Finish(machine.adjust, machine.stationary)
        return self.library.use("finish", lambda: Finish(machine.adjust, machine.stationary), name)

    def _write(self, m: Module, address: Value, slot: Value, valids: list[Value], results: list[Value]) -> None:
        """Lane k of a word holds a row of its own, or one gated pair."""
        machine, together = self.machine, self.machine.drain_ports
        lanes = machine.vector_lanes
        first_lane = lane_of(machine, address)
        data: list[Value] = []
        pairs = machine.drain_pairs
        for k in range(lanes):
            port, half = k // BLOCK_ROWS % together * pairs, k // PAIRS % together * pairs
            row, pair = (port + k % BLOCK_ROWS // 2 % pairs) * 2 + k % 2, (half + k % PAIRS % pairs) * 2
            data.append(Mux(self._gated, results[pair], results[row]))
        enables: list[Value] = []
        for i in range(together):
            own = valids[2 * pairs * i : 2 * pairs * (i + 1)]
            enable = Cat(own[0], own[1] & ~self._gated) if pairs == 1 else Mux(self._gated, Cat(own[0::2]), Cat(own))
            enables.append((enable << (first_lane + self._offset(i))[: len(first_lane)])[:lanes])
        assert self.WRITTEN == self.LATENCY + 1
        m.d.comb += [
            self.write_valid.eq(delay_valid(m, self._stores & Cat(valids).any(), 1, "write_valid")),
            self.write.address.eq(registered(m, address, "write_address")),
            self.write.slot.eq(registered(m, slot, "write_slot")),
            self.write.data.eq(registered(m, Cat(data), "write_data")),
            self.write.enable.eq(registered(m, tree(enables, lambda a, b: a | b), "write_enable")),
        ]

    def _complete(self, m: Module, drained: Value) -> None:
        """Done, by way of the aligner where it has work."""
        last = pipeline.EPILOGUE + pipeline.results_known(self.machine)
        settle = Signal(range(last + 2))
        settled = settle == last
        nothing, aligning = self._nothing, self.aligning
        with m.If(self.start):
            m.d.sync += settle.eq(0)
        with m.Elif(self.active & (drained | (self.finished & nothing))):
            written = settle >= self.WRITTEN
            m.d.comb += [self.finish.eq(aligning & written), self.done.eq(settled & Mux(aligning, self.aligned, 1))]
            with m.If(~settled):
                m.d.sync += settle.eq(settle + 1)
            with m.If(self.done):
                m.d.sync += settle.eq(0)
