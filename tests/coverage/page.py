"""What was reached as a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from skipopu.report import Table
from tests.coverage.holes import KINDS, Hole, Score
from tests.coverage.rules import RULES, Rule, explanation
from tests.coverage.suite import SUITE, WHERE

PAGE = "docs/coverage.md"
HEADINGS = {"branch": "branches", "toggle": "bits", "state": "states", "change": "changes of state"}
HEAD = f"""# What simulations reach of the hardware

`python -m tests.coverage -o {PAGE}` runs a part of the tests of whole machines on simulations that count, and writes this page. It is
about the generated Verilog of the overlay, told by the class of `hw/` that a module comes from. Points that modules, instances and
machines have in common count once, and are reached if one of them was. Where generated conditions differ between two machines, as a
field lies elsewhere in an instruction, there is a point for each.

- **Branches** are lines of Verilog as Verilator counts them (`--coverage-line`): each side of an `if`, each arm of a `case`, each side
  of a choice between two values. Processes that always run are not counted, nor what a reset does. Branches under the same conditions
  are one, however many signals they are of. A branch counts as taken where it is evaluated, which may be between two clock edges.
- **Bits** are toggles (`--coverage-toggle`): the bits of each unit's registers and outputs. A bit is reached if it had both
  values in a simulation: what is written once in a run, as registers of the host and of the configuration, rises and falls in no
  simulation of one run. Inputs are another unit's outputs; intermediate values and the words of memories are not counted.
- **States** and **changes of state** are of Amaranth's state machines. Verilator's own count of these (`--coverage-fsm`) stops with an
  internal error on this Verilog, so that recorders are put into each unit that has one: they look at the state at every clock edge. Changes are
  those that the unit's next state can be, without resets and without staying.

Amaranth's FIFOs are not counted, nor is what simulations of whole machines do not contain: `hw/link`, `hw/shell`, `hw/clock`, and units
that only other machines than these have.
"""
EXPLAINED = """Rules in `tests/coverage/rules.py`, by unit, name and bits, the first that fits; made by looking at what was left, and proofs of
nothing: a bit that should have changed and has the name of one that cannot is among them."""


def markdown(scores: Mapping[str, Score], holes: Sequence[Hole]) -> str:
    """docs/coverage.md."""
    explained = {hole: explanation(hole) for hole in holes}
    parts = [
        HEAD,
        _runs(),
        _scores(scores),
        _explained(explained),
        _left([hole for hole, rule in explained.items() if not rule]),
    ]
    return "\n".join(parts)


def _runs() -> str:
    tests = "".join(f"- `{group}`: {', '.join(f'`{test}`' for test in tests)}\n" for group, tests in SUITE.items())
    return f"## What runs\n\nTests of `{WHERE.rpartition('/')[0]}` (without `test_`), by the simulations they share:\n\n{tests}"


def _scores(scores: Mapping[str, Score]) -> str:
    total = Score()
    for score in scores.values():
        total.reached += score.reached
        total.every += score.every
    named = [
        *((f"`{unit.partition(' ')[0]}` {unit.partition(' ')[2]}", scores[unit]) for unit in sorted(scores)),
        ("all", total),
    ]
    rows = [[name, *(cell(score, kind) for kind in KINDS)] for name, score in named]
    return f"## Units\n\n{Table('', ['unit', *HEADINGS.values()], rows).markdown}\n"


def cell(score: Score, kind: str) -> str:
    """``10/12 83 %``."""
    reached, every = score.reached[kind], score.every[kind]
    return f"{reached}/{every} {100 * reached // every} %" if every else ""


def _explained(explained: Mapping[Hole, Rule | None]) -> str:
    found: dict[str, Counter[str]] = {rule.why: Counter() for rule in RULES}
    for hole, rule in explained.items():
        if rule is not None:
            found[rule.why][hole.kind] += hole.size
    rows = [[why, *(str(count[kind] or "") for kind in KINDS)] for why, count in found.items() if count]
    return f"## Holes that have an explanation\n\n{EXPLAINED}\n\n{Table('', ['why', *HEADINGS.values()], rows).markdown}\n"


def _left(holes: Sequence[Hole]) -> str:
    count = Counter[str]()
    by_unit: defaultdict[str, list[Hole]] = defaultdict(list)
    for hole in holes:
        count[hole.kind] += hole.size
        by_unit[hole.unit].append(hole)
    said = ", ".join(f"{count[kind]} {HEADINGS[kind]}" for kind in KINDS)
    lines = [f"## Holes without one\n\n{said}.\n"]
    for unit, own in by_unit.items():
        texts = "\n".join(f"- {hole.kind} `{hole.text}`" for hole in own)
        lines.append(f"<details><summary>{unit}: {len(own)}</summary>\n\n{texts}\n\n</details>\n")
    return "\n".join(lines)
