"""Assigns buffer addresses to values and memory addresses to everything that lies in the ports."""

from __future__ import annotations

from dataclasses import dataclass, field

from compiler.graph.ops import Graph, Mask, Place, Value, Weights
from skipopu.adjust_record import adjust_size
from skipopu.channel_stream import ChannelStream
from skipopu.errors import ProgramError
from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS, BUFFER_UNIT, MATMUL, WORD_BYTES
from skipopu.layout import EmbeddingRows, KvEntry, WeightStream, buffer_stride, round_up
from skipopu.machine.accepted import LARGEST_MEMORY
from skipopu.machine.config import Machine
from skipopu.masks import ThresholdTable
from skipopu.model_config import ModelConfig
from skipopu.program.program import Region
from skipopu.records import RING_RECORD, ROUTER_RECORD
from skipopu.streams import stream_of

MOST_ROUNDS = (1 << MATMUL.by_name["rounds"].width) - 1
_STEP = buffer_stride(1)
LONGEST = ((1 << MATMUL.by_name["stride"].width) - 1) * BUFFER_UNIT // _STEP * _STEP  # elements of a value, for each token
FIELDS = {"logits": "vocab_size", "gated": "intermediate_size"}


@dataclass
class Plan:
    """Addresses of one program.

    ``buffer`` maps value name to its first element. ``regions`` are bytes in every port. ``weights`` maps a matrix name to
    its address, in layer 0 for the layers' matrices; the other layers follow every ``layer_bytes``. So does ``adjusts`` for the
    records of ADJUST, and ``masks`` for thresholds, by what is read.
    """

    buffer: dict[str, int] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    adjusts: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)
    layer_bytes: int = 0
    router_record: int = 0  # address in layer 0
    port_bytes: int = 0


def plan_buffer(graph: Graph, machine: Machine, plan: Plan) -> None:
    """First fit by lifetime. What is written in front of the layers and used in them lives throughout; every other value within the straight
    line that uses it.

    Raises:
        ProgramError: a value is longer than instructions say, or does not fit; a product has more rows than one instruction computes.
    """
    spans: dict[str, tuple[int, int, Value]] = {}
    for time, op in enumerate(graph.ops()):
        # Those whose results go through argmax are split.
        if op.weights is not None and not op.argmax and op.weights.rows > (most := MOST_ROUNDS * machine.ports * BLOCK_ROWS):
            raise ProgramError(
                f"machine {machine.name}: product {op.weights.name} ({op.note}) has {op.weights.rows} rows; accepted: up to {most}"
                f" with ports {machine.ports}"
            )
        for value in (*op.reads, *op.writes):
            if value.place is Place.BUFFER:
                if buffer_stride(value.elements) > LONGEST:
                    field = f", the model's {FIELDS[value.name]}," if value.name in FIELDS else ""
                    raise ProgramError(
                        f"machine {machine.name}: value {value.name!r}{field} has {value.elements} elements a token; accepted: up to"
                        f" {LONGEST}"
                    )
                start, _, _ = spans.get(value.name, (time, time, value))
                spans[value.name] = (start, time, value)
    placed: list[tuple[int, int, int, int]] = []  # start time, end time, first, last + 1
    for start, end, value in sorted(spans.values(), key=lambda s: (s[0], s[2].name)):
        size = machine.tokens * buffer_stride(value.elements)
        if start < len(graph.prologue) <= end:
            end = 1 << 30
        address = 0
        for other in sorted(placed, key=lambda p: p[2]):
            if other[0] <= end and start <= other[1] and address < other[3] and other[2] < address + size:
                address = other[3]
        if address + size > machine.buffer:
            raise ProgramError(
                f"value {value.name!r} ({machine.tokens} slots x {value.elements}) does not fit: {address + size} elements needed,"
                f" machine {machine.name} has buffer {machine.buffer}"
            )
        plan.buffer[value.name] = address
        placed.append((start, end, address, address + size))


def sharing(graph: Graph, machine: Machine, plan: Plan) -> dict[Value, set[Value]]:
    """Of each value that lies in a memory, those that lie in the same place of it, itself among them."""
    values = {value for op in graph.ops() for value in (*op.reads, *op.writes)}

    def place(value: Value) -> tuple[int, int]:
        """First element and the one behind the last: vectors in the activation memory and the query memory all start at the same one."""
        first = plan.buffer.get(value.name, 0)
        return first, first + machine.tokens * buffer_stride(value.elements)

    def shared(a: Value, b: Value) -> bool:
        (first, end), (other, behind) = place(a), place(b)
        return a.place is b.place and first < behind and other < end

    return {a: {b for b in values if a == b or (a.place not in (Place.STATE, Place.DISPATCH) and shared(a, b))} for a in values}


def stream_for(weights: Weights, group: int, machine: Machine) -> WeightStream | ChannelStream:
    return stream_of(machine, weights.rows, -(-weights.n // group), group, weights.format)


def table_of(mask: Mask, group: int, machine: Machine) -> ThresholdTable:
    return ThresholdTable(-(-mask.thresholds.shape[1] // group), group, machine.mask_ports, machine.beat_bytes)


def plan_memory(graph: Graph, machine: Machine, model: ModelConfig, context: int, logits: bool, group: int, plan: Plan) -> None:
    """Lays out all regions; every port has the same map.

    Raises:
        ProgramError: they are larger than the machine's memory.
    """
    position = 0

    def region(name: str, size: int) -> None:
        nonlocal position
        size = round_up(size, ADDRESS_UNIT)
        plan.regions[name] = Region(position, size)
        position += size

    region("program", machine.instructions * WORD_BYTES)
    region("tokens", 4 * (context + 1))
    region("trace", model.num_layers * round_up(context, ADDRESS_UNIT))
    region("ring", RING_RECORD.size * machine.trace_records)
    region("rope", max(1, len(model.rope)) * context * round_up(4 * model.head_dim, ADDRESS_UNIT))
    region("embedding", EmbeddingRows(model.hidden_size, model.vocab_size, machine.ports).size)
    for op in graph.prologue:
        if op.weights is not None:
            region(op.weights.name, stream_for(op.weights, group, machine).size)
            plan.weights[op.weights.name] = plan.regions[op.weights.name].address
    offset = position
    for op in graph.body:
        if op.kind == "route":
            plan.router_record, offset = offset, offset + ROUTER_RECORD.size
        elif op.weights is not None:
            plan.weights[op.weights.name] = offset
            offset += stream_for(op.weights, group, machine).size
        elif op.adjust is not None:
            plan.adjusts[op.adjust.name] = offset
            offset += adjust_size(op.adjust.elements)
        if op.mask is not None and op.mask.name not in plan.masks:
            plan.masks[op.mask.name] = offset
            offset += table_of(op.mask, group, machine).size
    plan.layer_bytes = offset - position
    region("layers", plan.layer_bytes * graph.layers)
    for op in graph.epilogue:
        if op.weights is not None:
            region("head", stream_for(op.weights, group, machine).size)
            plan.weights[op.weights.name] = plan.regions["head"].address
        elif op.adjust is not None:
            region(op.adjust.name, adjust_size(op.adjust.elements))
            plan.adjusts[op.adjust.name] = plan.regions[op.adjust.name].address
    if logits:
        region("logits", context * round_up(4 * model.vocab_size, ADDRESS_UNIT))
    entry = KvEntry(model.num_kv_heads, model.head_dim, machine)
    region("kv", kv_slots(machine, model, context) * entry.size)
    region("predicted", 4 * context)
    plan.port_bytes = position
    # Ports stay within one channel of their memory: nothing counts the time of a change.
    most = min(machine.memory_bytes or LARGEST_MEMORY, 1 << machine.memory.channel)
    if position > most:
        raise ProgramError(
            f"the memory image needs {position} bytes per port at a context of {context} tokens; machine {machine.name} has {most}"
        )


def kv_slots(machine: Machine, model: ModelConfig, context: int) -> int:
    """Entries per port that hold every token of every layer; tokens go round the ports."""
    return model.num_layers * -(-context // machine.ports)
