"""ADJUST: what stands between products, on vectors of the buffer."""

from __future__ import annotations

import numpy as np

from sim.functional.state import State
from sim.walk import Fields
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT, Finish, Reduce
from skipopu.layout import ADJUST_RECORD
from skipopu.numerics import adjust as numerics
from skipopu.numerics import fp32
from skipopu.numerics.activation import Activation, activate


def adjust(s: State, f: Fields) -> None:
    slots, elements, config = s.slots(f), f["elements"], s.walk.config
    head = config[Config.HEAD_DIM]
    whole_heads = elements % head == 0 or (f["reduce"] != Reduce.HEADS and f["finish"] != Finish.ROTATE)
    if not elements or elements % BUFFER_UNIT or f["reduce"] > max(Reduce) or not whole_heads or not s.machine.adjust:
        raise s.walk.halt(
            Error.ILLEGAL_INSTRUCTION, f"ADJUST of {elements} elements, reduce {f['reduce']}, on {s.machine.name}"
        )
    source, where = (s.vectors(f[a], f[b], slots, elements) for a, b in (("src", "stride"), ("dst", "dst_stride")))
    if not len(slots):
        return
    address = s.address(f)
    record = ADJUST_RECORD.unpack(s.read(0, address, ADJUST_RECORD.size))
    blocks = s.read(0, address + ADJUST_RECORD.size, 8 * elements).view(np.float32).reshape(-1, 2, BUFFER_UNIT)
    gain, bias = blocks[:, 0].reshape(-1), blocks[:, 1].reshape(-1)
    y = s.buffer[source]
    if f["reduce"] != Reduce.NONE:
        parts = y.reshape(len(slots), -1, head if f["reduce"] == Reduce.HEADS else elements)
        constants = np.array([record["inverse_size"], record["epsilon"]], np.uint32).view(np.float32)
        y = fp32.multiply(parts, numerics.inverse_rms(parts, constants[0], constants[1])[..., None]).reshape(y.shape)
    y = numerics.affine(y, gain, bias)
    if f["finish"] == Finish.ROTATE:
        row = config[Config.ROPE_ROW] * ADDRESS_UNIT
        starts = [record["rope"] * ADDRESS_UNIT + (s.walk.position + int(slot)) * row for slot in slots]
        table = np.stack([s.read(0, start, 4 * head).view(np.float32).reshape(-1, 2) for start in starts])[:, None]
        cos, sin, pairs = table[..., 0], table[..., 1], y.reshape(len(slots), -1, head // 2, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        turned = (
            fp32.add(fp32.multiply(even, cos), -fp32.multiply(odd, sin)),
            fp32.add(fp32.multiply(odd, cos), fp32.multiply(even, sin)),
        )
        y = np.stack(turned, -1).reshape(y.shape)
    elif f["finish"] == Finish.ACTIVATE:
        parameter = np.uint32(config[Config.PARAMETER]).view(np.float32)
        y = activate(Activation(config[Config.ACTIVATION]), y, parameter)
    elif f["finish"] == Finish.RESIDUAL:
        y = fp32.add(s.buffer[where], y)
    s.buffer[where] = y
    s.writes.add(where, fp32.bits(y))
    s.align(f["align"], slots, where)
