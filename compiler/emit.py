"""Turns a planned graph into instructions and notes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph, Op, Place, Value
from compiler.image import rope_address
from compiler.passes.plan import MOST_ROUNDS, Plan, kv_slots, stream_for
from skipopu.errors import ProgramError
from skipopu.isa import spec
from skipopu.isa.registers import NO_TOKEN, WEIGHTS_ON_DEMAND, Config
from skipopu.isa.spec import BLOCK_ROWS, BUFFER_UNIT
from skipopu.layout import EmbeddingRows, KvEntry, buffer_stride, round_up
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_RUN
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp32, soft_cap
from skipopu.numerics.activation import ACTIVATIONS
from skipopu.policy import KvPolicy
from skipopu.program.program import Program, address_units


def late_write(config: ModelConfig, machine: Machine) -> int:
    """Position from which attention reads older keys for as long as the entry's write takes: it need not take from weights then."""
    entry, memory = KvEntry(config.num_kv_heads, config.head_dim, machine), machine.memory
    bursts = -(-entry.beats // machine.longest_write)
    write = entry.beats + (bursts + 1) * (2 * memory.turnaround + memory.latency)
    return machine.ports * -(-write // entry.key_beats)


@dataclass
class Emitter:
    """Instructions of a planned graph; ``schedule``, ``history`` and ``masking`` are the values of these configuration registers."""

    graph: Graph
    plan: Plan
    checkpoint: Checkpoint
    machine: Machine
    context: int
    group: int
    kv: KvPolicy
    schedule: int
    history: int
    masking: int = 0
    words: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, instruction: spec.Instruction, note: str, **values: int) -> None:
        self.words.append(instruction.encode(values))
        self.notes.append(note)

    def buffer(self, name: str, value: Value) -> dict[str, int]:
        """Operand fields of a buffer value: its address under ``name`` and its stride."""
        return {name: self.plan.buffer[value.name] // BUFFER_UNIT, "stride": buffer_stride(value.elements) // BUFFER_UNIT}

    def op(self, op: Op, layered: bool, scope: str) -> None:
        common: dict[str, int] = {"pop": op.pop, "push": op.push, "list": op.tokens}
        note = f"{scope}: {op.note}"
        config, regions = self.checkpoint.config, self.plan.regions
        if op.kind == "embed":
            row = EmbeddingRows(config.hidden_size, config.vocab_size, self.machine.ports).row_bytes
            self.put(
                spec.EMBED,
                note,
                **common,
                **self.buffer("dst", op.writes[0]),
                address=address_units(regions["embedding"].address),
                elements=config.hidden_size,
                row=address_units(row),
            )
        elif op.kind == "align":
            source = op.reads[0]
            self.put(spec.ALIGN, note, **common, **self.buffer("src", source), elements=source.elements, align=op.aligns)
        elif op.kind == "adjust":
            self.adjust(op, common, layered, note)
        elif op.kind == "matmul":
            self.matmul(op, common, layered, note)
        elif op.kind == "route":
            address = address_units(self.plan.router_record)
            self.put(spec.ROUTE, note, **common, **self.buffer("src", op.reads[0]), address=address, layered=1)
        elif op.kind == "kvwrite":
            waited_for = op.push >> spec.Unit.ATTENTION & 1
            late = 0 if waited_for or self.schedule & WEIGHTS_ON_DEMAND else late_write(config, self.machine)
            self.put(spec.KVWRITE, note, **common, **self.buffer("src", op.reads[0]), late=late)
        elif op.kind == "attend":
            self.put(spec.ATTEND, note, **common, **self.buffer("dst", op.writes[0]), align=op.aligns)
        elif op.kind == "store":
            source = op.reads[0]
            row = address_units(round_up(4 * source.elements, spec.ADDRESS_UNIT))
            address = address_units(regions["logits"].address)
            self.put(
                spec.STORE, note, **common, **self.buffer("src", source), elements=source.elements, row=row, address=address
            )
        else:
            raise AssertionError(op.kind)

    def adjust(self, op: Op, common: dict[str, int], layered: bool, note: str) -> None:
        assert op.adjust is not None
        adjust, first = op.adjust, op.adjust.first // BUFFER_UNIT
        source, target = self.buffer("src", op.reads[0]), self.buffer("dst", op.writes[0])
        self.put(
            spec.ADJUST,
            note,
            **common,
            address=address_units(self.plan.adjusts[adjust.name]),
            layered=int(layered),
            src=source["src"] + first,
            stride=source["stride"],
            dst=target["dst"] + (first if op.writes[0] == op.reads[0] else 0),
            dst_stride=target["stride"],
            elements=adjust.elements,
            reduce=adjust.reduce,
            finish=adjust.finish,
            align=op.aligns,
            relu=int(adjust.relu),
        )

    def matmul(self, op: Op, common: dict[str, int], layered: bool, note: str) -> None:
        if op.weights is None:
            self.put(spec.MATMUL, note, **common)
            return
        weights = op.weights
        target = next((v for v in op.writes if v.place is Place.BUFFER), None)
        fields = self.buffer("dst", target) if target is not None else {}
        stream = stream_for(weights, self.group, self.machine)
        # What an argmax compares may come from several products, much the same in size, each of what a stream may be cut into.
        unit = stream.unit
        beats = stream.port_bytes(0) // self.machine.beat_bytes
        rounds = MOST_ROUNDS - MOST_ROUNDS % (unit // (self.machine.ports * BLOCK_ROWS))
        parts = (
            max(-(-weights.rows // (self.machine.ports * BLOCK_ROWS * rounds)), -(-beats // LARGEST_RUN)) if op.argmax else 1
        )
        if parts == 1 and beats > LARGEST_RUN:
            raise ProgramError(
                f"machine {self.machine.name}: {weights.name} takes {beats} beats of a port; accepted: up to {LARGEST_RUN}"
            )
        most = round_up(-(-weights.rows // parts), unit)
        for first in range(0, weights.rows, most):
            rows = min(most, weights.rows - first)
            before = dataclasses.replace(stream, rows=first).port_bytes(0)
            own = common | {"pop": 0 if first else op.pop, "push": op.push if first + rows == weights.rows else 0}
            own |= {"dst": fields["dst"] + first // BUFFER_UNIT} if fields else {}
            if op.mask is not None:
                self.put(spec.EXTEND, f"{note}: channels", mask=address_units(self.plan.masks[op.mask.name]))
            self.put(
                spec.MATMUL,
                note,
                **fields | own,
                address=address_units(self.plan.weights[weights.name] + before),
                layered=int(layered),
                **spec.matmul_shape(rows, self.machine.ports),
                groups=-(-weights.n // self.group),
                format=weights.format.code,
                epilogue=op.epilogue,
                norm=int(op.norm),
                argmax=int(op.argmax),
                aux=first // BLOCK_ROWS if op.argmax else op.rope_rows,
                source=int(op.reads[0].place is Place.INNER),
                align=op.aligns,
            )

    def instructions(self) -> None:
        config, regions = self.checkpoint.config, self.plan.regions
        entry = KvEntry(config.num_kv_heads, config.head_dim, self.machine)
        eos = [*config.eos_token_ids, *[NO_TOKEN] * 4][:4]
        constants: dict[Config, int] = {
            Config.VOCABULARY: config.vocab_size,
            Config.CONTEXT: self.context,
            Config.TOKENS: address_units(regions["tokens"].address),
            Config.ROPE: address_units(
                rope_address(self.plan, config, self.context, config.rope_of_layer[0] if config.rope_of_layer else 0)
            ),
            Config.ROPE_ROW: address_units(round_up(4 * config.head_dim, spec.ADDRESS_UNIT)),
            Config.TRACE: address_units(regions["trace"].address),
            Config.TRACE_ROW: address_units(round_up(self.context, spec.ADDRESS_UNIT)),
            Config.HEAD_DIM: config.head_dim,
            Config.KV_HEADS: config.num_kv_heads,
            Config.QUERY_GROUP: config.queries_per_kv_head,
            Config.KV_BASE: address_units(regions["kv"].address),
            Config.KV_ENTRY: address_units(entry.size),
            Config.KV_SLOTS: kv_slots(self.machine, config, self.context),
            Config.GROUP: self.group,
            Config.INVERSE_SIZE: int(fp32.bits(np.float32(1 / config.hidden_size))),
            Config.EPSILON: int(fp32.bits(np.float32(config.rms_norm_eps))),
            Config.EOS0: eos[0],
            Config.EOS1: eos[1],
            Config.EOS2: eos[2],
            Config.EOS3: eos[3],
            Config.INNER: round_up(config.hidden_size, self.group),
            Config.ACTIVATION: ACTIVATIONS[config.hidden_act][0],
            Config.PARAMETER: int(fp32.bits(np.float32(ACTIVATIONS[config.hidden_act][1]))),
            Config.SCHEDULE: self.schedule,
            Config.HISTORY: self.history,
        }
        if config.attention_cap:
            constants[Config.SOFT_CAP] = int(fp32.bits(soft_cap.factor(config.attention_cap)))
        if self.plan.masks:
            constants[Config.MASKING] = self.masking
        for register, value in constants.items():
            self.put(spec.SET, register.name, register=register, value=value)
        start = len(self.words)
        self.put(spec.CHUNK, "next tokens of the prompt, or the token generated last")
        for op in self.graph.prologue:
            self.op(op, False, "chunk")
        layers = self.graph.layers
        self.put(spec.LOOP, f"layers 0..{layers - 1}", count=layers, advance=address_units(self.plan.layer_bytes))
        for op in self.graph.body:
            self.op(op, True, "layer")
        self.put(spec.END, "next layer")
        for op in self.graph.epilogue:
            self.op(op, False, "head")
        self.put(spec.NEXT, "emit token, next chunk", target=start)
        self.put(spec.HALT, "done")

    def program(self) -> Program:
        """The program without what its memory holds."""
        self.instructions()
        matrices: dict[str, dict[str, Any]] = {}
        adjusts: dict[str, dict[str, Any]] = {}
        masks: dict[str, dict[str, Any]] = {}
        for op in self.graph.ops():
            if (adjust := op.adjust) is not None:
                adjusts[adjust.name] = {
                    "address": self.plan.adjusts[adjust.name],
                    "layer_stride": self.plan.layer_bytes if op in self.graph.body else 0,
                    "elements": adjust.elements,
                    "order": adjust.order,
                }
            if op.mask is not None:
                masks[op.mask.name] = {
                    "address": self.plan.masks[op.mask.name],
                    "layer_stride": self.plan.layer_bytes,
                    "channels": op.mask.thresholds.shape[1],
                }
            if op.weights is not None:
                w = op.weights
                matrices[w.name] = {
                    "address": self.plan.weights[w.name],
                    "layer_stride": self.plan.layer_bytes if op in self.graph.body else 0,
                    "rows": w.rows,
                    "n": w.n,
                    "groups": -(-w.n // self.group),
                    "group": self.group,
                    "format": w.format.name,
                    "order": w.order,
                }
        return Program(
            machine=self.machine,
            model=self.checkpoint.config,
            kv=self.kv,
            context=self.context,
            logits=any(op.kind == "store" for op in self.graph.epilogue),
            instructions=self.words,
            notes=self.notes,
            regions=self.plan.regions,
            matrices=matrices,
            adjusts=adjusts,
            masks=masks,
            router_record=(self.plan.router_record, self.plan.layer_bytes),
            memory=[],
            source={"checkpoint": self.checkpoint.directory.name, "routers": self.checkpoint.routers is not None},
        )
