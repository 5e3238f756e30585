"""What an engine is: it runs a compiled program; the four of them are listed in :mod:`sim.engines`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sim.result import Result
from skipopu.program.program import Program
from skipopu.program.run import Run


class Watch:
    """Follows a run. This one looks away; others override what they want to see."""

    def token(self, token: int | None) -> None:
        """A token was generated; None when only that is known, and the id once the run ended."""

    def positions(self, done: int) -> None:
        """So many tokens, of the prompt and generated ones, were processed."""

    def say(self, phase: str) -> None:
        """What goes on, in a few words."""


QUIET = Watch()


@dataclass(frozen=True)
class Options:
    """What an engine takes beside program and run, in a class of its own for each.

    Attributes:
        FLAGS: options of the command line that need this engine.
    """

    FLAGS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declares the engine's options of the command line, if it has any."""

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        """What the command line asks for; also asked when it is another engine that runs.

        Raises:
            SkipopuError: options that contradict one another.
        """
        return cls()


class Instance(Protocol):
    """A machine that holds a program and keeps what a run leaves for the next one: ``Instance(program, options)`` of an engine that has
    some, or a board."""

    def run(self, run: Run, watch: Watch = QUIET) -> Result:
        """Executes ``run``, which may begin where the runs before it left what it needs.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt: the machine stopped with an error code, or would. Nothing is kept then.
        """
        ...

    def logits(self, position: int) -> NDArray[np.float32]:
        """(vocab,) of a token that the last run computed and was asked about.

        Raises:
            ProgramError: they are not known.
        """
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class Engine(Protocol):
    """What a module ``sim.NAME.engine`` is.

    Attributes:
        name: as ``--engine`` takes it.
        Options: the class that ``options`` are of.
    """

    @property
    def name(self) -> str: ...

    @property
    def Options(self) -> type[Options]: ...

    def run(self, program: Program, run: Run, options: Any = None, watch: Watch = QUIET) -> Result:
        """Executes ``program``; without ``options`` by the engine's defaults.

        Raises:
            ProgramError: the run does not fit the program.
            MachineHalt: the machine stopped with an error code, or would.
        """
        ...
