"""What memory holds before a run: instructions, tables, weights and records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.follow import Follow
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.tensors import BLOCK, rows_of
from compiler.graph.matrix import Matrix
from compiler.graph.ops import Adjust, Graph
from compiler.passes.plan import Plan, stream_for, table_of
from compiler.passes.quantise import Placed, again, rounded
from skipopu.adjust_record import pack_adjust_record
from skipopu.isa.spec import ADDRESS_UNIT, Reduce
from skipopu.layout import EmbeddingRows, round_up
from skipopu.model_config import ModelConfig, Rope
from skipopu.numerics import fp16, fp32
from skipopu.policy import Phases, under
from skipopu.program.program import Program, place_instructions
from skipopu.records import pack_router_record


def rope_rows(table: Rope, head_dim: int, context: int) -> NDArray[np.float32]:
    """(context, head_dim / 2, 2) FP32 cos and sin, rounded from float64; 1 and 0 for pairs that are not rotated."""
    angle = np.arange(context)[:, None] * np.array(table.frequencies, np.float64)
    rows = np.zeros((context, head_dim // 2, 2))
    rows[..., 0] = 1
    rows[:, : angle.shape[1]] = table.factor * np.stack([np.cos(angle), np.sin(angle)], -1)
    return rows.astype(np.float32)


def flushed(bias: tuple[float, float]) -> tuple[float, float]:
    """Router biases as FP32 without subnormals, which the machine has not; their signs stay, as everywhere."""
    attention, ffn = fp32.narrow(np.array(bias, np.float64))
    return float(attention), float(ffn)


def rope_address(plan: Plan, config: ModelConfig, context: int, number: int) -> int:
    """Address of a rotary table."""
    return plan.regions["rope"].address + number * context * round_up(4 * config.head_dim, ADDRESS_UNIT)


def images(
    program: Program,
    graph: Graph,
    plan: Plan,
    checkpoint: Checkpoint,
    group: int,
    policies: Sequence[Phases],
    follow: Follow,
) -> list[NDArray[np.uint8]]:
    """Initial memory of every port; weights are computed, rounded and placed some rows at a time. ``policies`` are the layers'."""
    machine, context = program.machine, program.context
    config = checkpoint.config
    memory = [np.zeros(plan.port_bytes, np.uint8) for _ in range(machine.ports)]

    def place(port: int, address: int, data: NDArray[np.uint8]) -> None:
        memory[port][address : address + len(data)] = data

    place_instructions(program.instructions, memory[0], plan.regions["program"].address)
    rows = np.zeros((context, round_up(4 * config.head_dim, ADDRESS_UNIT)), np.uint8)
    for number, rope in enumerate(config.rope_tables):
        turned = rope_rows(rope, config.head_dim, context)
        rows[:, : 4 * config.head_dim] = turned.reshape(context, -1).view(np.uint8)
        place(0, rope_address(plan, config, context, number), rows.reshape(-1))
    address = plan.regions["embedding"].address
    for block in Matrix((rows_of(checkpoint.tensors, "model.embed_tokens.weight"),)).blocks():
        embedding = EmbeddingRows(config.hidden_size, len(block), machine.ports)
        for port, part in enumerate(embedding.pack(fp16.from_fp32(block))):
            place(port, address, part)
        address += embedding.size
    for op in graph.ops():
        if op.adjust is not None:
            for layer, record in enumerate(_records(op.adjust, plan, config, context)):
                place(0, layer * plan.layer_bytes + plan.adjusts[op.adjust.name], record)
        if op.mask is not None:
            table = table_of(op.mask, group, machine)
            for layer, thresholds in enumerate(op.mask.thresholds):
                for port, part in enumerate(table.pack(thresholds)):
                    place(port, layer * plan.layer_bytes + plan.masks[op.mask.name], part)
    every = [(op.weights, layer) for op in graph.ops() if op.weights for layer in range(len(op.weights.matrices))]
    placed: Placed = {}
    for weights, layer in follow("placing", every):
        matrix, address = weights.matrices[layer], layer * plan.layer_bytes + plan.weights[weights.name]
        for taken, part in stream_for(weights, group, machine).parts(BLOCK // weights.n):
            halved = slice(taken.start // 2, taken.stop // 2) if weights.split else taken
            codes, scales = rounded(weights, matrix[halved], group, placed)
            for port, data in enumerate(part.pack(codes, scales)):
                place(port, address, data)
            address += part.size
    program.source["warnings"] += again(placed)
    routers = checkpoint.routers
    for layer in range(graph.layers):
        windows = [config.window(number % graph.layers, context) for number in (layer, layer + 1)]
        bias = (routers[layer][0].bias, routers[layer][1].bias) if routers else (0.0, 0.0)
        record = pack_router_record(flushed(bias), under(program.kv, policies[layer], layer), windows)
        place(0, plan.router_record + layer * plan.layer_bytes, record)
    return memory


def _records(adjust: Adjust, plan: Plan, config: ModelConfig, context: int) -> Iterator[NDArray[np.uint8]]:
    """Of each layer."""
    size = config.head_dim if adjust.reduce is Reduce.HEADS else adjust.elements
    if adjust.name in ("k", "q") and config.counted_head_dim:
        size = size // config.head_dim * config.counted_head_dim
    for layer, (gains, biases) in enumerate(zip(adjust.gains, adjust.biases, strict=True)):
        rope = rope_address(plan, config, context, adjust.tables[layer]) if adjust.tables else 0
        yield pack_adjust_record(gains, biases, 1 / size, config.rms_norm_eps, rope)
