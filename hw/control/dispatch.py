"""Program control: loads the program, walks it, and dispatches instructions to the units' queues."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import count_shape, tree
from hw.component import Component, given, gives
from hw.control.host import RunRequest, RunState
from hw.control.issue import UNITS, Issue, field
from hw.control.lists import Routed
from hw.control.record import TokenWrite
from hw.control.weights import WeightRequest
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
    WeightFormat,
)
from skipopu.isa.spec import CHUNK as CHUNK_INSTRUCTION
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges

UNIT_OPCODES = {unit: [i.opcode for i in INSTRUCTIONS if i.unit == unit.name.lower()] for unit in Unit}


class Dispatcher(Component):
    """Executes control instructions itself; hands the others over with the state they depend on.

    An instruction that works on a routed list waits until the routing decision is known, so weights are requested up to the
    next decision and never for a skipped module. SET, NEXT and HALT wait until everything is idle.

    Latency: 3 cycles from an instruction to the next, the last of which executes or hands it over. Throughput: an instruction in 3 cycles,
    and those in which it waits; a loaded word per cycle, or per beats that make one.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.issue = [gives(stream.Signature(Issue(machine)), f"instructions for {u.name.lower()}'s queue") for u in Unit]
        self.fetch = gives(stream.Signature(WeightRequest()), "weights of a product that is handed over")
        self.request = given(RunRequest(), "what the host asks for", "{}")
        self.state = gives(RunState(), "how the run goes", "{}")
        self.runs = gives(stream.Signature(Run(machine)), "where port 0's loader reads the program")
        self.beats = given(stream.Signature(machine.port_bits), "the program")
        self.loading = gives(1, "that loader is the dispatcher's")
        self.units_idle = given(1, "no unit has an instruction, no write is under way")
        self.route_done = given(1, "a routing decision, for a cycle")
        self.routed = given(Routed(machine), "which it is", "{}")
        self.token = given(32, "the argmax token")
        self.write_token = gives(TokenWrite(), "it is written", "token_{}")
        self.chunk = gives(1, "a chunk starts, for a cycle")
        self.last_slot = gives(count_shape(machine.tokens), "its last slot")
        self.restart = gives(1, "a run starts, for a cycle")
        self.config = gives(32 * len(Config), "configuration registers, 32 bits each")
        self.saturated = given(1, "a unit saturated a number")
        self.fault = given(1, "a unit's error")
        self.fault_code = given(8, "which it is")
        self.fault_pc = given(12, "at which instruction")
        self.pc = gives(12, "index of the instruction")
        self.wait_route = gives(1, "it waits for a routing decision")
        self.attention_quiet = given(1, "nothing is being fetched ahead")
        self.row_start = gives(1, "a layer begins, for a cycle")
        self.row_end = gives(1, "its attention was handed over, for a cycle")
        self.next_row = gives(24, "with row_start: its row of the KV map")
        self.running = gives(1, "a run is under way, or memory owes it answers")
        self.stop = gives(1, "an error halts the machine")
        self.ports_quiet = given(1, "memory owes no answer")
        super().__init__()

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
        position = self.state.position
        m.d.comb += [
            self.running.eq(running),
            self.stop.eq(failed),
            self.state.status.eq(
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
                m.d.sync += [failed.eq(1), self.state.error.eq(code), self.state.error_pc.eq(at)]
            m.next = "STOPPED"

        # Token lists
        every = Signal(tokens)
        m.d.comb += every.eq((Const(1, tokens + 1) << count) - 1)
        is_last = position + count >= self.request.prompt_length
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
                attention.eq(self.routed.attention),
                ffn.eq(self.routed.ffn),
                route_pending.eq(0),
                self.state.executed_attention.eq(self.state.executed_attention + popcount(self.routed.attention)),
                self.state.executed_ffn.eq(self.state.executed_ffn + popcount(self.routed.ffn)),
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
            issue.sequence.eq(self.state.retired),
            issue.entries.eq(entries),
            self.fetch.payload.address.eq(issue.address),
            self.fetch.payload.rounds.eq(field(word, MATMUL, "rounds")),
            self.fetch.payload.ports.eq(field(word, MATMUL, "ports")),
            self.fetch.payload.groups.eq(field(word, MATMUL, "groups")),
            self.fetch.payload.short.eq(is_short(word)),
            self.fetch.payload.wide.eq(field(word, MATMUL, "format") == WeightFormat.INT8),
        ]
        ready = Signal(UNITS)
        unit_of = Signal(UNITS)
        for unit in Unit:
            port = self.issue[unit]
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
            self.runs.payload.beat.eq(self.request.program << (6 - beat_shift)),
            self.runs.payload.count.eq(
                (self.request.program_length * pieces + (words_per_beat - 1)) >> (words_per_beat.bit_length() - 1)
            ),
            write.addr.eq(load_pc),
        ]
        tokens_address = Signal(40)
        m.d.comb += [
            tokens_address.eq((config[Config.TOKENS] << 6) + (position << 2)),
            self.write_token.address.eq(tokens_address),
        ]
        with m.FSM():
            with m.State("STOPPED"):
                with m.If(self.request.clear):
                    m.d.sync += [done.eq(0), sticky.eq(0)]
                with m.If(self.request.start & ~failed):
                    m.d.comb += self.restart.eq(1)
                    m.d.sync += [
                        running.eq(1),
                        done.eq(0),
                        sticky.eq(0),
                        self.state.error.eq(0),
                        self.state.generated.eq(0),
                        position.eq(0),
                        self.state.retired.eq(0),
                        self.state.executed_attention.eq(0),
                        self.state.executed_ffn.eq(0),
                        pc.eq(0),
                        load_pc.eq(0),
                        load_piece.eq(0),
                        load_left.eq(self.request.program_length),
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
                with m.If((self.request.program_length == 0) | (self.request.program_length > machine.instructions)):
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
                with m.Elif(pc >= self.request.program_length):
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
                        m.d.comb += left.eq(self.request.prompt_length - position)
                        with m.If(position >= self.request.prompt_length):
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
                                with m.If(self.state.generated >= self.request.max_new):
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
                        with m.If(is_matmul & (field(word, MATMUL, "format") >= len(WeightFormat)) & ~wait):
                            fail(Error.ILLEGAL_INSTRUCTION)
                        with m.Elif(is_matmul & too_long & ~wait):
                            fail(Error.BUFFER_RANGE)
                        with m.Elif(~wait & (unit_of & ~ready == 0) & (~needs_fetch | self.fetch.ready)):
                            m.d.comb += self.fetch.valid.eq(needs_fetch)
                            for unit in Unit:
                                m.d.comb += self.issue[unit].valid.eq(unit_of[unit])
                            m.d.comb += self.row_end.eq(opcode == ATTEND.opcode)
                            m.d.sync += entries.eq(entries + (opcode == KVWRITE.opcode))
                            m.d.sync += self.state.retired.eq(self.state.retired + 1)
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
                m.d.comb += self.write_token.start.eq(1)
                m.next = "TOKEN WRITTEN"
            with m.State("TOKEN WRITTEN"):
                with m.If(self.write_token.done):
                    m.d.sync += self.state.generated.eq(self.state.generated + 1)
                    ends = Cat(self.token == config[Config.EOS0 + k] for k in range(4)).any()
                    with m.If(ends | (self.state.generated + 1 >= self.request.max_new)):
                        m.d.sync += pc.eq(behind_next)
                    m.next = "READ"
        # Faults of the units override everything.
        with m.If(self.fault & running & ~failed):
            m.d.sync += [failed.eq(1), self.state.error.eq(self.fault_code), self.state.error_pc.eq(self.fault_pc)]
        with m.If(failed & self.ports_quiet):
            m.d.sync += running.eq(0)
        return m

    def _illegal(self, register: Value, value: Value) -> list[Value]:
        return [
            (register == number)
            & ((value < allowed.least) | (value > allowed.most) | (value[: allowed.step.bit_length() - 1] != 0))
            for number, allowed in ranges(self.machine).items()
        ]


def popcount(value: Signal) -> Value:
    return tree([value[i] for i in range(len(value))], lambda a, b: a + b)


assert ALIGN.offsets["list"] == MATMUL.offsets["list"]
assert len(BY_OPCODE) == len(INSTRUCTIONS)
