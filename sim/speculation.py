"""What runs of a generation take: cycles of an engine with time, or of the timing engine behind the functional one."""

from __future__ import annotations

import numpy as np

from sim.masks import Masks
from sim.result import Result, Routed
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.program.program import Program
from skipopu.program.run import Run


class Steps:
    """Cycles of a generation's runs, the first of which has the prompt and one token; host and its link left out.

    Attributes:
        cycles: of each run.
    """

    def __init__(self, program: Program, masks: Masks | None = None) -> None:
        """``masks``: what the functional engine sees, of a program that leaves out channels."""
        self.clock = program.machine.clock_mhz * 1e6
        self.following = timing.Following(program, Recorded(program, masks.active) if masks is not None else None)
        self.cycles: list[int] = []

    def see(self, run: Run, result: Result) -> None:
        """A run, as it ends: by its own counters, or timed where the result says what executed instead."""
        if result.counters is not None:
            self.cycles.append(result.counters["CYCLES"])
        else:
            assert isinstance(result, Routed)
            self.cycles.append(self.following.count(run, result).counters["CYCLES"])

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.cycles[0] / self.clock

    def tokens_per_s(self, tokens: int) -> float:
        """Of all but the first of so many ``tokens``, more than one."""
        return (tokens - 1) / (sum(self.cycles[1:]) / self.clock)


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
