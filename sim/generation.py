"""Tokens that follow a prompt, one at a time: greedy or drawn, with drafts that are looked at several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.result import Result
from sim.session import Session
from skipopu.lookup import Lookup
from skipopu.program.run import COMPILED, Run
from skipopu.sampling import GREEDY, Sampling


@dataclass
class Generation:
    """Generates with a session. Drafts change no token: each is compared with the one that is chosen without it.

    Attributes:
        routing, dial: as of a :class:`skipopu.program.run.Run`. lookup: makes drafts, if there is one.
        see: gets each run and its result. runs: so far. drafted, accepted: tokens. saturated: numbers left their range.
    """

    session: Session
    sampling: Sampling = GREEDY
    lookup: Lookup | None = None
    routing: str | NDArray[np.bool_] = COMPILED
    dial: float = 0.0
    watch: Watch = QUIET
    see: Callable[[Run, Result], None] = lambda run, result: None
    runs: int = field(default=0, init=False)
    drafted: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    saturated: bool = field(default=False, init=False)

    def tokens(self, prompt: tuple[int, ...], max_new: int) -> Iterator[int]:
        """Tokens behind ``prompt``: ``max_new``, fewer where an end-of-sequence id or the context's end comes."""
        program, after = self.session.program, list[int]()
        most = min(max_new, program.context - len(prompt))
        while len(after) < most:
            for token in self._step(prompt, after, most - len(after) - 1):
                after.append(token)
                yield token
                if token in program.model.eos_token_ids or len(after) == most:
                    return

    def _step(self, prompt: tuple[int, ...], after: list[int], most: int) -> list[int]:
        """One run: the token that follows, and those behind it as far as a draft of at most ``most`` says the same.

        Behind a prompt there is none: it would be a chunk, and a pass through the weights, of its own.
        """
        program, known = self.session.program, (*prompt, *after)
        most = min(most, program.machine.tokens - 1)
        draft = self.lookup.draft(known, most) if self.lookup and after else ()
        run = Run(prompt, 0, self.dial, False, self.routing, (*after, *draft), predict_from=len(known) - 1)
        run = self.session.follow(run)
        result = self.session.run(run, self.watch)
        self.saturated |= result.saturated
        self.runs, self.drafted = self.runs + 1, self.drafted + len(draft)
        self.see(run, result)
        chosen: list[int] = []
        for number, best in enumerate(result.predicted):
            if not self.sampling.greedy:
                best = self.sampling.choose(self.session.logits(len(known) - 1 + number), run.known[: len(known) + number])
            chosen.append(best)
            if draft[number : number + 1] != (best,) or best in program.model.eos_token_ids:
                break
        self.accepted += len(chosen) - 1
        return chosen
