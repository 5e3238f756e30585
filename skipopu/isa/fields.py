"""Declarative instruction words: fields are named once, bit positions follow from the order of declaration."""

from __future__ import annotations

from dataclasses import dataclass

from skipopu.errors import ProgramError

WORD_BITS = 128


@dataclass(frozen=True)
class Field:
    """An unsigned field of an instruction.

    Attributes:
        name: identifier, the same in Python, RTL and listings.
        width: bits.
        meaning: one line for the documentation.
        unit: what one count means, e.g. ``"64 bytes"``; the encoded number counts these.
    """

    name: str
    width: int
    meaning: str
    unit: str = ""


class Instruction:
    """One macro-instruction: opcode, executing unit, fields and their bit offsets."""

    def __init__(self, name: str, opcode: int, unit: str, semantics: str, fields: tuple[Field, ...]) -> None:
        self.name, self.opcode, self.unit, self.semantics, self.fields = name, opcode, unit, semantics, fields
        self.offsets: dict[str, int] = {}
        position = 0
        for field in fields:
            if field.name in self.offsets:
                raise ValueError(f"{name}: field {field.name} declared twice")
            self.offsets[field.name] = position
            position += field.width
        if position > WORD_BITS:
            raise ValueError(f"{name}: {position} bits of fields do not fit {WORD_BITS}")
        self.used_bits = position
        self.by_name = {field.name: field for field in fields}

    def encode(self, values: dict[str, int]) -> int:
        """Packs ``values`` (missing fields are 0) into one word.

        Raises:
            ProgramError: an unknown field, or a value that does not fit.
        """
        word = 0
        for name, value in {**values, "opcode": self.opcode}.items():
            field = self.by_name.get(name)
            if field is None:
                raise ProgramError(f"{self.name} has no field {name!r}; it has {', '.join(self.by_name)}")
            if not 0 <= value < 1 << field.width:
                raise ProgramError(f"{self.name}.{name} is {value}; accepted: 0..{(1 << field.width) - 1}")
            word |= int(value) << self.offsets[name]
        return word

    def decode(self, word: int) -> dict[str, int]:
        """Field values of ``word``, opcode left out."""
        return {
            field.name: word >> self.offsets[field.name] & (1 << field.width) - 1
            for field in self.fields
            if field.name != "opcode"
        }


def check_opcodes(instructions: tuple[Instruction, ...]) -> dict[int, Instruction]:
    """Maps opcode to instruction; raises ValueError when two clash."""
    table: dict[int, Instruction] = {}
    for instruction in instructions:
        if instruction.opcode in table:
            raise ValueError(f"{instruction.name} and {table[instruction.opcode].name} share an opcode")
        table[instruction.opcode] = instruction
    return table
