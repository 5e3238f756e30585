"""Runs that follow one another on one machine: what earlier ones computed stays."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sim import engines
from sim.engine import QUIET, Instance, Options, Watch
from sim.result import Result
from skipopu.errors import ProgramError
from skipopu.isa.registers import MASK_GENERATED, MASK_PROMPT, Config
from skipopu.policy import WINDOW
from skipopu.program.program import Program
from skipopu.program.run import Run


class Session:
    """A machine with a program, which keeps tokens' keys, values and routing from one run to the next.

    A token is kept for another run where that would compute the same of it: under the same dial and policy or trace, and in the same phase
    where the program's policies or masks tell phases apart.

    Attributes:
        ids: tokens whose keys and values are kept, from position 0 on. begins: positions of which each began a chunk.
    """

    def __init__(self, program: Program, engine: str | Instance = "functional", options: Options | None = None) -> None:
        """``engine``: the name of one that keeps what runs leave, or a machine that does.

        Raises:
            ProgramError: the program is that of a shape, or the engine keeps nothing.
        """
        if not isinstance(program, Program):
            raise ProgramError(f"program is {program!r}; accepted: what compile returns")
        if not isinstance(engine, str) and not hasattr(engine, "run"):
            raise ProgramError(
                f"engine is {engine!r}; accepted: the name of an engine, or a machine that keeps what runs leave"
            )
        if not program.memory:
            raise ProgramError(f"the program of shape {program.source['checkpoint']} has no weights; a session computes")
        self.program = program
        self.machine = engines.instance(engine, program, options) if isinstance(engine, str) else engine
        self.ids: tuple[int, ...] = ()
        self.begins: list[int] = []
        self.how: list[tuple[object, ...]] = []  # each kept token was computed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept any more; a simulation ends."""
        self.machine.close()
        self.ids, self.begins, self.how = (), [], []

    def run(self, run: Run, watch: Watch = QUIET) -> Result:
        """Executes ``run``; what is kept of tokens from ``run.first`` on is given back first. ``memory`` of the result is the machine's: the
        next run changes it.

        Raises:
            ProgramError: it does not fit the program, begins behind what is kept for it or where no run can begin.
            MachineHalt: the machine would stop with an error code. Nothing is kept then.
        """
        self._validate(run)
        if run.first > (kept := self.common(run)):
            accepted = f"0 to {kept}, behind its tokens that are kept" if kept else "0, nothing is kept for it"
            raise ProgramError(f"the first position is {run.first}; accepted: {accepted}")
        if run.first != (begins := self.begin(run, run.first)):
            raise ProgramError(f"the first position is {run.first}, where no run can begin; accepted: {begins}")
        earlier, how = [position for position in self.begins if position < run.first], self.how[: run.first]
        self.ids, self.begins, self.how = (), [], []
        result = self.machine.run(run, watch)
        end = run.processed(len(result.tokens))
        self.ids = (*run.known, *result.tokens)[:end]
        self.begins, position = earlier, run.first
        while position < end:
            self.begins.append(position)
            position += run.chunk(position, self.program.machine.tokens)
        self.how = [*how, *map(self._how(run), range(run.first, end))]
        return result

    def logits(self, position: int) -> NDArray[np.float32]:
        """(vocab,) of a token of the last run that it was asked about: from ``predict_from`` on, and the last known one.

        Raises:
            ProgramError: hardware whose program stores none.
        """
        return self.machine.logits(position)

    def follow(self, run: Run) -> Run:
        """``run`` from as late on as what is kept, and what it asks for, allow.

        Raises:
            ProgramError: it does not fit the program.
        """
        self._validate(run)
        run = replace(run, first=0)
        asked = len(run.known) - 1 if run.predict_from is None else run.predict_from
        return replace(run, first=self.begin(run, min(self.common(run), asked)))

    def _validate(self, run: Run) -> None:
        if not isinstance(run, Run):
            raise ProgramError(f"run is {run!r}; accepted: a Run")
        run.validate(self.program)

    def common(self, run: Run) -> int:
        """How many of its first tokens are kept for ``run``."""
        how = self._how(run)
        pairs = enumerate(zip(run.known, self.ids, self.how, strict=False))
        differing = (k for k, (asked, kept, was) in pairs if asked != kept or was != how(k))
        return next(differing, min(len(run.known), len(self.ids)))

    def begin(self, run: Run, position: int) -> int:
        """The last position up to ``position`` at which ``run`` can begin.

        A port hands out its places in turn. Where a chunk has more tokens than there are ports, those of its tokens in one port alternate
        layer by layer, and only all of them can be given back. A policy that compares a prompt's tokens needs its whole window.
        """
        step = 1
        if position < len(run.prompt) and any(p.keep for layer in run.policies(self.program) for pair in layer for p in pair):
            step = WINDOW
        return next(p for p in range(position, -1, -1) if p % step == 0 and self._alone(p))

    def _alone(self, position: int) -> bool:
        """Whether no port has places of one chunk's tokens on both sides of ``position``."""
        number = bisect.bisect_left(self.begins, position)
        begin, end = self.begins[number - 1 : number], self.begins[number : number + 1] or [len(self.ids)]
        return not begin or end[0] == position or end[0] - begin[0] <= self.program.machine.ports

    def _how(self, run: Run) -> Callable[[int], tuple[object, ...]]:
        """By position, what decides what ``run`` computes of a token: of a prompt's that are compared, how many of its window there are."""
        policies = run.policies(self.program)
        compared = any(p.keep for layer in policies for pair in layer for p in pair)
        masking = self.program.register(Config.MASKING) if self.program.masks else 0
        apart = masking not in (0, MASK_GENERATED | MASK_PROMPT) or any(prefill != decode for prefill, decode in policies)

        def how(position: int) -> tuple[object, ...]:
            routing = run.routing if isinstance(run.routing, str) else run.routing[..., position].tobytes()
            window = min(WINDOW, len(run.prompt) - position // WINDOW * WINDOW) if compared else 0
            return routing, run.dial, apart and position >= len(run.prompt), max(0, window)

        return how
