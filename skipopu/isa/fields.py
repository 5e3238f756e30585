"""Declarative words of instructions and records: fields are named once, bit positions follow from the order of declaration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


class Word:
    """Fields side by side from bit 0 on, in ``bits`` bits; attribute ``offsets`` maps a field's name to its lowest bit."""

    def __init__(self, name: str, bits: int, fields: tuple[Field, ...]) -> None:
        self.name, self.bits, self.fields = name, bits, fields
        self.offsets: dict[str, int] = {}
        position = 0
        for field in fields:
            if field.name in self.offsets:
                raise ValueError(f"{name}: field {field.name} declared twice")
            self.offsets[field.name] = position
            position += field.width
        if position > bits:
            raise ValueError(f"{name}: {position} bits of fields do not fit {bits}")
        self.used_bits = position
        self.by_name = {field.name: field for field in fields}

    def encode(self, values: dict[str, int]) -> int:
        """Packs ``values`` (missing fields are 0) into one word.

        Raises:
            ProgramError: an unknown field, or a value that does not fit.
        """
        word = 0
        for name, value in values.items():
            field = self.by_name.get(name)
            if field is None:
                raise ProgramError(f"{self.name} has no field {name!r}; it has {', '.join(self.by_name)}")
            if not 0 <= value < 1 << field.width:
                raise ProgramError(f"{self.name}.{name} is {value}; accepted: 0..{(1 << field.width) - 1}")
            word |= int(value) << self.offsets[name]
        return word

    def decode(self, word: int) -> dict[str, int]:
        """Field values of ``word``."""
        return {field.name: word >> self.offsets[field.name] & (1 << field.width) - 1 for field in self.fields}


class Instruction(Word):
    """One macro-instruction: opcode, executing unit, fields and their bit offsets."""

    def __init__(self, name: str, opcode: int, unit: str, semantics: str, fields: tuple[Field, ...]) -> None:
        super().__init__(name, WORD_BITS, fields)
        self.opcode, self.unit, self.semantics = opcode, unit, semantics

    def encode(self, values: dict[str, int]) -> int:
        """As :meth:`Word.encode`, the opcode being known."""
        return super().encode({**values, "opcode": self.opcode})

    def decode(self, word: int) -> dict[str, int]:
        """As :meth:`Word.decode`, opcode left out."""
        values = super().decode(word)
        del values["opcode"]
        return values


class Record(Word):
    """A structure in memory, little endian, ``size`` bytes long."""

    def __init__(self, name: str, size: int, fields: tuple[Field, ...]) -> None:
        super().__init__(name, 8 * size, fields)
        self.size = size

    def pack(self, **values: int) -> NDArray[np.uint8]:
        """(size,) bytes; missing fields are 0."""
        return np.frombuffer(self.encode(values).to_bytes(self.size, "little"), np.uint8)

    def unpack(self, memory: NDArray[np.uint8], address: int = 0) -> dict[str, int]:
        """Field values of the record at byte ``address``."""
        return self.decode(int.from_bytes(memory[address : address + self.size].tobytes(), "little"))


def check_opcodes(instructions: tuple[Instruction, ...]) -> dict[int, Instruction]:
    """Maps opcode to instruction; raises ValueError when two clash."""
    table: dict[int, Instruction] = {}
    for instruction in instructions:
        if instruction.opcode in table:
            raise ValueError(f"{instruction.name} and {table[instruction.opcode].name} share an opcode")
        table[instruction.opcode] = instruction
    return table
