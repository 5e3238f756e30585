"""What a machine description may say, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopu.errors import ConfigError
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT
from skipopu.numerics import formats
from skipopu.numerics.formats import INT4
from skipopu.numerics.profile import EXECUTED

if TYPE_CHECKING:
    from skipopu.machine.config import Machine

QUERY_LANES = 4  # queries (heads or tokens) that meet the same elements of K in one cycle; a score word holds as many
MOST_PORTS = 64
LARGEST_BUFFER = 1 << 19  # elements
LARGEST_MAP = 1 << 19  # tokens of all layers
LARGEST_MEMORY = ADDRESS_UNIT << 28  # bytes that an instruction's address reaches
SHORTEST_GROUP = 8  # weights: shorter ones would have more scale than weight
HISTORY_SLOT = 16  # beats of the history buffer per slot, at least: so many tags it has
MULTIPLIERS = ("27x18", "18x18")


def check(machine: Machine) -> None:
    """Raises ConfigError for the first field whose value no machine has."""

    def need(condition: bool, field: str, accepted: str) -> None:
        if not condition:
            raise ConfigError(f"machine {machine.name}: {field} is {getattr(machine, field)!r}; accepted: {accepted}")

    def power_of_two(value: int) -> bool:
        return value > 0 and value & value - 1 == 0

    need(1 <= machine.ports <= MOST_PORTS, "ports", f"1..{MOST_PORTS}")
    need(power_of_two(machine.port_bits) and 64 <= machine.port_bits <= 512, "port_bits", "a power of two from 64 to 512")
    need(1 <= machine.tokens <= 64, "tokens", "1..64")
    need(
        power_of_two(machine.vector_lanes) and 2 <= machine.vector_lanes <= machine.kv_lanes,
        "vector_lanes",
        f"a power of two from 2 to {machine.kv_lanes} (half words of a {machine.port_bits}-bit port)",
    )
    need(
        machine.buffer > 0 and machine.buffer % (4 * BUFFER_UNIT) == 0 and machine.buffer <= LARGEST_BUFFER,
        "buffer",
        f"a multiple of {4 * BUFFER_UNIT} up to {LARGEST_BUFFER}",
    )
    need(
        0 < machine.activation <= LARGEST_BUFFER and machine.activation % machine.weight_lanes == 0,
        "activation",
        f"a multiple of {machine.weight_lanes} up to {LARGEST_BUFFER}",
    )
    need(
        0 < machine.query <= LARGEST_BUFFER and machine.query % machine.kv_lanes == 0,
        "query",
        f"a multiple of {machine.kv_lanes} up to {LARGEST_BUFFER}",
    )
    for field in ("map_entries", "score_entries"):
        need(0 < getattr(machine, field) <= LARGEST_MAP, field, f"1 to {LARGEST_MAP}")
    need(1 <= machine.kv_heads <= 64, "kv_heads", "1..64")
    need(1 <= machine.query_group <= 16, "query_group", "1..16")
    need(1 <= machine.burst <= 256, "burst", "1..256")
    need(machine.burst * machine.beat_bytes <= 4096, "burst", f"at most {4096 // machine.beat_bytes} beats (4096 bytes)")
    need(
        0 <= machine.write_burst * machine.beat_bytes <= 4096 and machine.write_burst <= 256,
        "write_burst",
        f"0, or up to {min(256, 4096 // machine.beat_bytes)} beats",
    )
    need(machine.weight_fifo >= 2 * machine.burst, "weight_fifo", f"at least two bursts, {2 * machine.burst}")
    need(machine.kv_fifo >= 2 * machine.burst, "kv_fifo", f"at least two bursts, {2 * machine.burst}")
    need(
        machine.weights_in_flight == 0 or 2 * machine.burst <= machine.weights_in_flight <= machine.weight_fifo,
        "weights_in_flight",
        f"0, or two bursts to weight_fifo, {2 * machine.burst} to {machine.weight_fifo}",
    )
    need(machine.history == 0 or HISTORY_SLOT <= machine.history <= 1 << 20, "history", f"0, or {HISTORY_SLOT} to {1 << 20}")
    need(
        INT4.name in machine.formats
        and set(machine.formats) <= set(formats.BY_NAME)
        and len(set(machine.formats)) == len(machine.formats),
        "formats",
        f"{INT4.name} and some of {', '.join(name for name in formats.BY_NAME if name != INT4.name)}, each once",
    )
    need(machine.stationary or not machine.masks, "masks", "false, or true with stationary")
    need(machine.multiplier in MULTIPLIERS, "multiplier", " or ".join(MULTIPLIERS))
    need(8 <= machine.instructions <= 4096, "instructions", "8..4096")
    need(set(machine.numerics) <= set(EXECUTED) and bool(machine.numerics), "numerics", f"some of {', '.join(EXECUTED)}")
    need(machine.score_entries % QUERY_LANES == 0, "score_entries", f"a multiple of {QUERY_LANES}")
    need(
        0 <= machine.memory_bytes <= LARGEST_MEMORY and machine.memory_bytes % 4096 == 0,
        "memory_bytes",
        f"a multiple of 4096 up to {LARGEST_MEMORY}, or 0",
    )
    need(power_of_two(machine.trace_records) and machine.trace_records >= 4, "trace_records", "a power of two, at least 4")
    need(1 <= machine.clock_mhz <= 10_000, "clock_mhz", "1 to 10000")
    machine.memory.check(f"machine {machine.name}")
