"""What the dispatcher hands to a unit, and what a unit has retired."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Value
from amaranth.lib import data

from hw.widths import MAP_ROW_BITS, POSITION_BITS
from skipopu.isa.fields import WORD_BITS, Word
from skipopu.isa.spec import PC_BITS, Unit
from skipopu.machine.config import Machine

UNITS = len(Unit)
ENTRY_BITS = 16  # of a count of KVWRITEs, modulo


class Issue(data.StructLayout):
    """An instruction with the machine state it was dispatched under.

    word: the instruction. mask: listed slots. address: memory address with the layer base, 64-byte units. position: of
    slot 0. count: slots of the chunk. map_row: KV map index of (layer, token 0). trace_row: address of the layer's trace,
    64-byte units. first_layer: layer is 0. empty: nothing to do. entries: KVWRITEs
    dispatched before it. window: tokens that a query of the layer sees, 0: all; where a machine has windows. masked: a product with thresholds,
    again: it has the mask of the product before; where it has masks.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "word": WORD_BITS,
                "mask": machine.tokens,
                "address": 32,
                "position": POSITION_BITS,
                "count": 7,
                "map_row": MAP_ROW_BITS,
                "trace_row": 32,
                "first_layer": 1,
                "empty": 1,
                "pc": PC_BITS,
                "sequence": 32,
                "entries": ENTRY_BITS,
                **({"window": POSITION_BITS} if machine.window else {}),
                **({"masked": 1, "again": 1} if machine.masks else {}),
            }
        )


class Record(data.StructLayout):
    """An instruction that a unit has retired, for the trace ring."""

    def __init__(self) -> None:
        super().__init__({"sequence": 32, "pc": PC_BITS, "signature": 32})


def field(word: Value, layout: Word, name: str) -> Value:
    """A field of an instruction or a record, by the one specification."""
    offset = layout.offsets[name]
    return word[offset : offset + layout.by_name[name].width]


def pack(layout: Word, **values: Value) -> Value:
    """A word of these fields, each extended with zeros; fields that are not named are 0."""
    fields = {f.name: Cat(values.pop(f.name, Const(0, 1)), Const(0, f.width))[: f.width] for f in layout.fields}
    assert not values, f"{layout.name} has no {', '.join(values)}"
    return Cat(fields.values())
