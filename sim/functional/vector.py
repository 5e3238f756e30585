"""Instructions of the vector unit, but for those of KV entries."""

from __future__ import annotations

import numpy as np

from sim.functional.state import State
from sim.walk import Fields
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT, AlignTarget, TokenList
from skipopu.numerics import fp32
from skipopu.numerics.signature import index
from skipopu.policy import NEVER, WINDOW, Decision, Weighs, ranks
from skipopu.records import ROUTER_RECORD, router_record, router_windows


def embed(s: State, f: Fields) -> None:
    slots, config = s.slots(f), s.walk.config
    where = s.vectors(f["dst"], f["stride"], slots, f["elements"])
    row, rope_row = f["row"] * ADDRESS_UNIT, config[Config.ROPE_ROW] * ADDRESS_UNIT
    half = config[Config.HEAD_DIM] // 2
    s.rope = np.zeros((s.machine.tokens, half, 2), np.float32)
    for slot, here in zip(slots, where, strict=True):
        position = s.walk.position + int(slot)
        token = int(s.read(0, config[Config.TOKENS] * ADDRESS_UNIT + 4 * position, 4).view("<u4")[0])
        if token >= config[Config.VOCABULARY]:
            raise s.walk.halt(Error.TOKEN_OUT_OF_RANGE, f"token {token} at position {position} is not below the vocabulary")
        parts = [s.read(p, s.address(f) + token * row, row) for p in range(s.machine.ports)]
        vector = np.concatenate(parts).view(np.float16)[: f["elements"]].astype(np.float32)
        s.buffer[here] = vector
        s.writes.add(here, fp32.bits(vector))
        table = s.read(0, config[Config.ROPE] * ADDRESS_UNIT + position * rope_row, 8 * half).view(np.float32)
        s.rope[slot] = table.reshape(half, 2)
        s.writes.add(index(1, slot, np.arange(2 * half)), fp32.bits(table))
    s.align(AlignTarget.RESIDUAL, slots, where)


def align(s: State, f: Fields) -> None:
    slots = s.slots(f)
    s.align(f["align"], slots, s.vectors(f["src"], f["stride"], slots, f["elements"]))


def route(s: State, f: Fields) -> None:
    slots, walk = s.slots(f), s.walk
    where = s.vectors(f["src"], f["stride"], slots, 4)
    record = s.read(0, s.address(f), ROUTER_RECORD.size)
    bias, phases = router_record(record, 0)
    policies = phases[walk.phase]
    s.window = router_windows(record, 0)[0] if s.machine.window else 0
    sums = s.buffer[where].reshape(-1, 2, 2)
    z = np.zeros(sums.shape[:2], np.float32)
    traced = np.zeros(walk.count, np.uint8)
    if any(policy.reads_trace for policy in policies):
        row = walk.config[Config.TRACE] + walk.layer * walk.config[Config.TRACE_ROW]
        traced = s.read(0, row * ADDRESS_UNIT + walk.position, walk.count)
    executed, before = np.zeros(z.shape, bool), s.before[slots] | (walk.layer == 0)
    norm, last = s.inverse_rms[slots], s.norms[slots] * np.float32(walk.layer != 0)
    for module, policy in enumerate(policies):
        bits = (traced[slots] >> module & 1).astype(bool)
        if policy.weighs is Weighs.NORM:
            z[:, module] = fp32.add(last, -norm)
            weighed, dial = np.abs(z[:, module]), fp32.multiply(s.dial, norm)
        else:
            z[:, module] = fp32.add(fp32.add(sums[:, module, 0], sums[:, module, 1]), bias[module])
            weighed, dial = z[:, module], s.dial
        place = ranks(weighed, weighed, slots, slots // WINDOW) if policy.keep else (None, None)
        rule = policy.rule if policy.runs_on(s.machine.tokens) else NEVER.rule
        executed[:, module] = rule(Decision(weighed, dial, walk.position + slots, bits, before[:, module], *place))
    s.before[:] = False
    s.before[slots], s.norms[slots] = executed, norm
    walk.lists[TokenList.ATTENTION] = slots[executed[:, 0]]
    walk.lists[TokenList.FFN] = slots[executed[:, 1]]
    s.routing[walk.layer, :, walk.position + slots] = executed
    s.writes.add(index(0, slots, 0), executed[:, 0] | executed[:, 1].astype(np.int64) << 1)
    s.writes.add(index(1, slots[:, None], np.arange(2)), fp32.bits(z))


def store(s: State, f: Fields) -> None:
    slots = s.slots(f)
    where = s.vectors(f["src"], f["stride"], slots, f["elements"])
    for slot, here in zip(slots, where, strict=True):
        address = s.address(f) + (s.walk.position + int(slot)) * f["row"] * ADDRESS_UNIT
        data = fp32.bits(s.buffer[here])
        s.memory[0][address : address + 4 * len(data)] = data.view(np.uint8)
        s.writes.add(index(0, slot, np.arange(len(data))), data)
