"""What a machine holds while it executes a program, and what its units share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.functional.aligned import Aligned
from sim.functional.options import Options
from sim.functional.pool import KvPool
from sim.functional.weights import WeightCache
from sim.functional.writes import Writes
from sim.walk import Fields, Walk
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT, AlignTarget
from skipopu.layout import round_up
from skipopu.numerics import align, fp32, mask
from skipopu.numerics.signature import ALIGNED, index
from skipopu.program.program import Program
from skipopu.program.run import Run


class State:
    """One machine's memories while it executes one program.

    Attributes:
        memory: of each port, (bytes,) uint8. buffer: (elements,) float32.
        activation, query: aligned vectors of the chunk's slots. inverse_rms: (slots,). rope: (slots, head_dim / 2, 2), cos and sin.
        routing: bool (layers, 2, context), what executed.
        before: bool (slots, 2), what the last ROUTE made execute. norms: (slots,), 1/rms at that time.
        window: tokens that a query of the present layer sees, 0: all.
        channels: (2,), of products with a mask, for tokens that are masked: how many were active, and how many there were.
        largest, best: (slots,), each slot's largest result of the present argmax, and its row.
    """

    def __init__(self, program: Program, run: Run, options: Options, walk: Walk) -> None:
        machine = program.machine
        self.machine = machine
        self.memory = run.prepare(program)
        self.weights = options.weights or WeightCache(self.memory, machine)
        self.profile, self.scores, self.see_masks = options.profile, options.scores, options.masks
        self.thresholds: dict[tuple[int, int, int], NDArray[np.uint16]] = {}
        self.buffer = np.zeros(machine.buffer, np.float32)
        self.activation, self.query = Aligned(machine.tokens), Aligned(machine.tokens)
        self.inverse_rms = np.zeros(machine.tokens, np.float32)
        self.rope = np.zeros((machine.tokens, 1, 2), np.float32)
        self.pool = KvPool(machine.ports)
        self.norms = np.zeros(machine.tokens, np.float32)
        self.before = np.zeros((machine.tokens, 2), bool)
        self.window = 0
        self.routing = np.zeros((program.model.num_layers, 2, program.context), bool)
        self.begin(run, walk)

    def begin(self, run: Run, walk: Walk) -> None:
        """What one run has of its own."""
        self.dial, self.walk = np.float32(run.dial), walk
        self.channels = np.zeros(2, np.int64)
        self.writes = Writes(run.check)
        self.largest = np.full(self.machine.tokens, -np.inf, np.float32)
        self.best = np.zeros(self.machine.tokens, np.int64)

    def go_on(self, program: Program, run: Run, walk: Walk) -> None:
        """From another run's state to ``run``, which begins at a position that it processed, or behind the last one."""
        run.place(program, self.memory[0])
        self.pool.rewind(run.first)
        self.routing[..., run.first :] = False
        self.begin(run, walk)

    def slots(self, f: Fields) -> NDArray[np.int64]:
        """The slots that an instruction works on."""
        return self.walk.lists[f["list"]]

    def vectors(self, base: int, stride: int, slots: NDArray[np.int64], elements: int) -> NDArray[np.int64]:
        """Flat buffer indices (slots, elements); raises MachineHalt when they leave the buffer."""
        first = base * BUFFER_UNIT + slots * stride * BUFFER_UNIT
        if len(slots) and int(first[-1]) + elements > len(self.buffer):
            raise self.walk.halt(Error.BUFFER_RANGE, f"buffer has {len(self.buffer)} elements")
        return first[:, None] + np.arange(elements)

    def read(self, port: int, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of one port; raises MachineHalt beyond the end of memory."""
        if address + size > len(self.memory[port]):
            raise self.walk.halt(Error.AXI_READ, f"address {address:#x} is beyond the memory of port {port}")
        return self.memory[port][address : address + size]

    def address(self, f: Fields) -> int:
        """An instruction's memory address, bytes."""
        return (f["address"] + (self.walk.layer_base if f["layered"] else 0)) * ADDRESS_UNIT

    def inner(self) -> int:
        """First group of the activation memory's inner region."""
        return self.walk.config[Config.INNER] // self.walk.config[Config.GROUP]

    def align(self, target: int, slots: NDArray[np.int64], where: NDArray[np.int64]) -> None:
        """Aligns the listed slots' vectors at ``where`` (slots, elements) in the buffer."""
        if target == AlignTarget.NONE or not len(slots):
            return
        config, query = self.walk.config, target == AlignTarget.QUERY
        group = config[Config.HEAD_DIM if query else Config.GROUP]
        mantissas, exponents = self.profile.align(self.buffer[where], group)
        groups = mantissas.shape[1]
        if query:
            self.query.reserve(groups, group)
            self.query.put(slots, 0, mantissas, exponents)
        else:
            capacity = self.machine.activation // group
            self.activation.reserve(capacity, group)
            first = self.inner() if target == AlignTarget.INNER else 0
            if first + groups > capacity:
                raise self.walk.halt(Error.BUFFER_RANGE, f"activation memory has {self.machine.activation} elements")
            keys = mask.key(self.buffer[where]) if self.machine.masks else None
            self.activation.put(slots, first, mantissas, exponents, keys)
        if target == AlignTarget.RESIDUAL:
            constants = np.array([config[Config.INVERSE_SIZE], config[Config.EPSILON]], np.uint32).view(np.float32)
            self.inverse_rms[slots] = align.inverse_rms(mantissas, exponents, constants[0], constants[1])
        if self.writes.kept:
            padded = round_up(group, self.machine.kv_lanes) if query else group
            element = np.zeros((len(slots), groups, padded), np.int64)
            element[..., :group] = mantissas.astype(np.int64)
            self.writes.add(index(ALIGNED, slots[:, None], np.arange(groups * padded)), element.reshape(len(slots), -1))
            self.writes.add(index(ALIGNED + 1, slots[:, None], np.arange(groups)), exponents)
            if target == AlignTarget.RESIDUAL:
                self.writes.add(index(ALIGNED + 2, slots, 0), fp32.bits(self.inverse_rms[slots]))
