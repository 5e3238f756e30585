"""Why simulations do not reach some of the hardware."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.coverage.holes import Hole


@dataclass(frozen=True)
class Rule:
    """Explains holes of units ``units``, of one ``kind``, named ``name`` (regular expressions of whole texts), of bits ``least`` to ``most``."""

    why: str
    units: str
    kind: str
    name: str
    least: int = 0
    most: int = 1 << 16

    def explains(self, hole: Hole) -> bool:
        """Whether all of ``hole`` is what the rule is about."""
        whole = re.fullmatch(self.units, hole.unit.partition(" ")[2]) and re.fullmatch(self.name, hole.name)
        return hole.kind == self.kind and bool(whole) and all(self.least <= bit <= self.most for bit in hole.bits)


ANY = ".*"
LONG = "Simulated runs are short: upper bits of what counts or numbers something in a run stay 0."
PLACES = "Contexts of these tests are short, pools of entries small: upper bits of tokens, slots, places and scores stay 0."
MEMORY = "Images of these models are small: upper bits of addresses and lengths stay 0. tests/hw has addresses above 4 GB."
ALIGNED = "Regions begin at 64 bytes, vectors at whole words, sizes are multiples of lanes: lowest bits stay 0."
MODEL = "The models have few and small heads, groups, rows and layers: upper bits of sizes and numbers stay 0."
BUFFER = "The vectors of these models fill the beginning of a buffer: upper bits of addresses in it stay 0."
PROGRAM = "Programs here are short, and loops have few rounds: upper bits of their counters stay 0."
AXI = "AXI or the machine fixes them: bursts increment, of 16 beats at most, one ID writes, a beat is a whole word, the host gets OKAY."
SIGNS = "Squares, roots and sums of exponentials have no sign; cosines, sines and scales are below 2: so is the top bit of the exponent."
HASH = "A signature's index is made of fields some of which stay small; what is hashed has no other bits."
CLIPPED = "Numbers of these models stay in range: no float overflows, nothing is clipped. tests/hw has operands that are."
ERRORS = "Aborts, the watchdog and resets behind errors come at other moments in these runs."
HOST = "The bench writes whole words, much the same in each run, and reads nothing back that it wrote; tests/hw/control/test_host.py does."
TOKENS = "At most one dependence token waits in compiled programs, none from a unit to itself. tests/hw/control/test_tokens.py fills them."
READY = "Memory and units take a request at once in these runs; the benches of tests/hw stall every stream."
ROUTERS = "Decisions of other numbers of tokens, ties and states than these runs meet: tests/hw/router has them."
SHAPES = "Heads, blocks, queries and entries in other numbers, or at other moments, than in these runs: tests/hw/kv has them."
SQUARES = "A square is 0 or 1 modulo 4, and no aligned number is large enough for the top bits of squares and their sums."
FIRST = "Programs lie at address 0, where the compiler puts them."
HELD = "Formats and sizes that a stationary array's units do not meet here: tests/hw/pe/stationary has them."
FORMATS = "No weight format of these machines has a code of 4 or more."

RULES: tuple[Rule, ...] = (
    Rule(LONG, "Counters", "toggle", r"counts_\d+", 10),
    Rule(LONG, ANY, "toggle", r"(retired|generated|position|executed_\w+|port\$7070|port\$11261|entries|used)'*", 4),
    Rule(LONG, "UnitQueue", "toggle", "retired__payload", 10),
    Rule(LONG, "Watchdog", "toggle", "count", 9),
    Rule(LONG, "HostRegisters", "toggle", "(check|first|known_length|max_new|predict_from|prompt_length|ring_records|dial)", 1),
    Rule(PROGRAM, ANY, "toggle", r"(pc|pc_1|error_pc|stop_pc|loop_start|program_length|\$like)'*", 4),
    Rule(PROGRAM, "ProgramMemory|Dispatcher", "toggle", r"\$signal.*", 5),
    Rule(MEMORY, ANY, "toggle", r".*(runs|fetch)_*\d*__payload", 10),
    Rule(MEMORY, ANY, "toggle", r"(port\d+_)?a[rw]addr|arlen|\w*token_address|burst_beat|layer_base|layer_trace_row|advance|rope_address", 6),
    Rule(MEMORY, "HostRegisters|Configuration|Dispatcher", "toggle", r"(program|ring|kept|predicted|tokens|trace|rope|kv_base|trace_row|port\$\d+)", 1),
    Rule(MEMORY, "BurstReader|WritePort|ReadPort|EntrySender|RecordWriter|EmbedUnit", "toggle", r"(\$\w+|left|level|bursts|beat|count|owed|address|place_here|sent)'*", 3),
    Rule(ALIGNED, ANY, "toggle", r".*(address|addr|payload|base|element|offset|within|row|word|pair|turn|results?|source|port\$).*", 0, 5),
    Rule(ALIGNED, "Configuration|Dispatcher|LayerLoop|HostRegisters|Issuer|WeightFetch", "toggle", ANY, 0, 4),
    Rule(MODEL, "Configuration|LayerLoop|Issuer", "toggle", ANY, 1),
    Rule(PLACES, "Map.*|FirstToken|Entry.*|TokenPort|KvFetch|HistoryBuffer|AheadEntries|KvWriteUnit|Unwritten|KvWalk", "toggle", ANY, 3),
    Rule(PLACES, ANY, "toggle", r".*(score|score_index\w*|map_\w+|next_row)", 4),
    Rule(MODEL, "AttentionUnit|AttentionPort|QueryBlocks|QueryMemory|Divide|Reduction|SoftmaxWalk|HeadSizes|HeldEntries", "toggle", ANY, 1),
    Rule(BUFFER, ANY, "toggle", r".*(address|write|written|base|running|source|results?|payload|\$signal).*", 9),
    Rule(MODEL, "WeightFetch|Sequencer|Drain|EpilogueUnit|Argmax|ArrayUnit|AlignedMemory|Adjust.*|Align.*|EmbedUnit|StoreUnit|RowReader|Group.*|AlignSource", "toggle", ANY, 4),
    Rule(MODEL, "KvWalk|Entry.*|FirstToken|MapWalk|AheadEntries", "toggle", ANY, 0),
    Rule(AXI, "Overlay|ReadPort|WritePort", "toggle", r"(port\d+_)?(a[rw]burst|awid|a[rw]size)|host_[br]resp"),
    Rule(SIGNS, ANY, "toggle", r"(cos|sin|norm|inverse|a|b|z|port\$|c0|capped|read__data|pairs|record|parameter)\w*'*|\$signal'*", 30),
    Rule(SIGNS, ANY, "toggle", r"(\w*scale_\w+|inverse_size|epsilon|soft_cap)", 0),
    Rule(HASH, "Signature", "toggle", r"[vw]\d_1"),
    Rule(CLIPPED, ANY, "toggle", r"(\w*saturated|sticky|clipped_\d|kept_\d)'*|z", 0),
    Rule(CLIPPED, "Add|AddPositive|Multiply|FromInteger|EntryFormatter|AdjustLanes", "branch", r".*(rounded|relu|kept_\d|\(\{ 0, port \}).*"),
    Rule(CLIPPED, "PackedDot", "branch", r"\(format == 3\) .* = 8"),
    Rule(TOKENS, "DependenceTokens", "toggle", ANY),
    Rule(ERRORS, "Recovery|Watchdog|RunStatus|Dispatcher|ProgramMemory|Faults|HostRegisters|WritePort|ReadPort|BurstReader|Buffer|KvWriteUnit", "branch", r".*(silent|abort|refused|stop|failed|ports_quiet|\$signal\[4\]|sticky|count\[28\]|saturated|instruction\[25\d\]).*"),
    Rule(ERRORS, "Recovery|Watchdog|RunStatus|Faults|HostRegisters|Dispatcher|ProgramMemory|Issuer|[A-Za-z]*Port|BurstReader|Buffer|KvWriteUnit|AdjustUnit", "toggle", r"(abort|clear|busy|ended|reset|silent|\$signal|came_1|code|error\w*|port\$\w+|refused|reason|missing|misplaced|nobodys|beyond_\w+|illegal|filling|range)'*"),
    Rule(ERRORS, "Dispatcher|ProgramMemory", "change", "1 to 0"),
    Rule(HOST, "HostRegisters", "branch", r".*(wstrb\[\d\]\)|asked_\w+ [?:])"),
    Rule(READY, ANY, "branch", r".*!\(+(\(?runs_?\d?_*ready|beats__valid|.*runs_1__ready).*"),
    Rule(ROUTERS, "RouteUnit|Window|Score", "branch", ANY),
    Rule(ROUTERS, "RouteUnit|Window|Score", "change", ANY),
    Rule(SHAPES, "Divide|QueryBlocks|SoftmaxWalk|KvWalk|AttentionPort|EntryFormatter|AheadEntries|MapWalk|EntryPlaces", "branch", ANY),
    Rule(SHAPES, "Divide", "change", "1 to 2|2 to 1"),
    Rule(SHAPES, "Divide", "state", "2"),
    Rule(SHAPES, "AttentionPort", "toggle", r"header_1|kept_\d_[23]"),
    Rule(SIGNS, "InverseRms", "toggle", r"(total_\d|kept_value)", 31),
    Rule(SQUARES, "InverseRms", "toggle", r"square_\d", 1, 1),
    Rule(SQUARES, "InverseRms", "toggle", r"squares?\d?_\d", 34),
    Rule(ALIGNED, "GroupTracker|HeadSizes|Divide|QueryBlocks|RowReader|AlignUnit|Aligner|RecordWriter|Drain", "toggle", ANY, 0, 12),
    Rule(AXI, "Overlay|ReadPort", "toggle", r"(port\d_)?arlen", 4),
    Rule(ROUTERS, "RouteUnit", "toggle", ANY),
    Rule(HOST, "HostRegisters", "toggle", "dial|kept|program|ring_records"),
    Rule(HELD, "Lanes|StationarySlice|FillWalk|StationarySequencer", "branch", r".*(format ==|instruction\[104:102\]).*"),
    Rule(HELD, "StationarySlice", "toggle", r"(correction|less|zero)_.*"),
    Rule(MODEL, "HeldPort|HeldWalk|ActiveRuns|ActiveTile|ChannelFetch|MaskUnit|FillWalk|StationarySequencer", "toggle", ANY, 2),
    Rule(SHAPES, "HeldWalk|HeldPort", "branch", ANY),
    Rule(FIRST, "Dispatcher|ProgramMemory", "toggle", "runs__payload"),
    Rule(ERRORS, "Faults", "toggle", r"pc_1'*"),
    Rule(ERRORS, "QueryMemory|AttentionUnit", "toggle", "range"),
    Rule(FORMATS, "ArrayUnit|Sequencer", "toggle", r"(tile_\d__|own_)format", 2),
    Rule(ALIGNED, "EpilogueUnit|AdjustUnit|EmbedUnit", "toggle", r"running|before|\$signal'*", 0, 4),
)  # fmt: skip


def explanation(hole: Hole) -> Rule | None:
    """The first rule that explains all of ``hole``."""
    return next((rule for rule in RULES if rule.explains(hole)), None)
