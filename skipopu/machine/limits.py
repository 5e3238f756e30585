"""What a machine can execute: asked by the compiler before it writes anything, and by the hardware for its widths."""

from __future__ import annotations

from dataclasses import dataclass

from skipopu.errors import ProgramError
from skipopu.isa.registers import MASK_GENERATED, MASK_PROMPT, Config
from skipopu.isa.spec import MATMUL
from skipopu.layout import KvEntry, round_up
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp32, soft_cap
from skipopu.numerics.activation import ACTIVATIONS, Activation

LARGEST_HEAD = 256  # elements
LARGEST_GROUP = 512  # weights
MOST_GROUPS = (1 << MATMUL.by_name["groups"].width) - 1  # along a product's input
LARGEST_CONTEXT = 1 << 16  # tokens whose weighted values attention's exact sums hold
LARGEST_VOCABULARY = 1 << 20
LARGEST_RUN = (1 << 24) - 1  # beats that a unit asks a port for at once
# Cycles without a beat and an instruction that end a run: a second at the fastest clock, where the longest work of an instruction between two
# beats, attention over a full history buffer, takes less than 2**20 and memory answers in thousands.
WATCHDOG_CYCLES = 1 << 28


@dataclass(frozen=True)
class Range:
    """Values of a configuration register: multiples of ``step``, a power of two, from ``least`` to ``most``, and what is in ``also``."""

    least: int
    most: int
    step: int = 1
    also: tuple[int, ...] = ()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and (value in self.also or (self.least <= value <= self.most and value % self.step == 0))

    def __str__(self) -> str:
        steps = f"a multiple of {self.step} from " if self.step > 1 else ""
        also = f"{', '.join(map(str, self.also))} or " if self.also else ""
        return f"{also}{steps}{self.least}" + (f" to {self.most}" if self.most > self.least else "")


def registers_of(machine: Machine) -> list[Config]:
    """A machine's configuration registers, in their order: as many as it needs."""
    last = Config.MASKING if machine.masks else Config.SOFT_CAP if machine.soft_cap else Config.HISTORY
    return [register for register in Config if register <= last]


def ranges(machine: Machine) -> dict[Config, Range]:
    """Registers whose value shapes a program: the compiler plans within these, dispatch refuses what lies outside."""
    lanes = machine.weight_lanes
    units: dict[Config, Range] = {}
    if machine.adjust:
        units[Config.ACTIVATION] = Range(0, max(Activation))
    if machine.soft_cap:  # patterns of positive numbers stand in their order
        units[Config.SOFT_CAP] = Range(0, int(fp32.bits(soft_cap.factor(soft_cap.LARGEST))))
    if machine.masks:
        units[Config.MASKING] = Range(0, MASK_PROMPT | MASK_GENERATED)
    return units | {
        Config.CONTEXT: Range(1, min(LARGEST_CONTEXT, machine.map_entries)),
        Config.HEAD_DIM: Range(max(8, machine.vector_lanes), LARGEST_HEAD, machine.vector_lanes),
        Config.KV_HEADS: Range(1, machine.kv_heads),
        Config.QUERY_GROUP: Range(1, machine.query_group),
        Config.KV_SLOTS: Range(0, machine.map_entries),
        Config.GROUP: Range(lanes, LARGEST_GROUP, lanes, machine.groups_in_beats),
        Config.INNER: Range(0, machine.activation),
        Config.HISTORY: Range(0, machine.history_slots),
    }


def largest_entry(machine: Machine) -> KvEntry:
    """The longest KV entry that these ranges allow."""
    return KvEntry(machine.kv_heads, LARGEST_HEAD, machine)


def largest_context(machine: Machine, model: ModelConfig) -> int:
    """Tokens that the KV map and the score memories hold, at most the model's own limit and the machine's.

    Tokens go round the ports, so each port scores an equal share of the context.
    """
    blocks = -(-machine.tokens * model.queries_per_kv_head // QUERY_LANES)
    by_scores = machine.ports * (machine.score_entries // (QUERY_LANES * blocks * model.num_kv_heads))
    return min(model.max_positions, LARGEST_CONTEXT, machine.map_entries // model.num_layers, by_scores)


def history_slots(machine: Machine, model: ModelConfig) -> int:
    """Tokens per port whose entries the KV history buffer holds."""
    entry = KvEntry(model.num_kv_heads, model.head_dim, machine)
    return min(machine.history // (entry.beats - entry.header_beats), machine.history_slots)


def check(machine: Machine, model: ModelConfig, context: int, group: int, router_width: int = 0) -> None:
    """Raises ProgramError, with both numbers, when ``machine`` cannot run ``model`` at ``context`` tokens.

    ``router_width``: elements between the two layers of its routers.
    """

    def need(condition: bool, what: str, asked: object, accepted: object) -> None:
        if not condition:
            raise ProgramError(f"machine {machine.name}: {what} is {asked}; accepted: {accepted}")

    allowed = ranges(machine)
    for register, what, asked in (
        (Config.GROUP, "weight group", group),
        (Config.HEAD_DIM, "head_dim", model.head_dim),
        (Config.KV_HEADS, "the number of key-value heads", model.num_kv_heads),
        (Config.QUERY_GROUP, "the number of query heads per key-value head", model.queries_per_kv_head),
    ):
        need(asked in allowed[register], what, asked, allowed[register])
    longest = max(model.hidden_size, model.intermediate_size, model.num_heads * model.head_dim, router_width)
    need(
        longest <= MOST_GROUPS * group,
        f"the longest input of a product, in groups of {group},",
        longest,
        f"up to {MOST_GROUPS * group}",
    )
    last = model.hidden_size if model.final_bias else 0
    inner = max(model.intermediate_size, model.num_heads * model.head_dim, last, router_width)
    aligned = round_up(model.hidden_size, group) + round_up(inner, group)
    need(aligned <= machine.activation, "residual and inner vector", aligned, f"up to activation, {machine.activation}")
    entry = KvEntry(model.num_kv_heads, model.head_dim, machine)
    padded = model.num_heads * entry.head_beats * machine.kv_lanes
    need(padded <= machine.query, "padded query length", padded, f"up to query, {machine.query}")
    need(model.vocab_size <= LARGEST_VOCABULARY, "vocabulary", model.vocab_size, f"up to {LARGEST_VOCABULARY}")
    need(len(model.eos_token_ids) <= 4, "end-of-sequence ids", len(model.eos_token_ids), "up to 4")
    if ACTIVATIONS[model.hidden_act][0] is Activation.GELU_TANH:
        need(machine.adjust, "adjust", machine.adjust, f"true, for hidden_act {model.hidden_act}")
    most = largest_context(machine, model)
    need(
        1 <= context <= most,
        "context",
        context,
        f"1 to {most} (map_entries / layers, score_entries, model limit)",
    )
