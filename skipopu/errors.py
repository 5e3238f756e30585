"""The exceptions that the command line turns into one sentence and a non-zero exit code."""

from __future__ import annotations

from collections.abc import Iterable


class SkipopuError(Exception):
    """Base of every error a user can cause; its text names the file, layer or field and what is accepted."""


class ConfigError(SkipopuError):
    """A machine description or model configuration that cannot be used."""


class CheckpointError(SkipopuError):
    """A missing, misshapen or non-finite tensor, or an unsupported checkpoint."""


class ProgramError(SkipopuError):
    """A truncated, foreign or corrupt program, or one that does not fit the machine."""


class MachineHalt(SkipopuError):
    """The machine stopped with an error code.

    Attributes:
        code: member of :class:`skipopu.isa.registers.Error`.
        pc: index of the failing instruction.
        tokens: what had been generated before.
    """

    def __init__(self, code: int, pc: int, text: str, tokens: list[int] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.pc = pc
        self.tokens = tokens or []


def not_known(what: str, name: str, accepted: Iterable[str], more: str = "") -> str:
    """Says that ``name`` is no ``what``, what is accepted (and ``more``), and which of it was meant, perhaps."""
    import difflib

    accepted = list(accepted)
    close = difflib.get_close_matches(name, accepted, 1)
    return f"{what} {name!r} is not known; accepted: {', '.join(accepted)}{more}" + (
        f"; did you mean {close[0]!r}?" if close else ""
    )
