"""The timing engine: walks a program with a routing trace and counts cycles; no data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sim.engine import QUIET, Watch
from sim.masks import Masks
from sim.result import Retired, Routed, Timed
from sim.timeline import Span, write_perfetto
from sim.timing import array, attention, vector
from sim.timing.bus import NONE
from sim.timing.costs import DISPATCH, HANDOVER, short_read
from sim.timing.masks import Channels, Recorded
from sim.timing.options import Options as Options
from sim.timing.repeat import Repeats
from sim.timing.state import State
from sim.walk import CONTROL, Fields, Step, Walk
from skipopu.errors import ProgramError
from skipopu.isa.fields import Instruction
from skipopu.isa.registers import Error
from skipopu.isa.spec import (
    ADJUST,
    ALIGN,
    ATTEND,
    CHUNK,
    EMBED,
    END,
    EXTEND,
    HALT,
    KVWRITE,
    LOOP,
    MATMUL,
    NEXT,
    ROUTE,
    SET,
    STORE,
    WORD_BYTES,
    TokenList,
    Unit,
)
from skipopu.machine import pipeline
from skipopu.machine.config import QUEUE_DEPTH
from skipopu.program.program import Program
from skipopu.program.run import Run

name = "timing"
RECORD = 8  # of a record of check mode, besides its beats
ANSWER = 2  # cycles of a write behind its last beat
EMIT = 8  # cycles in which a token is written

# (state, fields, slots, start) -> cycles
HANDLERS: dict[Instruction, Callable[[State, Fields, int, int], int]] = {
    EMBED: vector.embed,
    ALIGN: vector.align,
    ADJUST: vector.normalise,
    MATMUL: array.matmul,
    ROUTE: vector.route,
    KVWRITE: vector.kvwrite,
    ATTEND: attention.attend,
    STORE: vector.store,
}
UNITS = {instruction: Unit[instruction.unit.upper()] for instruction in HANDLERS}


class Timing:
    """One run."""

    def __init__(
        self,
        program: Program,
        run: Run,
        routed: Routed,
        spans: list[Span] | None = None,
        repeat: bool = True,
        watch: Watch = QUIET,
        channels: Channels | None = None,
        before: Timing | None = None,
    ) -> None:
        """``before``: another run of the program on the same machine, whose cycles need not be worked out again."""
        self.routed = routed
        self.walk = Walk(program, replace(run, max_new=len(routed.tokens)), self.emit, watch)
        self.state = State(program, run, routed, self.walk, spans, channels)
        self.repeats = Repeats(self.state, repeat, self.walk_through)
        if before is not None:
            self.state.remember(before.state)
            self.repeats.stretches = before.repeats.stretches
        self.at_token: list[dict[str, int]] = []

    def count(self) -> None:
        """Walks through the whole program."""
        s, times = self.state, self.state.times
        words = len(self.walk.steps)
        beats = -(-words * WORD_BYTES // s.machine.beat_bytes)
        # An instruction per cycle goes into its memory.
        times.now = max(short_read(s.machine, beats, 0)[-1], s.costs.read + words) + 4
        s.counters["READ_BEATS"] += beats
        for step in self.walk:
            instruction = step.instruction
            if instruction in HANDLERS:
                self.issue(step)
            elif instruction is NEXT:
                times.now = max(times.idle(), times.recorded) + DISPATCH
                self.predict()
            elif instruction is HALT:
                s.counters["CYCLES"] = times.idle() + 1 + pipeline.FAULT + 1
            elif instruction in CONTROL:
                times.now += DISPATCH + (instruction is CHUNK)
            if instruction is LOOP:
                self.loop()

    def result(self, seconds: float) -> Timed:
        """What was counted, in ``seconds`` of real time."""
        state = self.state
        return Timed(
            tokens=list(self.routed.tokens),
            routing=self.routed.routing,
            counters=state.counters,
            kv_entries=state.entries,
            saturated=self.routed.saturated,
            trace=state.trace,
            at_token=self.at_token,
            seconds=seconds,
        )

    def predict(self) -> None:
        """Argmax tokens that are wanted are written, one after another; the dispatcher passes the slots before them."""
        asked = self.walk.asked.tolist()
        if asked:
            self.state.times.now += asked[0]
        for _ in asked:
            self.state.times.now += 1  # NEXT is read again
            self.write()

    def write(self) -> None:
        times = self.state.times
        times.now += EMIT
        times.writes.add([(0, times.now - ANSWER, 1)])
        self.state.counters["WRITE_BEATS"] += 1

    def emit(self) -> None:
        """A token is written; its id is not known."""
        times, counters = self.state.times, self.state.counters
        self.write()
        self.at_token.append(counters | {"CYCLES": times.now})

    def loop(self) -> None:
        """All layers: each up to its decision, and behind it."""
        s, walk, body = self.state, self.walk, self.walk.body()
        steps = walk.steps[body.start : body.stop]
        for step in steps:
            walk.pc = step.pc
            if step.instruction in (SET, CHUNK, NEXT, HALT):
                raise walk.halt(Error.ILLEGAL_INSTRUCTION, f"{step.instruction.name} in a loop is not counted")
            if step.instruction in CONTROL:
                CONTROL[step.instruction](walk, step.fields)
        walk.pc = body.start - 1
        decided = next((step.pc + 1 for step in steps if step.instruction is ROUTE), body.start)
        s.kvwrites = next((step.fields for step in steps if step.instruction is KVWRITE), s.kvwrites)
        for layer in walk.layers():
            executed = s.routing[layer, :, walk.position : walk.position + walk.count]
            every = np.arange(walk.count)
            walk.lists[TokenList.ATTENTION], walk.lists[TokenList.FFN] = every[executed[0]], every[executed[1]]
            s.traced = any(policy.reads_trace for policy in s.policies(layer))
            s.ranked = any(policy.keep for policy in s.policies(layer))
            quiet = attention.quiet(s)
            s.ahead = s.prefetch and attention.missing(s)
            self.repeats.through(range(body.start, decided), (walk.count, s.traced, s.ranked, s.ahead))
            coming = attention.fetch_ahead(s, quiet, self.repeats.sent) if s.prefetch else NONE
            s.part = attention.read_history(s, walk.lists[TokenList.ATTENTION].tolist(), coming)
            needed = (
                s.channels.about(layer, range(walk.position, walk.position + walk.count)) if s.channels and s.masked else ()
            )
            about = (walk.count, executed.tobytes(), s.part, s.late(s.kvwrites), needed)
            self.repeats.through(range(decided, body.stop), about)
        s.times.settle(walk.position)

    def walk_through(self, part: range) -> None:
        """Issues the instructions ``part`` of the loop's body."""
        steps = self.walk.steps
        self.state.last_mask = None
        for pc in part:
            if steps[pc].instruction in HANDLERS:
                if steps[pc].instruction is not KVWRITE and not self.state.thresholds:
                    self.state.last_mask = None
                self.issue(steps[pc])
                self.state.thresholds = 0
            else:
                if steps[pc].instruction is EXTEND:
                    self.state.thresholds = steps[pc].fields["mask"]
                self.state.times.now += DISPATCH
        behind = steps[part.stop]
        if behind.instruction is END:
            self.state.times.now += DISPATCH
        self.wait_route(behind.fields)  # whatever was before, what follows starts from much the same state

    def issue(self, step: Step) -> None:
        """Dispatches an instruction: when its unit starts it, and when it is done."""
        s, times, f = self.state, self.state.times, step.fields
        unit = UNITS[step.instruction]
        self.wait_route(f)
        times.now += pipeline.sized(s.machine) * (step.instruction is MATMUL)
        queue = times.finished[unit]
        if len(queue) == QUEUE_DEPTH:
            times.now = max(times.now, queue[0] + 1)
        ready = start = max(times.now + HANDOVER, times.free[unit])
        for other in Unit:
            if f["pop"] >> other & 1:
                start = max(start, times.tokens[other, unit].pop(0))
        slots, cycles = len(self.walk.lists[f["list"]]), 0
        if slots or step.instruction is KVWRITE:
            if unit is not Unit.VECTOR:  # the multipliers are array's and attention's
                other = Unit.ARRAY if unit is Unit.ATTENTION else Unit.ATTENTION
                start = max(start, times.free[other] - HANDOVER)
            s.pc, s.waited = step.pc, start - ready
            cycles = HANDLERS[step.instruction](s, f, slots, start)
        end = start + cycles
        s.counters[f"{unit.name}_WAIT"] += start - ready
        if step.instruction is ROUTE:
            times.last.route_done = end + 1
        times.free[unit] = end + HANDOVER
        times.finished[unit].append(end)
        for other in Unit:
            if f["push"] >> other & 1:
                times.tokens[unit, other].append(end + HANDOVER)
        if s.run.check:
            beats = s.costs.record_beats()
            s.counters["WRITE_BEATS"] += beats
            times.recorded = max(times.recorded, end) + RECORD + beats
            times.writes.add([(0, times.recorded - ANSWER, beats)])
            s.trace.append(Retired(step.pc, 0, end, self.walk.layer, self.walk.position))
        if cycles:
            s.span(unit.name.lower(), start, end)
        times.now += DISPATCH

    def wait_route(self, f: Fields) -> None:
        """The dispatcher holds an instruction with a routed list until the decision is known."""
        times = self.state.times
        if f.get("list") in (TokenList.ATTENTION, TokenList.FFN) and times.now < times.last.route_done:
            self.state.counters["WAIT_ROUTE"] += times.last.route_done - times.now
            times.now = times.last.route_done


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Timed:
    """Counts cycles of ``run`` under a routing and a number of tokens that another engine gave, or the functional engine gives.

    Raises:
        ProgramError, MachineHalt: the functional engine's; nothing says which channels a program with masks leaves out.
    """
    options = options or Options()
    routed, channels = options.routed, options.channels
    if routed is None:
        from sim.functional import engine as functional

        watch.say("functional engine")
        seen = Masks(program, len(run.known) + run.max_new) if program.masks else None
        whole = replace(run, first=0)  # what was routed before
        routed = functional.run(program, whole, functional.Options(masks=seen.see if seen else None))
        channels = Recorded(program, seen.active) if seen else None
    spans = options.spans
    if spans is None and options.timeline is not None:
        spans = []
    watch.say("timing engine")
    begin = time.perf_counter()
    require_channels(program, channels)
    timing = Timing(program, run, routed, spans, options.repeat, watch, channels)
    timing.count()
    if options.timeline is not None and spans is not None:
        write_perfetto(options.timeline, spans, program.machine.clock_mhz)
    return timing.result(time.perf_counter() - begin)


class Following:
    """Counts cycles of runs that follow one another on one machine; nothing is worked out twice."""

    def __init__(self, program: Program, channels: Channels | None = None) -> None:
        """Raises ProgramError where nothing says which channels a program with masks leaves out."""
        require_channels(program, channels)
        self.program, self.channels = program, channels
        self.before: Timing | None = None

    def count(self, run: Run, routed: Routed) -> Timed:
        """What ``run`` takes where what ``routed`` says executes."""
        begin = time.perf_counter()
        self.before = Timing(self.program, run, routed, channels=self.channels, before=self.before)
        self.before.count()
        return self.before.result(time.perf_counter() - begin)


def require_channels(program: Program, channels: Channels | None) -> None:
    """Raises ProgramError unless it is said which channels ``program`` leaves out, if any."""
    if program.masks and channels is None:
        raise ProgramError(
            "which channels are left out is not said: give the timing engine the run's masks, or a share of them"
        )
