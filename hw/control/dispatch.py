"""Program control: walks the program, executes control instructions, has the others handed over."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, registered
from hw.component import Component, given, gives
from hw.control.configuration import Configuration, config_bits, setting
from hw.control.faults import Faults
from hw.control.host import RunRequest, RunState
from hw.control.issue import Issue, field
from hw.control.issuer import Issuer, unit_opcodes
from hw.control.layers import LayerLoop
from hw.control.lists import Routed, TokenLists
from hw.control.program import ProgramMemory
from hw.control.record import TokenWrite
from hw.control.status import RunStatus
from hw.control.weights import WeightRequest
from hw.memory.reader import Run
from hw.widths import MAP_ROW_BITS, POSITION_BITS
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.registers import ERROR_BITS, MASK_GENERATED, MASK_PROMPT, Config, Error
from skipopu.isa.spec import (
    ADDRESS_SHIFT,
    CHUNK,
    END,
    EXTEND,
    HALT,
    KVWRITE,
    LOOP,
    MATMUL,
    NEXT,
    OPCODE_BITS,
    PC_BITS,
    SET,
    AlignTarget,
    Unit,
)
from skipopu.machine.config import Machine
from skipopu.masks import MASK_FIELDS


class Dispatcher(Component):
    """Executes control instructions itself and has the others handed over; SET, NEXT and HALT wait until everything is idle.

    Latency: 5 cycles from the program's last word to its first instruction, which is executed or handed over then, a product
    pipeline.sized later. Throughput: an instruction in 3 cycles, a CHUNK in 4, a product in 3 + pipeline.sized, more where it waits.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.issue = [gives(stream.Signature(Issue(machine)), f"instructions for {u.name.lower()}'s queue") for u in Unit]
        self.fetch = gives(stream.Signature(WeightRequest(machine)), "weights of a product that is handed over")
        self.request = given(RunRequest(), "what the host asks for", "{}")
        self.state = gives(RunState(), "how the run goes", "{}")
        self.runs = gives(stream.Signature(Run(machine)), "where port 0's loader reads the program")
        self.beats = given(stream.Signature(machine.port_bits), "the program")
        self.loading = gives(1, "that loader is the dispatcher's")
        self.units_idle = given(1, "no unit had an instruction the cycle before, no write was under way")
        self.route_done = given(1, "a routing decision, for a cycle")
        self.routed = given(Routed(machine), "which it is", "{}")
        self.decoding = gives(1, "the present chunk lies behind the prompt, a cycle after its position")
        self.token_slot = gives(count_shape(machine.tokens), "a slot whose argmax is wanted")
        self.token = given(32, "that token")
        self.write_token = gives(TokenWrite(), "it is written", "token_{}")
        self.chunk = gives(1, "a chunk starts, for a cycle")
        self.restart = gives(1, "a run starts, for a cycle")
        self.config = gives(config_bits(machine), "configuration registers, 32 bits each")
        self.saturated = given(1, "a unit saturated a number")
        self.fault = given(1, "a unit's error")
        self.fault_code = given(ERROR_BITS, "which it is")
        self.fault_pc = given(PC_BITS, "at which instruction")
        self.pc = gives(PC_BITS, "index of the instruction")
        self.wait_route = gives(1, "it waits for a routing decision")
        self.attention_quiet = given(1, "nothing is being fetched ahead")
        self.row_start = gives(1, "a layer begins, for a cycle")
        self.row_end = gives(1, "its attention was handed over the cycle before, for a cycle")
        self.next_row = gives(MAP_ROW_BITS, "with row_start: its row of the KV map")
        self.silent = given(1, "nothing has moved for very long")
        self.running = gives(1, "a run is under way, or memory will give it answers")
        self.stop = gives(1, "an error halts the machine")
        self.ports_quiet = given(1, "memory owes no answer")
        if machine.window:
            self.window = given(POSITION_BITS, "tokens that a query of the layer sees, by the last decision; 0: all")
        super().__init__()
        self.words = ProgramMemory(machine)
        self.configuration = Configuration(machine)
        self.lists = TokenLists(machine)
        self.layers = LayerLoop(machine)
        self.outcome = RunStatus()
        self.issuer = Issuer(machine)
        self.wrong = Signal()
        if machine.masks:
            self.extends = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word, pc = Signal(WORD_BITS), Signal(PC_BITS + 1)  # one beyond the longest program
        self.join(m, word, pc)
        request, state, lists, layers, outcome = self.request, self.state, self.lists, self.layers, self.outcome
        behind_next, loop_start = Signal.like(pc), Signal.like(pc)
        failed, position = outcome.failed, state.position
        tokens_address = (setting(self.config, Config.TOKENS) << ADDRESS_SHIFT) + (position << 2)
        predicting, predicted = Signal(), Signal.like(self.token_slot)
        predicted_address = (request.predicted << ADDRESS_SHIFT) + ((position + predicted) << 2)
        unpredicted = registered(m, (lists.asked >> predicted).any(), "unpredicted")
        m.d.comb += [
            self.token_slot.eq(Mux(predicting, predicted, lists.last_slot)),
            self.write_token.address.eq(Mux(predicting, predicted_address, tokens_address)),
        ]
        # What an instruction brings itself is reported instead of an end from outside. Which error that is, and of which instruction, the state
        # says, whether there is one or not: no condition stands in front of either.
        wrong, code = self.wrong, Signal(ERROR_BITS)
        ended = (request.abort | self.silent) & outcome.running & ~outcome.finish
        m.d.comb += [
            outcome.fail.eq(wrong | ended),
            outcome.fail_code.eq(Mux(wrong, code, Mux(self.silent, Error.WATCHDOG, Error.ABORTED))),
            outcome.fail_pc.eq(pc),
        ]
        # Of the last slot's token, which stands still while it is written.
        token = registered(m, self.token, "token_to_end")
        ids = [setting(self.config, Config(Config.EOS0 + k)) for k in range(4)]
        ends = registered(m, Cat(token == end for end in ids).any(), "ends")
        # What an instruction waits for is decoded a cycle before it is there.
        coming = self.words.word[:OPCODE_BITS]
        own = [i.opcode for i in (SET, CHUNK, EXTEND, LOOP, END, NEXT, HALT)]
        of_units = [opcode for opcodes in unit_opcodes(self.machine).values() for opcode in opcodes]
        is_set, is_next, is_halt, is_unit = (
            registered(m, Cat(coming == opcode for opcode in opcodes).any(), name)
            for name, opcodes in (("set", [SET.opcode]), ("next", [NEXT.opcode]), ("halt", [HALT.opcode]), ("unit", of_units))
        )
        unknown = registered(m, ~Cat(coming == opcode for opcode in own + of_units).any(), "unknown")
        waits = (is_set | is_next) & ~self.units_idle | is_next & unpredicted | is_halt
        held = is_unit & ~self.issuer.free
        quiet, beyond = Signal(range(Faults.LATENCY + 2)), Signal()
        m.d.sync += quiet.eq(0)
        with m.FSM():
            with m.State("STOPPED"):
                m.d.comb += outcome.clear.eq(request.clear)
                with m.If(request.start & ~failed):
                    m.d.comb += self.restart.eq(1)
                    m.d.sync += [
                        state.generated.eq(0),
                        position.eq(request.first),
                        pc.eq(0),
                        beyond.eq(request.first > position),
                    ]
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += code.eq(Mux(beyond, Error.CONFIGURATION, Error.PROGRAM_RANGE))
                with m.If(beyond | self.words.refused):
                    self.fail(m)
                with m.Elif(self.words.done):
                    m.next = "READ"
            with m.State("READ"):
                rejected = self.configuration.rejected  # by the SET in front
                m.d.comb += code.eq(Mux(rejected, Error.CONFIGURATION, Error.PROGRAM_RANGE))
                m.d.comb += outcome.fail_pc.eq(Mux(rejected, pc - 1, pc))
                m.next = "WORD"
                with m.If(failed):
                    m.next = "STOPPED"
                with m.Elif(rejected | (pc >= request.program_length)):
                    self.fail(m)
            with m.State("WORD"):
                m.d.sync += word.eq(self.words.word)
                m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += code.eq(Error.ILLEGAL_INSTRUCTION)
                m.next = "READ"
                with m.If(~waits & ~held):
                    m.d.sync += pc.eq(pc + 1)
                with m.If(waits):
                    m.next = "DECODE"
                with m.Switch(word[:OPCODE_BITS]):
                    with m.Case(SET.opcode):
                        m.d.comb += self.configuration.write.eq(self.units_idle)
                    with m.Case(CHUNK.opcode):
                        m.d.comb += self.chunk.eq(1)
                        m.d.sync += predicted.eq(0)
                        m.next = "CHUNK"
                    with m.Case(EXTEND.opcode):
                        if self.machine.masks:
                            m.d.comb += self.extends.eq(1)
                    with m.Case(LOOP.opcode):
                        m.d.comb += layers.begin.eq(1)
                        m.d.sync += loop_start.eq(pc + 1)
                    with m.Case(END.opcode):
                        m.d.comb += layers.end.eq(1)
                        with m.If(layers.again):
                            m.d.sync += pc.eq(loop_start)
                    with m.Case(NEXT.opcode):
                        with m.If(self.units_idle & unpredicted):
                            m.next = "PREDICT"
                        with m.Elif(self.units_idle):
                            m.d.sync += position.eq(position + lists.count)
                            with m.If(~lists.ends):
                                m.d.sync += pc.eq(field(word, NEXT, "target"))
                            with m.Elif(state.generated < request.max_new):
                                m.d.sync += [behind_next.eq(pc + 1), pc.eq(field(word, NEXT, "target"))]
                                m.next = "TOKEN"
                    with m.Case(HALT.opcode):
                        # A fault of the last cycle in which something happened has come by then.
                        still = self.units_idle & self.attention_quiet
                        m.d.sync += quiet.eq(Mux(still, quiet + 1, 0))
                        with m.If(still & (quiet == Faults.LATENCY + 1) & ~failed):
                            m.d.comb += outcome.finish.eq(1)
                            m.next = "STOPPED"
                    with m.Case(*of_units):
                        m.d.comb += self.issuer.attempt.eq(1)
                        with m.If(self.issuer.refused):
                            m.next = "REFUSED"
                with m.If(unknown):
                    self.fail(m)
                with m.If(failed):
                    m.next = "STOPPED"
                with m.Elif(held & ~self.issuer.refused):  # known late in a cycle, so that nothing comes behind it
                    m.next = "DECODE"
            with m.State("REFUSED"):
                m.d.comb += code.eq(self.issuer.reason)
                self.fail(m)
            with m.State("CHUNK"):
                m.d.comb += [code.eq(Error.CONTEXT_FULL), outcome.fail_pc.eq(pc - 1)]
                m.next = "READ"
                with m.If(position + lists.count > setting(self.config, Config.CONTEXT)):
                    self.fail(m)
            with m.State("PREDICT"):
                m.d.comb += [predicting.eq(1), self.write_token.start.eq(lists.asked.bit_select(predicted, 1))]
                with m.If(self.write_token.start):
                    m.next = "PREDICTED"
                with m.Else():
                    m.d.sync += predicted.eq(predicted + 1)
            with m.State("PREDICTED"):
                m.d.comb += predicting.eq(1)
                with m.If(self.write_token.done):
                    m.d.sync += predicted.eq(predicted + 1)
                    m.next = "WORD"  # until it is known whether more are asked for
            with m.State("TOKEN"):
                m.d.comb += self.write_token.start.eq(1)
                m.next = "TOKEN WRITTEN"
            with m.State("TOKEN WRITTEN"):
                with m.If(self.write_token.done):
                    m.d.sync += state.generated.eq(state.generated + 1)
                    with m.If(ends | (state.generated + 1 >= request.max_new)):
                        m.d.sync += pc.eq(behind_next)
                    m.next = "READ"
        return m

    def _masks(self, m: Module, word: Value) -> None:
        """The thresholds that EXTEND named, for the product behind it; whether its mask is known: the product before had the same, and nothing
        between them changed what they are held against."""
        thresholds = Signal(EXTEND.by_name["mask"].width)
        with m.If(self.issuer.taken & (word[:OPCODE_BITS] == MATMUL.opcode)):
            m.d.sync += thresholds.eq(0)
        with m.If(self.extends):
            m.d.sync += thresholds.eq(field(word, EXTEND, "mask"))
        with m.If(self.restart):
            m.d.sync += thresholds.eq(0)
        masking = setting(self.config, Config.MASKING)
        generated, prompt = ((masking & bit) != 0 for bit in (MASK_GENERATED, MASK_PROMPT))
        applies = Mux(self.decoding, generated, prompt)
        # What the present instruction is, is decoded a cycle before it is there.
        opcode, coming = word[:OPCODE_BITS], self.words.word
        own = Cat(thresholds, *(field(coming, MATMUL, name) for name in MASK_FIELDS))
        has_rounds = registered(m, field(coming, MATMUL, "rounds") != 0, "has_rounds")
        changes = (coming[:OPCODE_BITS] == i.opcode for i in (SET, CHUNK, LOOP, END, NEXT))
        last, still = Signal.like(own, name="last_mask"), Signal()
        with m.If(self.issuer.taken):
            with m.If(opcode == MATMUL.opcode):
                m.d.sync += [last.eq(own), still.eq(self.issuer.masked & (field(word, MATMUL, "align") == AlignTarget.NONE))]
            with m.Elif(opcode != KVWRITE.opcode):
                m.d.sync += still.eq(0)
        with m.If(self.restart | registered(m, Cat(changes).any(), "changes_mask")):
            m.d.sync += still.eq(0)
        m.d.comb += [
            self.issuer.thresholds.eq(thresholds),
            self.issuer.masked.eq((thresholds != 0) & applies & has_rounds),
            # A product is not handed over in the first cycle in which it stands there.
            self.issuer.again.eq(self.issuer.masked & still & registered(m, own == last, "same_mask")),
        ]

    def fail(self, m: Module) -> None:
        """In a state: there is the error that it says."""
        m.d.comb += self.wrong.eq(1)
        m.next = "STOPPED"

    def join(self, m: Module, word: Signal, pc: Signal) -> None:
        """Joins the units with each other and with the ports."""
        m.submodules.program_memory = program = self.words
        m.submodules.configuration = configuration = self.configuration
        m.submodules.lists = lists = self.lists
        m.submodules.layers = layers = self.layers
        m.submodules.outcome = outcome = self.outcome
        m.submodules.issuer = issuer = self.issuer
        request, state = self.request, self.state
        connect(m, program.runs, flipped(self.runs))
        connect(m, program.beats, flipped(self.beats))
        connect(m, lists.routed, flipped(self.routed))
        connect(m, layers.layer, issuer.layer)
        connect(m, issuer.fetch, flipped(self.fetch))
        m.d.sync += self.row_end.eq(issuer.row_end)
        for inner, outer in zip(issuer.issue, self.issue, strict=True):
            connect(m, inner, flipped(outer))
        m.d.comb += [
            program.start.eq(self.restart),
            program.address.eq(request.program),
            program.length.eq(request.program_length),
            program.pc.eq(pc),
            self.loading.eq(program.loading),
            configuration.register.eq(field(word, SET, "register")),
            configuration.value.eq(field(word, SET, "value")),
            self.config.eq(configuration.config),
            lists.restart.eq(self.restart),
            lists.open.eq(self.chunk),
            lists.position.eq(state.position),
            lists.prompt_length.eq(request.prompt_length),
            lists.known_length.eq(request.known_length),
            lists.predict_from.eq(request.predict_from),
            lists.decided.eq(self.route_done),
            lists.chosen.eq(field(word, MATMUL, "list")),
            self.decoding.eq(registered(m, lists.decoding, "decoding")),
            state.executed_attention.eq(lists.executed_attention),
            state.executed_ffn.eq(lists.executed_ffn),
            layers.restart.eq(self.restart),
            layers.count.eq(field(word, LOOP, "count")),
            layers.advance.eq(field(word, LOOP, "advance")),
            layers.config.eq(self.config),
            self.row_start.eq(layers.row_start),
            self.next_row.eq(layers.next_row),
            outcome.restart.eq(self.restart),
            outcome.saturated.eq(self.saturated),
            outcome.fault.eq(self.fault),
            outcome.fault_code.eq(self.fault_code),
            outcome.fault_pc.eq(self.fault_pc),
            outcome.ports_quiet.eq(self.ports_quiet),
            outcome.silent.eq(self.silent),
            self.running.eq(outcome.running),
            self.stop.eq(outcome.failed),
            state.status.eq(outcome.status),
            state.error.eq(outcome.error),
            state.error_pc.eq(outcome.error_pc),
            issuer.restart.eq(self.restart),
            issuer.coming.eq(program.word),
            issuer.word.eq(word),
            issuer.pc.eq(pc),
            issuer.mask.eq(lists.mask),
            issuer.position.eq(state.position),
            issuer.count.eq(lists.count),
            issuer.config.eq(self.config),
            issuer.route_done.eq(self.route_done),
            self.wait_route.eq(issuer.wait_route),
            state.retired.eq(issuer.retired),
            self.pc.eq(pc),
        ]
        if self.machine.window:
            m.d.comb += issuer.window.eq(self.window)
        if self.machine.masks:
            self._masks(m, word)
        if self.machine.soft_cap or self.machine.masks:
            m.d.comb += configuration.restart.eq(self.restart)
