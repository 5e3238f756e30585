"""What a machine can execute; asked by the compiler before it writes anything."""

from __future__ import annotations

from skipopu.errors import ProgramError
from skipopu.layout import KvEntry, round_up
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.model_config import ModelConfig


def largest_context(machine: Machine, model: ModelConfig) -> int:
    """Tokens that the KV map and the score memories hold, at most the model's own limit.

    Tokens go round the ports, so each port scores an equal share of the context.
    """
    blocks = -(-machine.tokens * model.queries_per_kv_head // QUERY_LANES)
    by_scores = machine.ports * (machine.score_entries // (QUERY_LANES * blocks * model.num_kv_heads))
    return min(model.max_positions, machine.map_entries // model.num_layers, by_scores)


def history_slots(machine: Machine, model: ModelConfig) -> int:
    """Tokens per port whose entries the KV history buffer holds."""
    entry = KvEntry(model.num_kv_heads, model.head_dim, machine)
    return min(machine.history // (entry.beats - entry.header_beats), machine.history_slots)


def check(machine: Machine, model: ModelConfig, context: int, group: int) -> None:
    """Raises ProgramError, with both numbers, when ``machine`` cannot run ``model`` at ``context`` tokens."""

    def need(condition: bool, what: str, asked: object, accepted: str) -> None:
        if not condition:
            raise ProgramError(f"machine {machine.name}: {what} is {asked}; accepted: {accepted}")

    lanes = machine.weight_lanes
    need(group % lanes == 0 and lanes <= group <= 512, "weight group", group, f"a multiple of {lanes} up to 512")
    inner = max(model.intermediate_size, model.num_heads * model.head_dim)
    aligned = round_up(model.hidden_size, group) + round_up(inner, group)
    need(aligned <= machine.activation, "residual and inner vector", aligned, f"up to activation, {machine.activation}")
    entry = KvEntry(model.num_kv_heads, model.head_dim, machine)
    padded = model.num_heads * entry.head_beats * machine.kv_lanes
    need(padded <= machine.query, "padded query length", padded, f"up to query, {machine.query}")
    need(
        model.head_dim % machine.vector_lanes == 0,
        "head_dim",
        model.head_dim,
        f"a multiple of vector_lanes, {machine.vector_lanes}",
    )
    need(8 <= model.head_dim <= 256, "head_dim", model.head_dim, "8 to 256")
    need(model.num_kv_heads <= machine.kv_heads, "key-value heads", model.num_kv_heads, f"up to {machine.kv_heads}")
    most = machine.query_group
    need(model.queries_per_kv_head <= most, "query heads per key-value head", model.queries_per_kv_head, f"up to {most}")
    need(len(model.eos_token_ids) <= 4, "end-of-sequence ids", len(model.eos_token_ids), "up to 4")
    most = largest_context(machine, model)
    need(
        1 <= context <= most,
        "context",
        context,
        f"1 to {most} (map_entries / layers, score_entries, model limit)",
    )
