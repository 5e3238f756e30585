"""The array's instruction: products with weights, and what becomes of their results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.functional.masks import active
from sim.functional.state import State
from sim.walk import Fields
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import Epilogue, matmul_rows
from skipopu.numerics import align, fp32
from skipopu.numerics.activation import Activation, gated
from skipopu.numerics.adjust import rotate
from skipopu.numerics.signature import index

AT_ONCE = 1 << 24  # partial sums held at a time, float64


def matmul(s: State, f: Fields) -> None:
    slots, rows = s.slots(f), matmul_rows(f, s.machine.ports)
    form = next((form for form in s.machine.weight_formats if form.code == f["format"]), None)
    if form is None:
        raise s.walk.halt(Error.ILLEGAL_INSTRUCTION, f"weight format {f['format']} is not known")
    groups, group, first = f["groups"], s.walk.config[Config.GROUP], s.inner() if f["source"] else 0
    if (first + groups) * group > s.machine.activation:
        raise s.walk.halt(
            Error.BUFFER_RANGE, f"{groups} groups exceed the activation memory of {s.machine.activation} elements"
        )
    if not len(slots) or not rows:
        return
    key = (s.address(f), rows, groups, group, form)
    weights = s.weights.get(*key)
    x = s.activation.mantissas[slots, first : first + groups].transpose(1, 0, 2)  # (groups, slots, group)
    if s.walk.mask and s.walk.config[Config.MASKING] >> s.walk.phase & 1:
        x = np.where(active(s, f, slots, first).transpose(1, 0, 2), x, 0)
    exponents = s.activation.exponents[slots, first : first + groups]
    power = np.ldexp(1.0, exponents.T - align.ALIGNED_BIAS)[..., None]
    y = np.empty((len(slots), rows), np.float32)
    step = max(1, AT_ONCE // (groups * len(slots)))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        if s.profile.half is None:
            parts = fp32.narrow((x @ weights[..., part]) * power)
        else:
            codes, scales = s.weights.codes[key][0][part], s.weights.codes[key][1][part]
            parts = [s.profile.group_products(x[g], exponents[:, g], codes[:, g], scales[:, g]) for g in range(groups)]
        total = parts[0]
        for g in range(1, groups):
            total = fp32.add(total, parts[g])
        y[:, part] = total
    if f["norm"]:
        y = fp32.multiply(y, s.inverse_rms[slots, None])
    epilogue(s, f, slots, y)


def epilogue(s: State, f: Fields, slots: NDArray[np.int64], y: NDArray[np.float32]) -> None:
    """What becomes of results (slots, rows)."""
    kind, rows, config = f["epilogue"], y.shape[1], s.walk.config
    first_row = f["aux"] * 8 if f["argmax"] else 0
    if f["argmax"] and s.scores is not None:
        s.scores(s.walk.position + slots, first_row, y)
    if f["argmax"]:
        largest, best = y.max(1), y.argmax(1)
        better = slots[larger := largest > s.largest[slots]]
        s.largest[better], s.best[better] = largest[larger], first_row + best[larger]
    if kind == Epilogue.NONE:
        s.writes.add(index(0, slots[:, None], first_row + np.arange(rows)), fp32.bits(y))
        return
    if kind == Epilogue.ROPE and f["aux"]:
        rotated, half = f["aux"], config[Config.HEAD_DIM] // 2
        row = s.rope[slots][:, np.arange(rotated // 2) % half]
        y = np.concatenate([rotate(y[:, :rotated], row), y[:, rotated:]], 1)
    elif kind == Epilogue.GATED:
        parameter = np.uint32(config[Config.PARAMETER]).view(np.float32)
        y = gated(Activation(config[Config.ACTIVATION]), y[:, 0::2], y[:, 1::2], parameter)
    where = s.vectors(f["dst"], f["stride"], slots, y.shape[1])
    if kind == Epilogue.RESIDUAL:
        y = fp32.add(s.buffer[where], y)
    s.buffer[where] = y
    s.writes.add(where, fp32.bits(y))
    s.align(f["align"], slots, where)
