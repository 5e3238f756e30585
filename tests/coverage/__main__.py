"""Runs tests on simulations that count what they reach of the hardware; writes what was reached, and why the rest was not, as a page."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from skipopu.arguments import Parser, add_json, output_file, positive
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json
from skipopu.terminal import console
from tests.coverage.holes import KINDS, Hole, Score, measure, merged
from tests.coverage.page import HEADINGS, markdown
from tests.coverage.points import Point
from tests.coverage.rules import explanation
from tests.coverage.suite import SUITE, counted
from tests.coverage.units import units_of

SOURCE = "python -m tests.coverage"


def parser() -> argparse.ArgumentParser:
    p = Parser(prog=SOURCE, description=__doc__, allow_abbrev=False)
    p.add_argument("--only", choices=tuple(SUITE), metavar="GROUP", help=f"a group of tests: {', '.join(SUITE)}; default all")
    p.add_argument("-o", "--output", type=output_file, metavar="FILE", help="write the page")
    p.add_argument("--jobs", type=positive, default=1, metavar="N", help="groups at a time; default %(default)s")
    add_json(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if the command cannot be carried out."""
    args = parser().parse_args(arguments)
    start = time.perf_counter()
    try:
        if args.output and args.only:
            raise SkipopuError("-o writes a page of all groups; --only is not accepted with it")
        scores, holes = reached((args.only,) if args.only else tuple(SUITE), args.jobs)
    except SkipopuError as error:
        print(f"{SOURCE}: {error}", file=sys.stderr)
        return 2
    every, found = total(scores)
    open_holes = sum(hole.size for hole in holes if explanation(hole) is None)
    said = ", ".join(f"{found[kind]} of {every[kind]} {HEADINGS[kind]}" for kind in KINDS)
    console.print(f"{said}; {open_holes} holes without explanation, {time.perf_counter() - start:.0f} s", soft_wrap=True)
    if args.json:
        records = [Record(f"{kind}_{name}", count[kind], "1", "simulated", SOURCE)
                   for kind in KINDS for name, count in (("reached", found), ("all", every))]  # fmt: skip
        records.append(Record("unexplained", open_holes, "1", "simulated", SOURCE))
        write_json(args.json, "coverage", {"only": args.only}, records, {"units": by_unit(scores)})
    if args.output:
        args.output.write_text(markdown(scores, holes), encoding="utf-8")
    return 0


def reached(groups: Sequence[str], jobs: int) -> tuple[dict[str, Score], list[Hole]]:
    """Scores and holes of what the groups' tests simulate."""
    seen = Counter[Point]()
    with ThreadPoolExecutor(jobs) as pool:
        for group, counts in zip(groups, pool.map(told, groups), strict=True):
            seen.update(merged(counts, units_of(group)))  # adding would drop what was not reached
    return measure(seen)


def told(group: str) -> Counter[Point]:
    """What a group counts; said as progress, too."""
    console.print(f"{group}: {len(SUITE[group])} tests")
    start = time.perf_counter()
    seen = counted(group)
    console.print(
        f"{group}: {sum(count > 0 for count in seen.values())} of {len(seen)} points, {time.perf_counter() - start:.0f} s"
    )
    return seen


def total(scores: dict[str, Score]) -> tuple[Counter[str], Counter[str]]:
    """Points of all units by kind: every one, and those reached."""
    return sum((s.every for s in scores.values()), Counter()), sum((s.reached for s in scores.values()), Counter())


def by_unit(scores: dict[str, Score]) -> dict[str, dict[str, list[int]]]:
    """Unit to kind to [reached, all]."""
    return {unit: {kind: [s.reached[kind], s.every[kind]] for kind in KINDS if s.every[kind]} for unit, s in scores.items()}


if __name__ == "__main__":
    sys.exit(main())
