"""The functional engine: executes a program on a memory image with every rounding of the hardware."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.functional.attention import attend
from sim.functional.options import Options as Options
from sim.functional.weights import WeightCache
from sim.result import Computed, Retired
from skipopu.errors import MachineHalt
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import (
    ADDRESS_UNIT,
    BUFFER_UNIT,
    BY_OPCODE,
    OPCODE_BITS,
    Activation,
    AlignTarget,
    Epilogue,
    TokenList,
    matmul_rows,
)
from skipopu.layout import ROUTER_RECORD, KvEntry, port_of, round_up, router_record
from skipopu.numerics import align, fp16, fp32
from skipopu.numerics.activation import gated
from skipopu.numerics.formats import BY_CODE
from skipopu.numerics.profile import Profile
from skipopu.numerics.signature import ALIGNED, index, signature
from skipopu.policy import Decision

Fields = dict[str, int]
name = "functional"


class FunctionalEngine:
    """One machine's state while it executes one program. Use :func:`run`."""

    def __init__(
        self, program: Program, memory: list[NDArray[np.uint8]], run: Run, weights: WeightCache, profile: Profile
    ) -> None:
        machine = program.machine
        self.machine, self.run_options, self.memory = machine, run, memory
        self.weights, self.profile = weights, profile
        self.config = [0] * 64
        self.buffer = np.zeros(machine.buffer, np.float32)
        slots = machine.tokens
        self.activation: NDArray[np.float64] = np.zeros((slots, 1, 1))  # (slots, groups, group)
        self.activation_exponent = np.zeros((slots, 1), np.int64)
        self.inverse_rms = np.zeros(slots, np.float32)
        self.query: NDArray[np.float64] = np.zeros((slots, 1, 1))
        self.query_exponent = np.zeros((slots, 1), np.int64)
        self.rope = np.zeros((slots, 1, 2), np.float32)
        self.position = 0
        self.count = 0  # slots of the chunk
        self.lists: dict[int, NDArray[np.int64]] = {}
        self.layer = 0
        self.layer_base = 0
        self.argmax: tuple[np.float32, int] | None = None
        self.generated: list[int] = []
        self.finished = False
        self.entries = 0
        self.places = np.zeros(machine.ports, np.int64)  # handed out per port
        self.port_place = np.zeros((1, 2), np.int64)  # of every entry
        self.map: NDArray[np.int64] = np.zeros((1, 1), np.int64)
        self.keys: NDArray[np.float64] = np.zeros((0, 1, 1))
        self.values: NDArray[np.float64] = np.zeros((0, 1, 1))
        self.fields = np.zeros((0, 1, 2), np.int64)
        self.routing = np.zeros((program.model.num_layers, 2, program.context), bool)
        self.trace: list[Retired] = []
        self.written: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []
        self.pc = 0

    # Helpers

    def wrote(
        self, where: NDArray[np.uint32] | NDArray[np.int64] | int, value: NDArray[np.uint32] | NDArray[np.int64] | int
    ) -> None:
        """Adds writes to the running instruction's signature; int64 values enter with their low 32 bits."""
        if self.run_options.check:
            pattern = np.asarray(value)
            if pattern.dtype != np.uint32:
                pattern = (pattern.astype(np.int64) & 0xFFFF_FFFF).astype(np.uint32)
            i, v = np.broadcast_arrays(np.asarray(where, np.uint32), pattern)
            self.written.append((i.reshape(-1), v.reshape(-1)))

    def halt(self, code: Error, text: str) -> MachineHalt:
        return MachineHalt(code, self.pc, f"instruction {self.pc}: {text} (error {code.name})")

    def vectors(self, base: int, stride: int, slots: NDArray[np.int64], elements: int) -> NDArray[np.int64]:
        """Flat buffer indices (slots, elements); raises MachineHalt when they leave the buffer."""
        first = base * BUFFER_UNIT + slots * stride * BUFFER_UNIT
        if len(slots) and int(first[-1]) + elements > len(self.buffer):
            raise self.halt(Error.BUFFER_RANGE, f"buffer has {len(self.buffer)} elements")
        return first[:, None] + np.arange(elements)

    def read(self, port: int, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of one port; raises MachineHalt beyond the end of memory."""
        if address + size > len(self.memory[port]):
            raise self.halt(Error.AXI_READ, f"address {address:#x} is beyond the memory of port {port}")
        return self.memory[port][address : address + size]

    def address(self, fields: Fields) -> int:
        return (fields["address"] + (self.layer_base if fields["layered"] else 0)) * ADDRESS_UNIT

    # Control

    def _set(self, f: Fields) -> None:
        self.config[f["register"]] = f["value"]

    def _chunk(self, f: Fields) -> None:
        prompt = len(self.run_options.prompt)
        left = prompt - self.position
        self.count = min(self.machine.tokens, left) if left > 0 else 1
        if self.position + self.count > self.config[Config.CONTEXT]:
            raise self.halt(Error.CONTEXT_FULL, f"context of {self.config[Config.CONTEXT]} tokens is full")
        slots = np.arange(self.count)
        last = slots[-1:] if self.position + self.count >= prompt else slots[:0]
        self.lists = {TokenList.ALL: slots, TokenList.ATTENTION: slots, TokenList.FFN: slots, TokenList.LAST: last}
        self.argmax = None

    def _loop(self, f: Fields) -> None:
        self.layer, self.layer_base = 0, 0
        self.loop = (self.pc + 1, f["count"], f["advance"])

    def _end(self, f: Fields) -> int | None:
        start, count, advance = self.loop
        self.layer += 1
        self.layer_base += advance
        return start if self.layer < count else None

    def _next(self, f: Fields) -> int | None:
        last = len(self.lists[TokenList.LAST]) > 0
        self.position += self.count
        if not last:
            return f["target"]
        if len(self.generated) >= self.run_options.max_new:
            return None
        assert self.argmax is not None
        token = self.argmax[1]
        address = self.config[Config.TOKENS] * ADDRESS_UNIT + 4 * self.position
        self.memory[0][address : address + 4] = np.array([token], "<u4").view(np.uint8)
        self.generated.append(token)
        ends = token in self.config[Config.EOS0 : Config.EOS3 + 1]
        return None if ends or len(self.generated) >= self.run_options.max_new else f["target"]

    # Vector unit

    def _embed(self, f: Fields) -> None:
        slots = self.lists[f["list"]]
        where = self.vectors(f["dst"], f["stride"], slots, f["elements"])
        row, rope_row = f["row"] * ADDRESS_UNIT, self.config[Config.ROPE_ROW] * ADDRESS_UNIT
        half = self.config[Config.HEAD_DIM] // 2
        self.rope = np.zeros((self.machine.tokens, half, 2), np.float32)
        for slot, here in zip(slots, where, strict=True):
            position = self.position + int(slot)
            token = int(self.read(0, self.config[Config.TOKENS] * ADDRESS_UNIT + 4 * position, 4).view("<u4")[0])
            if token >= self.config[Config.VOCABULARY]:
                raise self.halt(Error.TOKEN_OUT_OF_RANGE, f"token {token} at position {position} is not below the vocabulary")
            parts = [self.read(p, self.address(f) + token * row, row) for p in range(self.machine.ports)]
            vector = np.concatenate(parts).view(np.float16)[: f["elements"]].astype(np.float32)
            self.buffer[here] = vector
            self.wrote(here, fp32.bits(vector))
            table = self.read(0, self.config[Config.ROPE] * ADDRESS_UNIT + position * rope_row, 8 * half).view(np.float32)
            self.rope[slot] = table.reshape(half, 2)
            self.wrote(index(1, slot, np.arange(2 * half)), fp32.bits(table))
        self._align_slots(AlignTarget.RESIDUAL, slots, where)

    def _align(self, f: Fields) -> None:
        slots = self.lists[f["list"]]
        self._align_slots(f["align"], slots, self.vectors(f["src"], f["stride"], slots, f["elements"]))

    def _inner(self) -> int:
        """First group of the activation memory's inner region."""
        return self.config[Config.INNER] // self.config[Config.GROUP]

    def _align_slots(self, target: int, slots: NDArray[np.int64], where: NDArray[np.int64]) -> None:
        """Aligns the listed slots' vectors at ``where`` (slots, elements) in the buffer."""
        if target == AlignTarget.NONE or not len(slots):
            return
        query = target == AlignTarget.QUERY
        group = self.config[Config.HEAD_DIM if query else Config.GROUP]
        mantissas, exponents = self.profile.align(self.buffer[where], group)
        groups = mantissas.shape[1]
        if query:
            if self.query.shape[1:] != mantissas.shape[1:]:
                self.query = np.zeros((self.machine.tokens, groups, group))
                self.query_exponent = np.zeros((self.machine.tokens, groups), np.int64)
            self.query[slots], self.query_exponent[slots] = mantissas, exponents
        else:
            if self.activation.shape[2] != group:
                capacity = self.machine.activation // group
                self.activation = np.zeros((self.machine.tokens, capacity, group))
                self.activation_exponent = np.zeros((self.machine.tokens, capacity), np.int64)
            first = self._inner() if target == AlignTarget.INNER else 0
            if first + groups > self.activation.shape[1]:
                raise self.halt(Error.BUFFER_RANGE, f"activation memory has {self.machine.activation} elements")
            self.activation[slots, first : first + groups] = mantissas
            self.activation_exponent[slots, first : first + groups] = exponents
        if target == AlignTarget.RESIDUAL:
            constants = np.array([self.config[Config.INVERSE_SIZE], self.config[Config.EPSILON]], np.uint32).view(np.float32)
            self.inverse_rms[slots] = align.inverse_rms(mantissas, exponents, constants[0], constants[1])
        if self.run_options.check:
            padded = round_up(group, self.machine.kv_lanes if query else self.machine.weight_lanes)
            element = np.zeros((len(slots), groups, padded), np.int64)
            element[..., :group] = mantissas.astype(np.int64)
            self.wrote(index(ALIGNED, slots[:, None], np.arange(groups * padded)), element.reshape(len(slots), -1))
            self.wrote(index(ALIGNED + 1, slots[:, None], np.arange(groups)), exponents)
            if target == AlignTarget.RESIDUAL:
                self.wrote(index(ALIGNED + 2, slots, 0), fp32.bits(self.inverse_rms[slots]))

    def _route(self, f: Fields) -> None:
        slots = self.lists[f["list"]]
        where = self.vectors(f["src"], f["stride"], slots, 4)
        bias, policies = router_record(self.read(0, self.address(f), ROUTER_RECORD.size), 0)
        sums = self.buffer[where].reshape(-1, 2, 2)
        z = fp32.add(fp32.add(sums[..., 0], sums[..., 1]), bias)
        traced = np.zeros(self.count, np.uint8)
        if any(policy.reads_trace for policy in policies):
            row = self.config[Config.TRACE] + self.layer * self.config[Config.TRACE_ROW]
            traced = self.read(0, row * ADDRESS_UNIT + self.position, self.count)
        executed = np.zeros(z.shape, bool)
        for module, policy in enumerate(policies):
            bit = (traced[slots] >> module & 1).astype(bool)
            executed[:, module] = policy.rule(
                Decision(z[:, module], np.float32(self.run_options.dial), self.position + slots, bit)
            )
        self.lists[TokenList.ATTENTION] = slots[executed[:, 0]]
        self.lists[TokenList.FFN] = slots[executed[:, 1]]
        self.routing[self.layer, :, self.position + slots] = executed
        self.wrote(index(0, slots, 0), executed[:, 0] | executed[:, 1].astype(np.int64) << 1)
        self.wrote(index(1, slots[:, None], np.arange(2)), fp32.bits(z))

    def _kvwrite(self, f: Fields) -> None:
        c, machine = self.config, self.machine
        heads, dim = c[Config.KV_HEADS], c[Config.HEAD_DIM]
        if self.map.shape != (shape := (len(self.routing), c[Config.CONTEXT])):
            self.map = np.zeros(shape, np.int64)
        slots = self.lists[f["list"]]
        chunk = slice(self.position, self.position + self.count)
        if not self.layer and len(slots) < self.count:
            raise self.halt(Error.KV_MISSING, "a token skips attention at the first layer, so it has no keys and values")
        self.map[self.layer, chunk] = self.map[self.layer - 1, chunk]
        if len(slots):
            where = self.vectors(f["src"], f["stride"], slots, 2 * heads * dim)
            stored = fp16.from_fp32(self.buffer[where]).reshape(len(slots), 2, heads, dim)
            fields = fp16.exponent_field(stored).max(-1)  # (slots, 2, heads)
            aligned = self.profile.align_half(stored, fields[..., None])
            first, ports = self.entries, port_of(self.position + slots, machine.ports)
            places = np.empty_like(ports)
            for port in range(machine.ports):
                here = ports == port
                places[here] = self.places[port] + np.arange(here.sum())
                self.places[port] += here.sum()
            if self.places.max() > c[Config.KV_SLOTS]:
                raise self.halt(Error.KV_POOL_FULL, f"a port's {c[Config.KV_SLOTS]} entries are used up")
            if len(self.keys) < first + len(slots) or self.keys.shape[1:] != (heads, dim):
                self._grow(first + len(slots), heads, dim)
            entry = KvEntry(heads, dim, machine)
            for i, (port, place) in enumerate(zip(ports, places, strict=True)):
                data = entry.pack(stored[i, 0], stored[i, 1], fields[i].T)
                address = (c[Config.KV_BASE] + int(place) * c[Config.KV_ENTRY]) * ADDRESS_UNIT
                self.memory[port][address : address + len(data)] = data
            new = slice(first, first + len(slots))
            self.map[self.layer, self.position + slots] = np.arange(first, first + len(slots))
            self.port_place[new] = np.stack([ports, places], 1)
            self.keys[new], self.values[new] = aligned[:, 0], aligned[:, 1]
            self.fields[new] = fields.transpose(0, 2, 1)
            self.entries += len(slots)
            if self.run_options.check:
                bits = stored.reshape(len(slots), -1).view(np.uint16).astype(np.uint32)
                self.wrote(index(0, slots[:, None], np.arange(bits.shape[1])), bits)
                self.wrote(index(1, slots[:, None], np.arange(2 * heads)), fields.transpose(0, 2, 1).reshape(len(slots), -1))
        if self.run_options.check:
            every = np.arange(self.count)
            port, place = self.port_place[self.map[self.layer, self.position + every]].T
            self.wrote(index(2, every, 0), place << 8 | port)

    def _grow(self, needed: int, heads: int, dim: int) -> None:
        """Makes room for at least ``needed`` decoded entries."""
        size = max(1024, 2 * needed)
        keep = self.entries
        keys, values, fields = np.zeros((size, heads, dim)), np.zeros((size, heads, dim)), np.zeros((size, heads, 2), np.int64)
        port_place = np.zeros((size, 2), np.int64)
        if keep:
            port_place[:keep] = self.port_place[:keep]
            keys[:keep], values[:keep], fields[:keep] = self.keys[:keep], self.values[:keep], self.fields[:keep]
        self.keys, self.values, self.fields, self.port_place = keys, values, fields, port_place

    def _store(self, f: Fields) -> None:
        slots = self.lists[f["list"]]
        where = self.vectors(f["src"], f["stride"], slots, f["elements"])
        for slot, here in zip(slots, where, strict=True):
            address = self.address(f) + (self.position + int(slot)) * f["row"] * ADDRESS_UNIT
            data = fp32.bits(self.buffer[here])
            self.memory[0][address : address + 4 * len(data)] = data.view(np.uint8)
            self.wrote(index(0, slot, np.arange(len(data))), data)

    # Array unit

    def _matmul(self, f: Fields) -> None:
        slots, rows = self.lists[f["list"]], matmul_rows(f, self.machine.ports)
        if not len(slots) or not rows:
            return
        if f["format"] not in BY_CODE:
            raise self.halt(Error.ILLEGAL_INSTRUCTION, f"weight format {f['format']} is not known")
        groups, first = f["groups"], self._inner() if f["source"] else 0
        if (first + groups) * self.config[Config.GROUP] > self.machine.activation:
            raise self.halt(
                Error.BUFFER_RANGE, f"{groups} groups exceed the activation memory of {self.machine.activation} elements"
            )
        key = (self.address(f), rows, groups, self.config[Config.GROUP], BY_CODE[f["format"]])
        weights = self.weights.get(*key)
        x = self.activation[slots, first : first + groups].transpose(1, 0, 2)  # (groups, slots, group)
        exponents = self.activation_exponent[slots, first : first + groups]
        if self.profile.half is None:
            power = np.ldexp(1.0, exponents.T - align.ALIGNED_BIAS)[..., None]
            parts = fp32.narrow((x @ weights) * power)
        else:
            codes, scales = self.weights.codes[key]
            parts = [self.profile.group_products(x[g], exponents[:, g], codes[:, g], scales[:, g]) for g in range(groups)]
        y = parts[0]
        for g in range(1, groups):
            y = fp32.add(y, parts[g])
        if f["norm"]:
            y = fp32.multiply(y, self.inverse_rms[slots, None])
        self._epilogue(f, slots, y)

    def _epilogue(self, f: Fields, slots: NDArray[np.int64], y: NDArray[np.float32]) -> None:
        kind, rows = f["epilogue"], y.shape[1]
        first_row = f["aux"] * 8 if f["argmax"] else 0
        if f["argmax"] and self.count - 1 in slots:
            scores = y[-1]
            best = int(scores.argmax())
            if self.argmax is None or scores[best] > self.argmax[0]:
                self.argmax = (scores[best], first_row + best)
        if kind == Epilogue.NONE:
            self.wrote(index(0, slots[:, None], first_row + np.arange(rows)), fp32.bits(y))
            return
        if kind == Epilogue.ROPE and f["aux"]:
            rotated = f["aux"]
            half = self.config[Config.HEAD_DIM] // 2
            pair = np.arange(rotated // 2) % half
            cos, sin = self.rope[slots][:, pair, 0], self.rope[slots][:, pair, 1]
            even, odd = y[:, 0:rotated:2], y[:, 1:rotated:2]
            y = y.copy()
            y[:, 0:rotated:2], y[:, 1:rotated:2] = (
                fp32.add(fp32.multiply(even, cos), -fp32.multiply(odd, sin)),
                fp32.add(fp32.multiply(odd, cos), fp32.multiply(even, sin)),
            )
        elif kind == Epilogue.GATED:
            parameter = np.array(self.config[Config.PARAMETER], np.uint32).view(np.float32)[()]
            y = gated(Activation(self.config[Config.ACTIVATION]), y[:, 0::2], y[:, 1::2], parameter)
        where = self.vectors(f["dst"], f["stride"], slots, y.shape[1])
        if kind == Epilogue.RESIDUAL:
            y = fp32.add(self.buffer[where], y)
        self.buffer[where] = y
        self.wrote(where, fp32.bits(y))
        self._align_slots(f["align"], slots, where)

    # Attention unit

    def _attend(self, f: Fields) -> None:
        slots = self.lists[f["list"]]
        if not len(slots):
            return
        heads, group, dim = self.config[Config.KV_HEADS], self.config[Config.QUERY_GROUP], self.config[Config.HEAD_DIM]
        visible = self.position + slots + 1
        number = self.map[self.layer, : visible[-1]]
        fields = self.fields[number]
        mixed = attend(
            self.query[slots].reshape(len(slots), heads, group, dim),
            self.query_exponent[slots].reshape(len(slots), heads, group),
            self.keys[number],
            fields[..., 0],
            self.values[number],
            fields[..., 1],
            visible,
        )
        where = self.vectors(f["dst"], f["stride"], slots, heads * group * dim)
        self.buffer[where] = mixed.reshape(len(slots), -1)
        self.wrote(where, fp32.bits(self.buffer[where]))
        self._align_slots(f["align"], slots, where)


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Computed:
    """Executes ``program`` with every rounding of the hardware.

    Raises:
        ProgramError: the run does not fit the program.
        MachineHalt: the machine would stop with an error code.
    """
    options = options or Options()
    memory = run.prepare(program)
    weights = options.weights or WeightCache(memory, program.machine.weight_lanes)
    engine = FunctionalEngine(program, memory, run, weights, options.profile)
    fp32.Saturation.seen = False
    decoded = []
    for word in program.instructions:
        instruction = BY_OPCODE.get(word & (1 << OPCODE_BITS) - 1)
        if instruction is None:
            decoded.append((None, None, {}))
        else:
            handler = getattr(engine, f"_{instruction.name.lower()}", None)
            decoded.append((instruction, handler, instruction.decode(word)))
    while True:
        if engine.pc >= len(decoded):
            raise engine.halt(Error.PROGRAM_RANGE, f"the program has {len(decoded)} instructions")
        instruction, handler, fields = decoded[engine.pc]
        if instruction is None:
            raise engine.halt(Error.ILLEGAL_INSTRUCTION, "opcode is not known")
        if handler is None:  # HALT
            break
        count = len(engine.generated)
        target = handler(fields)
        if len(engine.generated) > count:
            watch.token(engine.generated[-1])
        if run.check and instruction.unit != "control":
            total = sum(signature(where, value) for where, value in engine.written) & 0xFFFF_FFFF
            engine.trace.append(Retired(engine.pc, total, 0, engine.layer, engine.position))
            engine.written.clear()
        engine.pc = engine.pc + 1 if target is None else target
    return Computed(
        tokens=engine.generated,
        routing=engine.routing[..., : engine.position],
        memory=engine.memory,
        trace=engine.trace,
        saturated=fp32.Saturation.seen,
        kv_entries=engine.entries,
    )
