"""Prompt lookup on the shipped model: what drafts it accepts, and what that is worth in RTL, where every bit is compared."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits
from sim.functional import engine as functional
from sim.generation import Generation
from sim.result import Result
from sim.rtl import engine as rtl
from sim.rtl.build import build
from sim.session import Session
from sim.speculation import Steps
from skipopu.errors import SkipopuError
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run
from skipopu.report import Cell, Keys, Record, Table, shown

TARGET = "tiny"
TEXT, NEW = 128, 64  # bytes of the prompt, tokens behind it
STARTS = (4096, 12000, 20000, 28000, 36000, 44000)  # of prompts in the held-out text; the first one's is simulated
EVERYTHING, BY_ROUTERS = "everything", "by routers, reuse"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Drafted:
    """Of one prompt: tokens behind the first, runs that made them, tokens of drafts."""

    tokens: int
    runs: int
    drafted: int
    accepted: int


@dataclass(frozen=True)
class Simulated:
    """Cycles of a token behind the first in RTL, without and with drafts, and those of the timing engine with them."""

    plain: float
    rtl: float
    timing: float


@dataclass(frozen=True)
class Case:
    """A kind of text under a policy."""

    text: str
    policy: str
    kv: KvPolicy
    prompts: tuple[Drafted, ...]
    simulated: Simulated

    @property
    def drafted(self) -> int:
        return sum(one.drafted for one in self.prompts)

    @property
    def acceptance(self) -> float:
        """Share of drafts that are right."""
        return sum(one.accepted for one in self.prompts) / max(1, self.drafted)

    @property
    def found(self) -> float:
        """Share of runs with a draft."""
        return self.drafted / sum(one.runs for one in self.prompts)


def prompts(model: Path) -> dict[str, list[bytes]]:
    """Python as it stands in the held-out text, and text half of which is there twice."""
    held_out = (model / "heldout.txt").read_bytes()
    python = [held_out[start : start + TEXT] for start in STARTS]
    half = TEXT // 2
    return {"Python": python, "Python, half of it twice": [text[half:] + text[half:] for text in python]}


def same_entries(plain: functional.Instance, other: functional.Instance, tokens: int) -> bool:
    """Whether both hold the same keys and values of the first ``tokens``, bit for bit."""
    pools = [one.state.pool for one in (plain, other) if one.state is not None]
    first, second = pools
    return all(
        np.array_equal(getattr(first, name)[first.map[:, :tokens]], getattr(second, name)[second.map[:, :tokens]])
        for name in ("keys", "values", "fields")
    )


@dataclass
class Generated:
    """Tokens of a session, its generation, cycles of the runs, and the last run's result."""

    tokens: list[int]
    generation: Generation
    cycles: list[int]
    last: Result


def generated(session: Session, ids: tuple[int, ...], lookup: Lookup | None, routing: str) -> Generated:
    steps, results = Steps(session.program), list[Result]()

    def see(run: Run, result: Result) -> None:
        steps.see(run, result)
        results[:] = [result]

    generation = Generation(session, lookup=lookup, routing=routing, see=see)
    tokens = list(generation.tokens(ids, NEW))
    return Generated(tokens, generation, steps.cycles, results[-1])


def drafting(program: Program, ids: tuple[int, ...], routing: str) -> Generated:
    """On the functional engine with drafts; raises SkipopuError unless tokens, and keys and values, are those without."""
    machines = [functional.Instance(program) for _ in range(2)]
    plain = generated(Session(program, machines[0]), ids, None, routing)
    lookup = Lookup(program.machine.free_tokens - 1)
    drafted = generated(Session(program, machines[1]), ids, lookup, routing)
    if plain.tokens != drafted.tokens or not same_entries(machines[0], machines[1], len(ids) + len(plain.tokens) - 1):
        raise SkipopuError("tokens, or keys and values, with drafts differ from those without")
    return drafted


def simulate(program: Program, ids: tuple[int, ...], routing: str, expected: Generated) -> Simulated:
    """Raises SkipopuError unless RTL and functional engine agree in every bit."""
    with Session(program, "rtl") as session:
        seen = generated(session, ids, expected.generation.lookup, routing)
    bits = differing_bits(program, expected.last, seen.last)
    if seen.tokens != expected.tokens or bits:
        raise SkipopuError(f"RTL and functional engine differ, {bits} bits of memory")
    plain = rtl.run(program, Run(ids, len(seen.tokens), routing=routing))
    behind = len(seen.tokens) - 1
    return Simulated(
        (plain.counters["CYCLES"] - seen.cycles[0]) / behind,  # the first run has the prompt and one token, as without drafts
        sum(seen.cycles[1:]) / behind,
        sum(expected.cycles[1:]) / behind,
    )


def case(job: tuple[Path, str, KvPolicy, str, str]) -> Case:
    model, text, kv, routing, policy = job
    program = compile_checkpoint(load(model, mask_file=False), Machine.load(TARGET), kv, context=TEXT + NEW)
    drafted, simulated = [], None
    for piece in prompts(model)[text]:
        ids = program.text.encode(piece)
        found = drafting(program, ids, routing)
        generation = found.generation
        drafted.append(Drafted(len(found.tokens) - 1, generation.runs - 1, generation.drafted, generation.accepted))
        simulated = simulated or simulate(program, ids, routing, found)
    assert simulated is not None
    return Case(text, policy, kv, tuple(drafted), simulated)


def cases(model: Path, say: Say) -> list[Case]:
    """Everything executed, and the routers as trained under both KV policies; raises SkipopuError where a bit differs."""
    say(f"RTL of {TARGET}")
    build(Machine.load(TARGET), say=say)
    say(f"{model.name} on {TARGET}, functional engine and RTL")
    ways = (
        (KvPolicy.REUSE, "always", EVERYTHING),
        (KvPolicy.REUSE, COMPILED, BY_ROUTERS),
        (KvPolicy.DENSE, COMPILED, "by routers, dense"),
    )
    with ProcessPoolExecutor() as pool:
        return list(pool.map(case, [(model, text, *way) for way in ways for text in prompts(model)]))


def table(model: Path, found: list[Case]) -> Table:
    """A row for each kind of text and policy."""
    return Table(
        f"Prompt lookup on {model.name}, one drafted token a run, [{TEXT}, {NEW}] on {TARGET}",
        [
            "text",
            "executed",
            "drafts accepted",
            "tokens per run",
            "RTL cycles/token without",
            "with",
            "faster",
            "timing engine",
        ],
        [row(model, one) for one in found],
        note=f"Drafts: {len(STARTS)} prompts; cycles: the first of them. 0 bits of tokens, keys and values differ from decoding without"
        " drafts, 0 bits of memory between RTL and functional engine.",
    )


def row(model: Path, one: Case) -> list[Cell]:
    keys: Keys = {"target": TARGET, "model": model.name, "kv": str(one.kv), "context": f"{TEXT}+{NEW}", "system": one.policy}
    tokens, runs = (sum(getattr(part, name) for part in one.prompts) for name in ("tokens", "runs"))
    source, at = f"functional engine, {one.text}", one.simulated
    return [
        one.text,
        one.policy,
        shown(
            "{:.0%} of {}",
            Record("acceptance", one.acceptance, "ratio", "simulated", source, digits=".4f", **keys),
            Record("drafted_tokens", one.drafted, "token", "simulated", source, **keys),
        ),
        shown("{:.2f}", Record("tokens_per_run", tokens / runs, "token", "simulated", source, digits=".4f", **keys)),
        shown("{:,.0f}", Record("decode_cycles_per_token", at.plain, "cycle", "simulated", f"RTL, {one.text}, no drafts", digits=".1f", **keys)),
        shown("{:,.0f}", Record("decode_cycles_per_token", at.rtl, "cycle", "simulated", f"RTL, {one.text}, drafts", digits=".1f", **keys)),
        shown("{:+.1%}", Record("speed_up", at.plain / at.rtl - 1, "ratio", "simulated", f"RTL, {one.text}", digits=".4f", **keys)),
        shown("{:+.1%}", Record("cycle_error", at.timing / at.rtl - 1, "ratio", "simulated", "timing engine / RTL - 1", digits=".5f", **keys)),
    ]  # fmt: skip
