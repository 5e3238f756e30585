"""The exceptions that the command line turns into one sentence and a non-zero exit code."""


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
