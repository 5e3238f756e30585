"""Cross-checks of the engines on one input: what must be equal is compared bit for bit, what is bounded against its bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sim.engine import QUIET, Watch
from sim.functional import engine as functional
from sim.masks import Masks
from sim.reference import engine as reference
from sim.result import SATURATED, Computed, Counted, Result, Retired, Routed, Timed
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from sim.walk import decode
from skipopu.errors import MachineHalt
from skipopu.isa.asm import disassemble
from skipopu.program.program import Program
from skipopu.program.run import Run


@dataclass(frozen=True)
class Difference:
    """The first retired instruction whose signature differs between functional engine and RTL."""

    number: int  # in the order of dispatch
    expected: Retired
    seen: Retired | None
    note: str
    text: str

    def __str__(self) -> str:
        e = self.expected
        where = f"instruction {e.pc} ({self.note}), layer {e.layer}, position {e.position}: {self.text}"
        got = f"{self.seen.signature:08x}" if self.seen is not None else "nothing"
        return f"{where}; signature {e.signature:08x} expected, {got} seen"


def first_difference(program: Program, expected: list[Retired], seen: list[Retired]) -> Difference | None:
    """Compares what a ring holds with a trace of every instruction in the order of dispatch; None when all are equal.

    Each place holds the record that came last. That may be an older one: of another unit, which was slower in the same chunk.
    """
    steps = decode(program)
    held = {record.sequence: record for record in seen}
    places = {number % program.ring_records: number for number in held if 0 <= number < len(expected)}

    def hidden(number: int) -> bool:
        kept = places.get(number % program.ring_records, -1)
        if kept < 0 or kept > number:
            return kept > number
        older, newer = expected[kept], expected[number]
        units = [steps[one.pc].instruction.unit for one in (older, newer)]
        return older.position == newer.position and units[0] != units[1]

    for number, record in enumerate(expected):
        other = held.get(number)
        if other is None and hidden(number):
            continue
        if other is None or (other.pc, other.signature) != (record.pc, record.signature):
            return Difference(number, record, other, program.notes[record.pc], disassemble(program.instructions[record.pc]))
    return None


def differing_bits(program: Program, a: Result, b: Result) -> int:
    """Bits that differ between two final memories; the trace ring (which holds cycles) is compared by its signatures."""
    assert a.memory is not None
    assert b.memory is not None
    ring = program.regions["ring"]
    total = 0
    for port, (left, right) in enumerate(zip(a.memory, b.memory, strict=True)):
        changed = left ^ right
        if port == 0:
            changed[ring.address : ring.address + ring.size] = 0
        total += int(np.bitwise_count(changed).sum())
    return total


@dataclass
class Check:
    """Outcome of :func:`check`; ``problems`` is empty when everything agrees, ``remarks`` say what that is worth."""

    functional: Computed
    reference: Routed
    rtl: Counted | None
    timing: Timed
    agreement: reference.Agreement
    differing_bits: int | None = None
    difference: Difference | None = None
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def cycle_error(self) -> float | None:
        """(timing - rtl) / rtl."""
        if self.rtl is None:
            return None
        cycles = self.rtl.counters["CYCLES"]
        return (self.timing.counters["CYCLES"] - cycles) / cycles


def check(
    program: Program,
    options: Run,
    watch: Watch = QUIET,
    with_rtl: bool = True,
    memory: rtl.Memory | None = None,
    verilog: str | None = None,
    golden: Program | None = None,
) -> Check:
    """Runs all engines on ``options`` and compares them.

    ``golden`` is what functional engine and reference run when it differs from what the RTL gets (tests alter one of them);
    ``verilog`` and ``memory`` go to the RTL engine.
    """
    checked = Run(options.prompt, options.max_new, options.dial, True, options.routing)
    golden = golden or program
    watch.say("functional engine")
    masks = Masks(golden, len(options.prompt) + options.max_new)
    expected = functional.run(golden, checked, functional.Options(masks=masks.see if golden.masks else None))
    watch.say("reference engine")
    free = reference.run(golden, options)
    sequence = [*options.prompt, *expected.tokens]
    # The last generated token is not processed; with none generated, the whole prompt is.
    count = len(options.prompt) + max(len(expected.tokens) - 1, 0)
    routing, masked = expected.routing[None, ..., :count], [masks.until(count)] if golden.masks else []
    agreement = reference.agreement(golden, options, [sequence], len(options.prompt), routing, masks=masked)
    channels = Recorded(program, masks.active) if golden.masks else None
    timed = timing.run(program, options, timing.Options(expected, channels=channels))
    result = Check(expected, free, None, timed, agreement)
    if agreement.non_finite:
        result.problems.append(
            f"{agreement.non_finite} of the reference's logits, router outputs and bounds are NaN or infinite: nothing was compared"
        )
    elif agreement.undecided:
        result.remarks.append(
            f"every one of {agreement.routing_positions} routing bits and {agreement.token_positions} tokens is undecided: the"
            " reference's margins lie inside the derived bounds, so it confirms nothing"
        )
    if expected.saturated:
        result.remarks.append(SATURATED)
    if agreement.routing_differing or agreement.token_differing:
        result.problems.append(
            f"functional and reference disagree on {agreement.routing_differing} routing bits and"
            f" {agreement.token_differing} tokens outside the derived bounds"
        )
    if agreement.masks.differing:
        result.problems.append(
            f"functional and reference disagree on {agreement.masks.differing} masked channels outside the derived bounds"
        )
    if with_rtl:
        try:
            result.rtl = rtl.run(program, checked, rtl.Options(memory, verilog=verilog), watch)
        except MachineHalt as halt:
            result.problems.append(f"RTL: {halt}")
            return result
        result.differing_bits = differing_bits(program, expected, result.rtl)
        result.difference = first_difference(program, expected.trace, result.rtl.trace)
        if result.difference is not None:
            result.problems.append(f"first difference at {result.difference}")
        if result.rtl.saturated != expected.saturated:
            result.problems.append(f"saturation differs: functional {expected.saturated}, RTL {result.rtl.saturated}")
        if result.rtl.tokens != expected.tokens:
            result.problems.append(f"tokens differ: functional {expected.tokens}, RTL {result.rtl.tokens}")
        if result.differing_bits:
            result.problems.append(f"{result.differing_bits} bits of memory differ between functional engine and RTL")
    return result
