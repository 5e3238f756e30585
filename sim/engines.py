"""The engines: names to modules, imported when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

from sim.engine import Engine, Instance, Options
from skipopu.errors import ProgramError, not_known
from skipopu.program.program import Program

Known = Literal["text", "routing", "memory", "counters"]

# name -> (package with ``engine`` and ``options``, what its results hold; text: token ids are told while it runs)
ENGINES: dict[str, tuple[str, tuple[Known, ...]]] = {
    "reference": ("sim.reference", ("text", "routing")),
    "functional": ("sim.functional", ("text", "routing", "memory")),
    "timing": ("sim.timing", ("routing", "counters")),
    "rtl": ("sim.rtl", ("memory", "counters")),
}
KEEPING = ("functional", "rtl")  # what runs leave for others


def engine(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        ProgramError: there is none.
    """
    return _module(name, "engine")


def instance(name: str, program: Program, options: Options | None = None) -> Instance:
    """A machine of the engine called ``name`` that keeps what a run leaves.

    Raises:
        ProgramError: there is no such engine, or it keeps nothing.
    """
    if name not in KEEPING:
        raise ProgramError(not_known("engine of a session", name, KEEPING))
    if options is not None and not isinstance(options, _module(name, "options").Options):
        raise ProgramError(f"options are {options!r}; accepted: the {name} engine's Options")
    made: Instance = _module(name, "engine").Instance(program, options)
    return made


def options(name: str) -> type[Options]:
    """The class of an engine's options, without what the engine itself imports."""
    return _module(name, "options").Options


def knows(name: str, what: Known) -> bool:
    """Whether the results of the engine called ``name`` hold ``what``."""
    return what in ENGINES[name][1]


def _module(name: str, part: str) -> Any:
    if name not in ENGINES:
        raise ProgramError(not_known("engine", name, ENGINES))
    return importlib.import_module(f"{ENGINES[name][0]}.{part}")


if TYPE_CHECKING:
    from sim.functional import engine as functional
    from sim.reference import engine as reference
    from sim.rtl import engine as rtl
    from sim.timing import engine as timing

    _ENGINES: tuple[Engine, ...] = (reference, functional, timing, rtl)
    _INSTANCES: tuple[type[Instance], ...] = (functional.Instance, rtl.Instance)
