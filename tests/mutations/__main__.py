"""Puts each fault of the table into the hardware and runs the test that is to notice it; writes the table as a page."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from skipopu.arguments import Parser, add_json, add_seed, output_file, positive
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json
from skipopu.terminal import console
from tests.mutations.faults import FAULTS, Fault
from tests.mutations.page import markdown
from tests.mutations.run import attempt

SOURCE = "python -m tests.mutations"


def parser() -> argparse.ArgumentParser:
    p = Parser(prog=SOURCE, description=__doc__, allow_abbrev=False)
    p.add_argument("--sample", type=positive, metavar="N", help="so many of them, drawn; default all")
    add_seed(p, "of the sample")
    p.add_argument("--only", default="", metavar="TEXT", help="those whose file, line, meaning or test has this in it")
    p.add_argument("-o", "--output", type=output_file, metavar="FILE", help="write the page of all faults, if each was noticed")
    p.add_argument("--jobs", type=positive, default=1, metavar="N", help="tests at a time; default %(default)s")
    add_json(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every fault was noticed, 1 if one was not, 2 if the command cannot be carried out."""
    args = parser().parse_args(arguments)
    try:
        faults = chosen(args.only, args.sample, args.seed)
        if args.output and len(faults) < len(FAULTS):
            raise SkipopuError("-o writes a page of all faults; neither --only nor --sample is accepted with it")
        start = time.perf_counter()
        with ThreadPoolExecutor(args.jobs) as pool:
            problems = dict(
                zip(faults, pool.map(told, range(1, len(faults) + 1), faults, len(faults) * [len(faults)]), strict=True)
            )
    except SkipopuError as error:
        print(f"{SOURCE}: {error}", file=sys.stderr)
        return 2
    survivors = [fault for fault, problem in problems.items() if problem]
    seconds = time.perf_counter() - start
    console.print(f"{len(faults)} faults, {len(faults) - len(survivors)} noticed, {seconds:.0f} s")
    if args.json:
        figures = {"faults": len(faults), "noticed": len(faults) - len(survivors)}
        records = [Record(name, value, "1", "simulated", SOURCE) for name, value in figures.items()]
        records.append(Record("wall_s", seconds, "s", "measured", SOURCE, digits=".1f"))
        inputs = {"sample": args.sample, "seed": args.seed, "only": args.only}
        write_json(args.json, "mutations", inputs, records, {"survivors": [f"{f.file}: {f.before}" for f in survivors]})
    if args.output and not survivors:
        args.output.write_text(markdown(), encoding="utf-8")
    return 1 if survivors else 0


def chosen(only: str, sample: int | None, seed: int) -> list[Fault]:
    """The faults with ``only`` in them, or ``sample`` of these.

    Raises:
        SkipopuError: there is none.
    """
    faults = [f for f in FAULTS if only in "\n".join((f.file, f.before, f.after, f.breaks, f.test))]
    if not faults:
        raise SkipopuError(f"--only is {only!r}; accepted: what one of {len(FAULTS)} faults has in it")
    if sample is None or sample >= len(faults):
        return faults
    return random.Random(seed).sample(faults, sample)


def told(number: int, fault: Fault, count: int) -> str:
    """What is wrong with a fault's test, "" if it notices it; said as progress, too."""
    problem = missed(fault)
    console.print(f"{number}/{count} {fault.file}: {problem or 'noticed'}", style="red" if problem else "", soft_wrap=True)
    return problem


def missed(fault: Fault) -> str:
    """Why ``fault`` counts as unnoticed, "" if it was noticed: its test has to pass without it and to fail in an assertion with it."""
    plain, faulty = attempt(fault.test), attempt(fault.test, fault)
    if not plain.passed:
        return f"{fault.test} does not pass without the fault: {plain.said}"
    if faulty.passed:
        return f"{fault.test} passes with `{fault.after}`"
    return "" if faulty.failed else f"{fault.test} fails with `{fault.after}`, but in no assertion: {faulty.said}"


if __name__ == "__main__":
    sys.exit(main())
