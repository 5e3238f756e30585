"""What an ADJUST reads from memory: its record, and the gains and biases behind it."""

from __future__ import annotations

import numpy as np

from skipopu.isa.fields import Field, Record
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT
from skipopu.layout import U8, round_up
from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32

# In port 0, one per layer of an ADJUST; gains and biases follow, FP32, 8 of each in turn.
ADJUST_RECORD = Record(
    "adjust record",
    ADDRESS_UNIT,
    (
        Field("inverse_size", 32, "1 / elements of what is normalised, FP32"),
        Field("epsilon", 32, "what is added to the mean square, FP32"),
        Field("rope", 28, "address of the rotary table in port 0; rows every Config.ROPE_ROW", "64 bytes"),
    ),
)


def adjust_size(elements: int) -> int:
    """Bytes of an adjust record with the gains and biases of ``elements``."""
    return ADJUST_RECORD.size + ADDRESS_UNIT * -(-elements // BUFFER_UNIT)


def pack_adjust_record(gains: F32, biases: F32, inverse_size: float, epsilon: float, rope: int) -> U8:
    """An adjust record, with its (elements,) gains and biases; ``rope`` is an address in bytes. Subnormal numbers become zeros."""
    size, constant = fp32.bits(fp32.narrow(np.array([inverse_size, epsilon]))).tolist()
    head = ADJUST_RECORD.pack(inverse_size=size, epsilon=constant, rope=rope // ADDRESS_UNIT)
    operands = np.zeros((2, round_up(len(gains), BUFFER_UNIT)), np.float32)
    operands[0, : len(gains)], operands[1, : len(gains)] = fp32.flush(gains), fp32.flush(biases)
    blocks = operands.reshape(2, -1, BUFFER_UNIT).swapaxes(0, 1)
    return np.concatenate([head, np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)])


def adjust_operands(memory: U8, address: int, elements: int) -> tuple[F32, F32]:
    """The inverse: gains and biases behind the adjust record at ``address``, (elements,) each."""
    data = memory[address + ADJUST_RECORD.size : address + adjust_size(elements)]
    gains, biases = data.view(np.float32).reshape(-1, 2, BUFFER_UNIT).swapaxes(0, 1).reshape(2, -1)[:, :elements]
    return gains, biases
