"""``skipopu fuzz``."""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import multiprocessing
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from sim.command.common import console
from sim.fuzz.case import LONG_CYCLES, LONG_PORTS, LONG_PROMPT, PROGRAMS, Case, case, from_dict, program_of
from sim.fuzz.run import BOUND, SHORT_BOUND, Line, attempt, cycles_of, is_fault, within
from sim.fuzz.shrink import shrink
from skipopu.arguments import add_json, add_seed, output_file, positive, refuse
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json
from skipopu.terminal import Following


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count",
        type=positive,
        default=20,
        metavar="N",
        help="overlays to try; default %(default)s",
    )
    parser.add_argument("--seconds", type=positive, metavar="N", help="begin overlays for so long, instead of a number of them")
    parser.add_argument(
        "--programs",
        type=positive,
        default=PROGRAMS,
        metavar="N",
        help="models and runs per overlay, most with a memory of their own behind it; more than the default are shorter ones; default"
        " %(default)s",
    )
    add_seed(parser, "of the first overlay")
    parser.add_argument("--case", metavar="CASE", help="try one alone: its seed, or a file that --shrink wrote")
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"prompts of up to {LONG_PROMPT} tokens on up to {LONG_PORTS} ports, some {LONG_CYCLES[1]:,} cycles at most",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="overlays at a time; default %(default)s")
    parser.add_argument(
        "--log", type=output_file, metavar="FILE", help="append a JSON line per program: what ran, outcome, counters"
    )
    parser.add_argument("--stop-on-fault", action="store_true", help="end with the first fault")
    parser.add_argument("--shrink", action="store_true", help="set every fault's fields back to plain values while it stays")
    parser.add_argument("--keep", action="store_true", help="leave the simulations that were built in the cache")
    parser.add_argument("--no-rtl", action="store_true", help="compile and run on the other engines alone: seconds")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.case is not None:
        refuse(args, ["--count", "--seed", "--seconds"], "has no effect beside --case, which names the one to try")
        if not args.case.isdigit():
            refuse(args, ["--long", "--programs"], "has no effect beside a file, which holds the case")
    if args.seconds:
        refuse(args, ["--count"], "has no effect beside --seconds")
    if args.long and args.programs > PROGRAMS:
        raise SkipopuError(f"--programs is {args.programs}; accepted beside --long: 1 to {PROGRAMS}")
    start = time.perf_counter()
    lines, interrupted = search(args, cases_of(args))
    summary = summarise(lines)
    for fault in [line for line in lines if is_fault(line)]:
        console.print(told(fault), style="red", soft_wrap=True)
    print(text_of(summary, time.perf_counter() - start))
    if args.json:
        inputs = {name: getattr(args, name) for name in ("count", "seconds", "programs", "seed", "case", "long")}
        inputs["rtl"] = not args.no_rtl
        write_json(args.json, "fuzz", inputs, [Record(n, v, "1", "simulated", "skipopu fuzz") for n, v in summary.items()])
    return 130 if interrupted else 1 if summary["faults"] else 0


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    """The cases to try, each drawn when it is asked for."""
    return iter([read(args.case, args.long, args.programs)]) if args.case is not None else _drawn(args)


def _drawn(args: argparse.Namespace) -> Iterator[Case]:
    end = time.monotonic() + (args.seconds or math.inf)
    for k in itertools.count() if args.seconds else range(args.count):
        if time.monotonic() > end:
            return
        yield case(args.seed + k, args.long, args.programs)


def read(text: str, long: bool, programs: int = PROGRAMS) -> Case:
    """A case by seed, or from a JSON file of one (of a line of the log: its program alone).

    Raises:
        SkipopuError: neither.
    """
    if text.isdigit():
        return case(int(text), long, programs)
    try:
        data = json.loads(Path(text).read_text())
        if "programs" not in data:
            data["programs"] = [program_of(data)]
        return from_dict(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SkipopuError(f"--case is {text!r}; accepted: a seed, or a JSON file of a case ({error})") from None


def search(args: argparse.Namespace, cases: Iterator[Case]) -> tuple[list[Line], bool]:
    """All lines, and whether it was interrupted or told to end; what runs then is ended."""
    lines: list[Line] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    jobs, interrupted, start = _Jobs(args, cases), False, time.monotonic()
    total = args.seconds or (args.count if args.case is None else 1)
    pool = multiprocessing.get_context("spawn").Pool(args.jobs, _prepare, maxtasksperchild=25) if args.jobs > 1 else None
    try:
        with Following(*columns) as progress:
            task = progress.add_task("fuzz", total=total)
            for done, of_case in enumerate(pool.imap_unordered(_work, jobs) if pool else map(_work, jobs), 1):
                jobs.more()
                for line in of_case:
                    lines.append(line)
                    if args.log:
                        append(args.log, line)
                    if is_fault(line):
                        progress.console.print(told(line), style="red", soft_wrap=True)
                        if args.shrink:
                            given = next(iter(cases_of(args))) if args.case else case(line["seed"], args.long, args.programs)
                            small = shrink(line, given, progress.console.print, not args.no_rtl)
                            if small is None:
                                progress.console.print(f"{line['seed']}: the fault did not come again, no case is written")
                                continue
                            path = Path(f"fuzz-{line['seed']}-{line['number']}.json")
                            path.write_text(json.dumps(small, indent=1) + "\n")
                            progress.console.print(f"skipopu fuzz --case {path}", soft_wrap=True)
                faults = sum(map(is_fault, lines))
                completed = min(total, time.monotonic() - start) if args.seconds else done
                progress.update(task, completed=completed, description=f"fuzz, {len(lines)} programs, {faults} faults")
                if faults and args.stop_on_fault:
                    break
            else:
                if pool:
                    pool.close()
                    pool.join()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        jobs.stop()
        if pool:
            pool.terminate()
        signal.signal(signal.SIGTERM, before)
    return lines, interrupted


class _Jobs:
    """What workers are given: a case more than they are, and another for every one that is done."""

    def __init__(self, args: argparse.Namespace, cases: Iterator[Case]) -> None:
        self.args, self.cases = args, cases
        self.may_begin, self.stopped = threading.Semaphore(args.jobs + 1), False

    def __iter__(self) -> Iterator[tuple[Case, bool, bool]]:
        while self.may_begin.acquire() and not self.stopped and (given := next(self.cases, None)) is not None:
            yield given, self.args.keep, not self.args.no_rtl

    def more(self) -> None:
        """One is done."""
        self.may_begin.release()

    def stop(self) -> None:
        """No more are given."""
        self.stopped = True
        self.may_begin.release()


def _prepare() -> None:
    """The parent, which an interrupt reaches too, ends a worker: by one exception, so that what it started is ended and what it built is deleted."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(1)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: tuple[Case, bool, bool]) -> list[Line]:
    given, keep, with_rtl = job
    return attempt(given, keep, with_rtl=with_rtl)


def append(path: Path, line: Line) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def told(line: Line) -> str:
    """A fault in a line or two, with what repeats it."""
    again = f"skipopu fuzz --case {line['seed']}" + " --long" * line["long"]
    if line["count"] != PROGRAMS:
        again += f" --programs {line['count']}"
    return f"{line['outcome']}, program {line['number']}: {line['message']}\n  {again}"


def summarise(lines: list[Line]) -> dict[str, int | float | None]:
    """Numbers of descriptions tried, refused (no program of theirs ran), agreed and faulty; of the overlays that were simulated for
    them (a description's memory and ring need no other); of programs; refusals by reason; descriptions since the last fault; cycles'
    errors of the timing engine."""
    by_description: dict[str, list[Line]] = {}
    for line in lines:
        by_description.setdefault(json.dumps(line["machine"], sort_keys=True), []).append(line)
    outcomes = [
        "fault" if any(map(is_fault, of)) else "agreed" if any(line["outcome"] == "agreed" for line in of) else "refused"
        for of in by_description.values()
    ]
    cycles = [of for line in lines for of in cycles_of(line)]
    errors = [abs(timing / rtl - 1) for timing, rtl in cycles]
    reasons = collections.Counter(reason(line) for line in lines if line["outcome"] == "refused")
    return {
        "descriptions": len(outcomes),
        "agreed": outcomes.count("agreed"),
        "refused": outcomes.count("refused"),
        "faults": outcomes.count("fault"),
        "streak": len(outcomes) if "fault" not in outcomes else outcomes[::-1].index("fault"),
        "overlays": len({line["seed"] for line in lines if "rtl" in line}),
        "programs": len(lines),
        "programs_agreed": sum(line["outcome"] == "agreed" for line in lines),
        "rtl_cycles": sum(of["rtl"]["CYCLES"] for line in lines for of in (line, line.get("behind", {})) if "rtl" in of),
        "timing_runs": len(errors),
        "timing_beyond_bound": sum(error > BOUND for error in errors),
        "timing_missed": sum(not within(*of) for of in cycles),
        "timing_median_error": float(np.median(errors)) if errors else None,
        **{f"refused: {text}": count for text, count in reasons.most_common()},
    }


def reason(line: Line) -> str:
    """What a refusal is about: its text up to the value, without the machine's name."""
    about = re.sub(r"^(machine fuzz-\d+|machine description): ", "", line["message"]).split(" is ")[0]
    return re.sub(r"\d+", "N", about)[:60]


def text_of(summary: dict[str, Any], seconds: float) -> str:
    s = summary
    head = (
        f"{s['descriptions']} descriptions: {s['agreed']} agreed, {s['refused']} refused, {s['faults']} faulty; {s['streak']} in"
        f" a row without a fault. {s['overlays']} overlays simulated; {s['programs_agreed']} of {s['programs']} programs agreed,"
        f" {s['rtl_cycles']:,} cycles, {seconds:.0f} s."
    )
    reasons = "; ".join(f"{key.partition(': ')[2]} {n}" for key, n in s.items() if key.startswith("refused: "))
    timing = (
        f"\nTiming engine, {s['timing_runs']} runs: median error {s['timing_median_error']:.2%}, {s['timing_beyond_bound']} beyond"
        f" {BOUND:.0%}, {s['timing_missed']} of them by more than {SHORT_BOUND} cycles."
        if s["timing_runs"]
        else ""
    )
    return head + timing + (f"\nRefused, by reason: {reasons}." if reasons else "")
