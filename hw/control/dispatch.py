"""Program control: loads the program, walks it, and dispatches instructions to the units' queues."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import count_shape, tree
from hw.control.fetch import Fetch
from hw.control.issue import UNITS, Issue, field
from hw.memory.reader import Run
from hw.pe.sequencer import is_short
from skipopu.isa.registers import STATUS_DONE, STATUS_ERROR, STATUS_RUNNING, STATUS_SATURATED, Config, Error
from skipopu.isa.spec import (
    ALIGN,
    ATTEND,
    BY_OPCODE,
    END,
    HALT,
    INSTRUCTIONS,
    KVWRITE,
    LOOP,
    MATMUL,
    NEXT,
    OPCODE_BITS,
    ROUTE,
    SET,
    WORD_BYTES,
    TokenList,
    Unit,
)
from skipopu.isa.spec import CHUNK as CHUNK_INSTRUCTION
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges
from skipopu.numerics.formats import FORMATS, INT8

UNIT_OPCODES = {unit: [i.opcode for i in INSTRUCTIONS if i.unit == unit.name.lower()] for unit in Unit}


class Dispatcher(Component):
    """Executes control instructions itself; hands the others over with the state they depend on.

    An instruction that works on a routed list waits until the routing decision is known, so weights are requested up to the
    next decision and never for a skipped module. SET, NEXT and HALT wait until everything is idle.

    Members: host registers (start, program, program_length, prompt_length, max_new; in); runs, beats (loader of port 0, while
    ``loading``); issue_u (out streams), fetch (out stream); units_idle, records_idle (in); route_done, attention, ffn (in);
    token (in: argmax), token_address, token_start (out), token_done (in); chunk (out: a new chunk starts, one cycle),
    last_slot (out); row_start, next_row, row_end (out: a layer begins, its row of the KV map; its attention was dispatched), attention_quiet
    (in: nothing is being fetched ahead); restart (out: a run starts); config (out, 32 bits per configuration register); fault, fault_code, fault_pc
    (in: a unit's error); stop (out: an error halts the machine), ports_quiet (in: then, memory owes no answer); status and counters
    (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                **{f"issue_{u}": Out(stream.Signature(Issue(machine))) for u in range(UNITS)},
                "fetch": Out(stream.Signature(Fetch())),
                "start": In(1),
                "clear": In(1),
                "program": In(32),
                "program_length": In(32),
                "prompt_length": In(32),
                "max_new": In(32),
                "runs": Out(stream.Signature(Run(machine))),
                "beats": In(stream.Signature(machine.port_bits)),
                "loading": Out(1),
                "units_idle": In(1),
                "route_done": In(1),
                "attention": In(machine.tokens),
                "ffn": In(machine.tokens),
                "token": In(32),
                "token_address": Out(40),
                "token_start": Out(1),
                "token_done": In(1),
                "chunk": Out(1),
                "last_slot": Out(count_shape(machine.tokens)),
                "restart": Out(1),
                "config": Out(32 * len(Config)),
                "saturated": In(1),
                "fault": In(1),
                "fault_code": In(8),
                "fault_pc": In(12),
                "status": Out(32),
                "error": Out(32),
                "error_pc": Out(32),
                "pc": Out(12),
                "generated": Out(32),
                "position": Out(32),
                "retired": Out(32),
                "executed_attention": Out(64),
                "executed_ffn": Out(64),
                "wait_route": Out(1),
                "attention_quiet": In(1),
                "row_start": Out(1),
                "row_end": Out(1),
                "next_row": Out(24),
                "running": Out(1),
                "stop": Out(1),
                "ports_quiet": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, tokens = self.machine, self.machine.tokens
        beat_shift = (machine.beat_bytes - 1).bit_length()
        m.submodules.memory = memory = Memory(shape=8 * WORD_BYTES, depth=machine.instructions, init=[])
        write, read = memory.write_port(), memory.read_port()
        config = Array(Signal(32, name=f"config_{c.name.lower()}") for c in Config)
        m.d.comb += self.config.eq(Cat(config))

        pc, behind_next = Signal(13), Signal(13)  # one beyond the longest program
        word = Signal(8 * WORD_BYTES)
        m.d.comb += [read.addr.eq(pc), self.pc.eq(pc)]
        opcode = word[:OPCODE_BITS]
        count = Signal(count_shape(tokens))
        attention, ffn = Signal(tokens), Signal(tokens)
        route_pending = Signal()
        layer, layers, loop_start = Signal(12), Signal(12), Signal(13)
        layer_base, advance = Signal(32), Signal(28)
        map_row, trace_row = Signal(24), Signal(32)
        done, failed, sticky, running = Signal(), Signal(), Signal(), Signal()
        position = self.position
        m.d.comb += [
            self.running.eq(running),
            self.stop.eq(failed),
            self.status.eq(
                Mux(running, STATUS_RUNNING, 0)
                | Mux(done, STATUS_DONE, 0)
                | Mux(failed & ~running, STATUS_ERROR, 0)
                | Mux(sticky, STATUS_SATURATED, 0)
            ),
            self.last_slot.eq(count - 1),
        ]
        with m.If(self.saturated & running):
            m.d.sync += sticky.eq(1)

        def fail(code: Error, at: Value = pc) -> None:
            with m.If(~failed):
                m.d.sync += [failed.eq(1), self.error.eq(code), self.error_pc.eq(at)]
            m.next = "STOPPED"

        # Token lists
        every = Signal(tokens)
        m.d.comb += every.eq((Const(1, tokens + 1) << count) - 1)
        is_last = position + count >= self.prompt_length
        token_list = field(word, MATMUL, "list")
        mask = Signal(tokens)
        with m.Switch(token_list):
            with m.Case(TokenList.ALL):
                m.d.comb += mask.eq(every)
            with m.Case(TokenList.ATTENTION):
                m.d.comb += mask.eq(attention)
            with m.Case(TokenList.FFN):
                m.d.comb += mask.eq(ffn)
            with m.Case(TokenList.LAST):
                m.d.comb += mask.eq(Mux(is_last, Const(1, tokens + 1) << self.last_slot, 0))
        with m.If(self.route_done):
            m.d.sync += [
                attention.eq(self.attention),
                ffn.eq(self.ffn),
                route_pending.eq(0),
                self.executed_attention.eq(self.executed_attention + popcount(self.attention)),
                self.executed_ffn.eq(self.executed_ffn + popcount(self.ffn)),
            ]

        # What goes to the units
        entries = Signal(16)
        issue = Issue(machine)(Signal(Issue(machine).size, name="issue_payload"))
        layered = field(word, MATMUL, "layered")
        empty = (mask == 0) & (opcode != KVWRITE.opcode)
        m.d.comb += [
            issue.word.eq(word),
            issue.mask.eq(mask),
            issue.address.eq(field(word, MATMUL, "address") + Mux(layered, layer_base, 0)),
            issue.position.eq(position),
            issue.count.eq(count),
            issue.map_row.eq(map_row),
            issue.trace_row.eq(trace_row),
            issue.first_layer.eq(layer == 0),
            issue.empty.eq(empty),
            issue.pc.eq(pc),
            issue.sequence.eq(self.retired),
            issue.entries.eq(entries),
            self.fetch.payload.address.eq(issue.address),
            self.fetch.payload.rounds.eq(field(word, MATMUL, "rounds")),
            self.fetch.payload.ports.eq(field(word, MATMUL, "ports")),
            self.fetch.payload.groups.eq(field(word, MATMUL, "groups")),
            self.fetch.payload.short.eq(is_short(word)),
            self.fetch.payload.wide.eq(field(word, MATMUL, "format") == INT8.code),
        ]
        ready = Signal(UNITS)
        unit_of = Signal(UNITS)
        for unit in Unit:
            port = getattr(self, f"issue_{unit.value}")
            m.d.comb += [port.payload.eq(issue), ready[unit].eq(port.ready)]
            with m.Switch(opcode):
                with m.Case(*UNIT_OPCODES[unit]):
                    m.d.comb += unit_of[unit].eq(1)
        is_matmul = opcode == MATMUL.opcode
        needs_fetch = is_matmul & (mask != 0) & (field(word, MATMUL, "rounds") != 0)
        routed = (token_list == TokenList.ATTENTION) | (token_list == TokenList.FFN)

        load_left, load_piece = Signal(13), Signal(4)
        pieces = 8 * WORD_BYTES // min(machine.port_bits, 8 * WORD_BYTES)  # beats per word
        words_per_beat = max(1, machine.port_bits // (8 * WORD_BYTES))
        load_word = Signal(8 * WORD_BYTES)
        load_pc = Signal(12)
        m.d.comb += [
            self.runs.payload.beat.eq(self.program << (6 - beat_shift)),
            self.runs.payload.count.eq(
                (self.program_length * pieces + (words_per_beat - 1)) >> (words_per_beat.bit_length() - 1)
            ),
            write.addr.eq(load_pc),
        ]
        tokens_address = Signal(40)
        m.d.comb += [
            tokens_address.eq((config[Config.TOKENS] << 6) + (position << 2)),
            self.token_address.eq(tokens_address),
        ]
        with m.FSM():
            with m.State("STOPPED"):
                with m.If(self.clear):
                    m.d.sync += [done.eq(0), sticky.eq(0)]
                with m.If(self.start & ~failed):
                    m.d.comb += self.restart.eq(1)
                    m.d.sync += [
                        running.eq(1),
                        done.eq(0),
                        sticky.eq(0),
                        self.error.eq(0),
                        self.generated.eq(0),
                        position.eq(0),
                        self.retired.eq(0),
                        self.executed_attention.eq(0),
                        self.executed_ffn.eq(0),
                        pc.eq(0),
                        load_pc.eq(0),
                        load_piece.eq(0),
                        load_left.eq(self.program_length),
                        layer.eq(0),
                        layer_base.eq(0),
                        map_row.eq(0),
                        count.eq(0),
                        route_pending.eq(0),
                        entries.eq(0),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [self.loading.eq(1), self.runs.valid.eq(1)]
                with m.If((self.program_length == 0) | (self.program_length > machine.instructions)):
                    m.d.comb += self.runs.valid.eq(0)
                    fail(Error.PROGRAM_RANGE)
                with m.Elif(self.runs.ready):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.loading.eq(1)
                with m.If(self.beats.valid):
                    if pieces == 1:
                        m.d.comb += write.data.eq(
                            self.beats.payload.word_select(load_piece[: max(1, words_per_beat.bit_length() - 1)], 128)
                        )
                        m.d.comb += write.en.eq(load_left != 0)
                        last = load_piece == words_per_beat - 1
                        m.d.comb += self.beats.ready.eq(last | (load_left == 1))
                        m.d.sync += [
                            load_piece.eq(Mux(last, 0, load_piece + 1)),
                            load_pc.eq(load_pc + 1),
                            load_left.eq(load_left - 1),
                        ]
                        with m.If(load_left == 1):
                            m.next = "READ"
                    else:
                        joined = Cat(load_word[machine.port_bits :], self.beats.payload)
                        m.d.comb += [self.beats.ready.eq(1), write.data.eq(joined)]
                        m.d.sync += [load_word.eq(joined), load_piece.eq(load_piece + 1)]
                        with m.If(load_piece == pieces - 1):
                            m.d.comb += write.en.eq(1)
                            m.d.sync += [load_piece.eq(0), load_pc.eq(load_pc + 1), load_left.eq(load_left - 1)]
                            with m.If(load_left == 1):
                                m.next = "READ"
            with m.State("READ"):
                m.next = "WORD"
                with m.If(failed):
                    m.next = "STOPPED"
                with m.Elif(pc >= self.program_length):
                    fail(Error.PROGRAM_RANGE)
            with m.State("WORD"):
                m.d.sync += word.eq(read.data)
                m.next = "DECODE"
            with m.State("DECODE"):
                m.next = "READ"
                m.d.sync += pc.eq(pc + 1)
                with m.Switch(opcode):
                    with m.Case(SET.opcode):
                        with m.If(self.units_idle):
                            register, value = field(word, SET, "register"), field(word, SET, "value")
                            m.d.sync += config[register].eq(value)
                            for illegal in self._illegal(register, value):
                                with m.If(illegal):
                                    fail(Error.CONFIGURATION)
                        with m.Else():
                            m.d.sync += pc.eq(pc)
                            m.next = "DECODE"
                    with m.Case(CHUNK_INSTRUCTION.opcode):
                        left = Signal(32)
                        m.d.comb += left.eq(self.prompt_length - position)
                        with m.If(position >= self.prompt_length):
                            m.d.sync += count.eq(1)
                        with m.Elif(left < tokens):
                            m.d.sync += count.eq(left)
                        with m.Else():
                            m.d.sync += count.eq(tokens)
                        m.d.comb += self.chunk.eq(1)
                        m.next = "CHUNK"
                    with m.Case(LOOP.opcode):
                        m.d.sync += [
                            layers.eq(field(word, LOOP, "count")),
                            advance.eq(field(word, LOOP, "advance")),
                            loop_start.eq(pc + 1),
                            layer.eq(0),
                            layer_base.eq(0),
                            map_row.eq(0),
                            trace_row.eq(config[Config.TRACE]),
                        ]
                        m.d.comb += self.row_start.eq(1)
                    with m.Case(END.opcode):
                        with m.If(layer + 1 < layers):
                            m.d.sync += pc.eq(loop_start)
                            m.d.comb += [self.row_start.eq(1), self.next_row.eq(map_row + config[Config.CONTEXT])]
                        m.d.sync += [
                            layer.eq(layer + 1),
                            layer_base.eq(layer_base + advance),
                            map_row.eq(map_row + config[Config.CONTEXT]),
                            trace_row.eq(trace_row + config[Config.TRACE_ROW]),
                        ]
                    with m.Case(NEXT.opcode):
                        with m.If(self.units_idle):
                            m.d.sync += [position.eq(position + count), pc.eq(field(word, NEXT, "target"))]
                            with m.If(is_last):
                                with m.If(self.generated >= self.max_new):
                                    m.d.sync += pc.eq(pc + 1)
                                with m.Else():
                                    m.d.sync += behind_next.eq(pc + 1)
                                    m.next = "TOKEN"
                        with m.Else():
                            m.d.sync += pc.eq(pc)
                            m.next = "DECODE"
                    with m.Case(HALT.opcode):
                        m.d.sync += pc.eq(pc)
                        m.next = "DECODE"
                        with m.If(self.units_idle & self.attention_quiet & ~failed):
                            m.d.sync += [running.eq(0), done.eq(1)]
                            m.next = "STOPPED"
                    with m.Case(*[code for codes in UNIT_OPCODES.values() for code in codes]):
                        # One decision at a time: a second ROUTE would clear the first one's mark too early.
                        wait = (routed | (opcode == ROUTE.opcode)) & route_pending
                        m.d.comb += self.wait_route.eq(wait)
                        activations = Signal(21)
                        inner = Mux(field(word, MATMUL, "source"), config[Config.INNER][:20], 0)
                        m.d.comb += activations.eq(field(word, MATMUL, "groups") * config[Config.GROUP][:10] + inner)
                        too_long = activations > machine.activation
                        with m.If(is_matmul & (field(word, MATMUL, "format") >= len(FORMATS)) & ~wait):
                            fail(Error.ILLEGAL_INSTRUCTION)
                        with m.Elif(is_matmul & too_long & ~wait):
                            fail(Error.BUFFER_RANGE)
                        with m.Elif(~wait & (unit_of & ~ready == 0) & (~needs_fetch | self.fetch.ready)):
                            m.d.comb += self.fetch.valid.eq(needs_fetch)
                            for unit in Unit:
                                m.d.comb += getattr(self, f"issue_{unit.value}").valid.eq(unit_of[unit])
                            m.d.comb += self.row_end.eq(opcode == ATTEND.opcode)
                            m.d.sync += entries.eq(entries + (opcode == KVWRITE.opcode))
                            m.d.sync += self.retired.eq(self.retired + 1)
                            with m.If((opcode == ROUTE.opcode) & (mask != 0)):
                                m.d.sync += route_pending.eq(1)
                        with m.Else():
                            m.d.sync += pc.eq(pc)
                            m.next = "DECODE"
                    with m.Default():
                        m.d.sync += pc.eq(pc)
                        fail(Error.ILLEGAL_INSTRUCTION)
                with m.If(failed):
                    m.next = "STOPPED"
            with m.State("CHUNK"):
                m.d.sync += [attention.eq(every), ffn.eq(every)]
                m.next = "READ"
                with m.If(position + count > config[Config.CONTEXT]):
                    fail(Error.CONTEXT_FULL, pc - 1)
            with m.State("TOKEN"):
                m.d.comb += self.token_start.eq(1)
                m.next = "TOKEN WRITTEN"
            with m.State("TOKEN WRITTEN"):
                with m.If(self.token_done):
                    m.d.sync += self.generated.eq(self.generated + 1)
                    ends = Cat(self.token == config[Config.EOS0 + k] for k in range(4)).any()
                    with m.If(ends | (self.generated + 1 >= self.max_new)):
                        m.d.sync += pc.eq(behind_next)
                    m.next = "READ"
        # Faults of the units override everything.
        with m.If(self.fault & running & ~failed):
            m.d.sync += [failed.eq(1), self.error.eq(self.fault_code), self.error_pc.eq(self.fault_pc)]
        with m.If(failed & self.ports_quiet):
            m.d.sync += running.eq(0)
        return m

    def _illegal(self, register: object, value: Signal) -> list:
        return [
            (register == number)
            & ((value < allowed.least) | (value > allowed.most) | (value[: allowed.step.bit_length() - 1] != 0))
            for number, allowed in ranges(self.machine).items()
        ]


def popcount(value: Signal) -> Signal:
    return tree([value[i] for i in range(len(value))], lambda a, b: a + b)


assert ALIGN.offsets["list"] == MATMUL.offsets["list"]
assert len(BY_OPCODE) == len(INSTRUCTIONS)
