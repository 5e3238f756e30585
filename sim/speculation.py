"""What runs of a generation take: cycles of an engine with time, or of the timing engine behind the functional one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.engine import QUIET, Watch
from sim.masks import Masks
from sim.result import Result, Routed
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.errors import ProgramError
from skipopu.program.program import Program
from skipopu.program.run import Run


@dataclass(frozen=True)
class Steps:
    """Cycles of a generation's runs, the first of which has the prompt and one token: what each took, host and its link left out."""

    cycles: tuple[int, ...]
    tokens: int
    clock_mhz: float

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.cycles[0] / (self.clock_mhz * 1e6)

    @property
    def tokens_per_s(self) -> float:
        """Of all tokens behind the first."""
        return (self.tokens - 1) / (sum(self.cycles[1:]) / (self.clock_mhz * 1e6))


def counted(
    program: Program, results: Sequence[tuple[Run, Result]], tokens: int, masks: Masks | None = None, watch: Watch = QUIET
) -> Steps:
    """Steps to so many ``tokens``: by their own counters, or timed where results say what executed instead.

    Raises:
        ProgramError: the program leaves out channels, and nobody says which.
    """
    known = [result.counters["CYCLES"] for _, result in results if result.counters is not None]
    if len(known) < len(results):
        if program.masks and masks is None:
            raise ProgramError("which channels are left out is not said: give the timing engine the runs' masks")
        routed = [(run, result) for run, result in results if isinstance(result, Routed)]
        channels = Recorded(program, masks.active) if masks is not None else None
        watch.say("timing engine")
        known = [timed.counters["CYCLES"] for timed in timing.follow(program, routed, channels)]
    return Steps(tuple(known), tokens, program.machine.clock_mhz)


def draws(prompt: int, new: int, acceptance: float, drafts: int, seed: int = 0, found: float = 1.0) -> list[Run]:
    """Runs of ``new`` tokens behind ``prompt`` others, ids unknown, of which each has, with the chance ``found``, up to ``drafts`` drafted
    ones; each is right with the chance ``acceptance`` where those before it are."""
    rng, known = np.random.default_rng(seed), (0,) * prompt
    runs, done = [Run(known, predict_from=prompt - 1)], 1
    while done < new:
        draft = min(drafts, new - done - 1) if rng.random() < found else 0
        first = prompt + done - 1
        runs.append(Run(known, after=(0,) * (done + draft), first=first, predict_from=first))
        right = rng.random(drafts) < acceptance
        done += 1 + int(np.cumprod(right[:draft]).sum())
    return runs
