"""What the dispatcher hands to a unit, and what a unit has retired."""

from __future__ import annotations

from amaranth.hdl import Value
from amaranth.lib import data

from skipopu.isa.fields import WORD_BITS, Instruction
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine

UNITS = len(Unit)


class Issue(data.StructLayout):
    """An instruction with the machine state it was dispatched under.

    word: the instruction. mask: listed slots. address: memory address with the layer base, 64-byte units. position: of
    slot 0. count: slots of the chunk. map_row: KV map index of (layer, token 0). trace_row: address of the layer's trace,
    64-byte units. first_layer: layer is 0. empty: nothing to do. entries: KVWRITEs
    dispatched before it.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "word": WORD_BITS,
                "mask": machine.tokens,
                "address": 32,
                "position": 24,
                "count": 7,
                "map_row": 24,
                "trace_row": 32,
                "first_layer": 1,
                "empty": 1,
                "pc": 12,
                "sequence": 32,
                "entries": 16,
            }
        )


class Record(data.StructLayout):
    """An instruction that a unit has retired, for the trace ring."""

    def __init__(self) -> None:
        super().__init__({"sequence": 32, "pc": 12, "signature": 32})


def field(word: Value, instruction: Instruction, name: str) -> Value:
    """A field of an instruction word, by the one specification."""
    offset = instruction.offsets[name]
    return word[offset : offset + instruction.by_name[name].width]
