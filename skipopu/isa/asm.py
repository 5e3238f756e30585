"""Assembler and disassembler of the listing format: ``MNEMONIC field=value ...  ; comment``."""

from __future__ import annotations

from skipopu.errors import ProgramError
from skipopu.isa.spec import BY_NAME, instruction_of


def disassemble(word: int) -> str:
    """One line; fields that are zero are left out."""
    instruction = instruction_of(word)
    if instruction is None:
        return f".word {word:#034x}"
    fields = " ".join(f"{name}={value}" for name, value in instruction.decode(word).items() if value)
    return f"{instruction.name} {fields}".rstrip()


def assemble(text: str) -> list[int]:
    """Words of a listing; blank lines, leading ``N:`` and comments after ``;`` are ignored.

    Raises:
        ProgramError: naming the line.
    """
    words: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split(";")[0].split()
        if parts and parts[0].rstrip(":").isdigit():
            parts = parts[1:]
        if not parts:
            continue
        try:
            if parts[0] == ".word":
                words.append(int(parts[1], 0))
                continue
            instruction = BY_NAME.get(parts[0])
            if instruction is None:
                raise ProgramError(f"mnemonic {parts[0]!r} is not known; accepted: {', '.join(BY_NAME)}")
            values = {name: int(value, 0) for name, value in (part.split("=") for part in parts[1:])}
            words.append(instruction.encode(values))
        except (ValueError, IndexError, ProgramError) as error:
            raise ProgramError(f"line {number}: {error}") from None
    return words
