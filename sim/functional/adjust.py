"""ADJUST: what stands between products, on vectors of the buffer."""

from __future__ import annotations

import numpy as np

from sim.functional.state import State
from sim.walk import Fields
from skipopu.adjust_record import ADJUST_RECORD, adjust_operands, adjust_size
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT, Finish, Reduce
from skipopu.numerics import fp32
from skipopu.numerics.activation import Activation, activate
from skipopu.numerics.adjust import affine, inverse_rms, relu, rotate
from skipopu.numerics.fp32 import F32, I64


def adjust(s: State, f: Fields) -> None:
    slots, config, elements = s.slots(f), s.walk.config, f["elements"]
    if not s.machine.adjust:
        raise s.walk.halt(Error.ILLEGAL_INSTRUCTION, f"machine {s.machine.name} has no unit for ADJUST")
    dim = config[Config.HEAD_DIM]
    heads = f["reduce"] == Reduce.HEADS or f["finish"] == Finish.ROTATE
    if not elements or elements % BUFFER_UNIT or f["reduce"] > Reduce.HEADS or (heads and elements % dim):
        raise s.walk.halt(Error.ILLEGAL_INSTRUCTION, f"ADJUST of {elements} elements, reduce {f['reduce']}")
    source = s.vectors(f["src"], f["stride"], slots, elements)
    target = s.vectors(f["dst"], f["dst_stride"], slots, elements)
    if not len(slots):
        return
    data = s.read(0, s.address(f), adjust_size(elements))
    record = ADJUST_RECORD.unpack(data)
    y = s.buffer[source]
    if f["reduce"] != Reduce.NONE:
        size, epsilon = np.array([record["inverse_size"], record["epsilon"]], np.uint32).view(np.float32)
        parts = y.reshape(len(slots), -1, dim if f["reduce"] == Reduce.HEADS else elements)
        y = fp32.multiply(parts, inverse_rms(parts, size, epsilon)[..., None]).reshape(y.shape)
    y = affine(y, *adjust_operands(data, 0, elements))
    y = relu(y) if f["relu"] else y
    if f["finish"] == Finish.ROTATE:
        rows = _rotary_rows(s, record["rope"], slots, dim // 2)
        y = rotate(y.reshape(len(slots), -1, dim), rows[:, None]).reshape(y.shape)
    elif f["finish"] == Finish.ACTIVATE:
        parameter = np.uint32(config[Config.PARAMETER]).view(np.float32)
        y = activate(Activation(config[Config.ACTIVATION]), y, parameter)
    elif f["finish"] == Finish.RESIDUAL:
        y = fp32.add(s.buffer[target], y)
    s.buffer[target] = y
    s.writes.add(target, fp32.bits(y))
    s.align(f["align"], slots, target)


def _rotary_rows(s: State, table: int, slots: I64, pairs: int) -> F32:
    """(slots, pairs, 2) cos and sin of the slots' positions."""
    row = s.walk.config[Config.ROPE_ROW]
    addresses = [(table + (s.walk.position + int(slot)) * row) * ADDRESS_UNIT for slot in slots]
    return np.stack([s.read(0, address, 8 * pairs).view(np.float32).reshape(pairs, 2) for address in addresses])
