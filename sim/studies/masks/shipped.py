"""What masks are worth where every bit is simulated: the shipped model's loss beside its decoding in RTL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits
from sim.functional import engine as functional
from sim.masks import Masks
from sim.reference import engine as reference
from sim.rtl import engine as rtl
from sim.studies.accuracy.case import Case
from sim.studies.accuracy.masks import calibrated, masked
from sim.studies.accuracy.setting import SEED, SHIPPED, WAYS, Chosen, Design, Policy, Subject
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.numerics.formats import FORMATS
from skipopu.policy import KvPolicy
from skipopu.program.run import COMPILED, Run
from skipopu.report import Cell, Keys, Record, Table, shown

TARGET, PLAIN = "tiny-masks", "tiny"
SHARES = (0.25, 0.4)
PROMPT, NEW = 32, 49  # bytes of the held-out text, tokens that follow: decoding is from the first to the last of these
METHOD = "rtn"  # the shipped weights lose least by it, see the study of accuracy

Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """A way to leave something out. masks: thresholds, if there are any. bits: per byte of held-out text."""

    policy: Policy
    masks: Chosen | None
    bits: float

    @property
    def name(self) -> str:
        kv = "" if self.policy.name == "always" else f", {self.policy.kv}"
        return f"{self.policy.label}{kv}" + (f", {self.masks.share:.0%} masked" if self.masks else "")


def ways(case: Case) -> Iterator[Way]:
    """Everything executed, and the routers as trained under both KV policies: without masks, and with those of the study of accuracy."""
    programs = case.programs(case.checkpoint, FORMATS[0].name)
    model = reference.model_of(programs[KvPolicy.REUSE])
    for policy, dial in case.policies(chosen=False, random=False):
        yield Way(policy, None, case.measure(model, policy, dial)[0])
    by_share = {(one.dense, one.share): one for one in case.subject.masks}
    for point in masked(case, FORMATS[0].name, METHOD, case.checkpoint, programs, model):
        yield Way(point.policy, by_share[point.policy.name == "always", point.masked], point.bits)


@dataclass(frozen=True)
class Decoded:
    """Of a decoded token: cycles and beats read in RTL, cycles by the timing engine."""

    machine: Machine
    cycles: float
    beats: float
    predicted: float

    @property
    def tokens_per_s(self) -> float:
        return self.machine.clock_mhz * 1e6 / self.cycles


def decode(case: Case, way: Way, machine: Machine) -> Decoded:
    """Generates from the held-out text; raises SkipopuError unless RTL and functional engine agree in every bit."""
    checkpoint = dataclasses.replace(case.checkpoint, masks=way.masks.thresholds if way.masks else None)
    program = compile_checkpoint(checkpoint, machine, way.policy.kv, context=PROMPT + NEW, weights=FORMATS[0].name)
    routing = "always" if way.policy.name == "always" else COMPILED
    prompt = tuple(case.texts.held_out.ids[:PROMPT].tolist())
    counted: list[dict[str, int]] = []
    for new in (1, NEW):
        run = Run(prompt, new, routing=routing)
        seen_masks = Masks(program, PROMPT + new)
        expected = functional.run(program, run, functional.Options(masks=seen_masks.see if program.masks else None))
        seen = rtl.run(program, run)
        bits = differing_bits(program, expected, seen)
        if bits or seen.tokens != expected.tokens:
            raise SkipopuError(f"{way.name} on {machine.name}: RTL and functional engine differ, {bits} bits of memory")
        counted.append(seen.counters)
    at = timing.run(program, run, timing.Options(expected, channels=Recorded(program, seen_masks.active))).at_token
    cycles, beats = ((counted[1][name] - counted[0][name]) / (NEW - 1) for name in ("CYCLES", "READ_BEATS"))
    return Decoded(machine, cycles, beats, (at[-1]["CYCLES"] - at[0]["CYCLES"]) / (NEW - 1))


def row(model: Path, way: Way, decoded: Decoded) -> list[Cell]:
    machine, policy = decoded.machine, way.policy
    keys: Keys = {
        "model": model.name,
        "kv": str(policy.kv),
        "system": policy.name,
        "masked": way.masks.share if way.masks else None,
    }
    by_rtl: Keys = keys | {"engine": "rtl", "target": machine.name, "context": f"{PROMPT}+{NEW}", "phase": "decode"}
    source = f"RTL, {machine.clock_mhz:g} MHz assumed, 0 bits differ from the functional engine"
    return [
        way.name,
        machine.name,
        shown("{:.4f}", Record("bits_per_byte", way.bits, "bit/byte", "simulated", "reference", digits=".4f", **keys)),
        shown("{:,.0f}", Record("bytes_read", decoded.beats * machine.beat_bytes, "byte/token", "simulated", source, digits=".0f", **by_rtl)),
        shown("{:,.0f}", Record("decode_cycles_per_token", decoded.cycles, "cycle", "simulated", source, digits=".1f", **by_rtl)),
        shown("{:+.1%}", Record("cycle_error", decoded.predicted / decoded.cycles - 1, "ratio", "simulated", "timing engine / RTL - 1", digits=".5f", **by_rtl)),
        shown("{:.0f}", Record("decode_tokens_per_s", decoded.tokens_per_s, "token/s", "simulated", source, digits=".2f", **by_rtl)),
    ]  # fmt: skip


def table(model: Path, say: Say) -> Table:
    """A row for each way, and one for each without masks on the machine whose beats are rows."""
    design = Design(masked=SHARES)
    say(f"thresholds of {model.name}")
    plain = Subject(model, design, SHIPPED)
    masks = tuple(one for dense in (True, False) for one in calibrated(plain, dense) if one.way == WAYS[-1])
    case = Case(dataclasses.replace(plain, masks=masks))
    rows: list[list[Cell]] = []
    for way in ways(case):
        for target in (TARGET,) if way.masks else (PLAIN, TARGET):
            say(f"{way.name} on {target}, RTL")
            rows.append(row(model, way, decode(case, way, Machine.load(target))))
    rule, ratios = WAYS[-1]
    return Table(
        f"{model.name}, INT4, [{PROMPT}, {NEW}] in RTL; masks by {rule}, {ratios}, seed {SEED}",
        ["left out", "machine", "bits/byte", "bytes read/token", "cycles/token", "timing engine", "tokens/s"],
        rows,
    )
