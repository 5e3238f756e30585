"""The machine description: one frozen object, validated once, read by compiler, hardware generator and simulators."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopu.errors import ConfigError, ProgramError
from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS
from skipopu.machine.accepted import HISTORY_SLOT, LARGEST_BUFFER, SHORTEST_GROUP, check
from skipopu.machine.accepted import QUERY_LANES as QUERY_LANES
from skipopu.machine.files import describe, target_names
from skipopu.machine.memory import MemoryTiming, memory_timing, typed
from skipopu.numerics import formats
from skipopu.numerics.accumulate import TERMS
from skipopu.numerics.formats import USUAL, Format
from skipopu.numerics.profile import fingerprint

TOKENS_AT_ONCE = 2  # tokens that share a weight in one cycle, where every multiplier keeps its rows
ENTRIES_AT_ONCE = 4  # entries of a port whose weighted values a multiplier adds up there, at most
ENTRIES_HELD = 2 * ENTRIES_AT_ONCE  # of a port in the buffer of its multipliers there, at most
TOGETHER = range(ENTRIES_AT_ONCE.bit_length())  # logarithms of how many entries' values are added up
BEATS_HELD = 2 * TERMS  # of a port in that buffer: two parts of groups of weights, or entries
THRESHOLD_PORTS = 4  # hold thresholds of channels, at most
QUEUE_DEPTH = 4  # instructions that wait in front of a unit, and products whose weights wait to be asked for
BACKGROUND_BURSTS = 4  # of what is fetched ahead under way at most: what weights asked for in the meantime may have to wait for
ENTRIES_AHEAD = 8  # keys or values of entries that a port is asked for before they are used, at most
AHEAD_STEP = 2  # rounds from one whose entries are fetched ahead to the next: hits and misses alternate when they are used


@dataclass(frozen=True)
class Machine:
    """Parameters of one overlay.

    Attributes:
        name: of the target.
        ports: memory ports, one slice each.
        port_bits: data width of a port; a power of two from 64 to 512.
        tokens: largest chunk, tokens that share a weight beat.
        vector_lanes: FP32 elements per cycle of the vector unit; a power of two.
        buffer: FP32 elements on chip.
        activation: aligned elements per token slot.
        query: aligned query elements per token slot, heads padded to whole beats.
        map_entries: layers x context of the KV map.
        score_entries: FP32 scores per port: a chunk's queries (in fours) x entries of the context in one port.
        kv_heads: largest number of KV heads.
        query_group: largest number of query heads per KV head.
        weight_fifo: beats buffered per port ahead of the array.
        kv_fifo: beats buffered per port ahead of attention.
        weights_in_flight: weight beats per port asked for that did not come yet, at most; 0: as many as the FIFO holds. Enough of
            them cover the memory's latency; more delay the keys that are asked for behind them.
        history: beats of K and V per port that the KV history buffer holds; 0 is none.
        adjust: the unit that executes ADJUST exists, and what comes with it (Activation.GELU_TANH).
        burst: longest AXI read burst, beats.
        write_burst: longest AXI write burst, beats; 0: as long as reads. The bus turns round once per burst.
        window: a layer's queries may see their last tokens only; the others' entries are not read.
        soft_cap: scores may be capped softly, c * tanh(s / c), by the register SOFT_CAP.
        short_groups: groups of weights may be a half and a quarter of a beat too, of 8 weights or more.
        stationary: every multiplier of the array keeps two rows, a beat of weights is an input channel; else a row.
        masks: input channels of products may be left out, token by token, by thresholds (EXTEND) and the register MASKING.
        formats: of weights that the array multiplies, by name; int4, which routers are in, is always one.
        multiplier: primitive of the array, "27x18" (DSP48E2) or "18x18" (ECP5); both give the same bits.
        instructions: depth of the instruction memory.
        memory_bytes: bytes behind each port that programs may use; 0 is as many as addresses reach.
        trace_records: records of the trace ring that a program reserves for check mode, a power of two.
        clock_mhz: core clock: what a board's project asks for and reported times assume; no bit and no count of cycles depends on it.
        numerics: profiles the machine executes.
        memory: timing of the memory behind each port.
    """

    name: str
    ports: int
    port_bits: int
    tokens: int
    vector_lanes: int
    buffer: int
    activation: int
    query: int
    map_entries: int
    score_entries: int
    kv_heads: int = 8
    query_group: int = 4
    weight_fifo: int = 64
    kv_fifo: int = 64
    weights_in_flight: int = 0
    history: int = 0
    adjust: bool = False
    burst: int = 16
    write_burst: int = 0
    window: bool = False
    soft_cap: bool = False
    short_groups: bool = False
    stationary: bool = False
    masks: bool = False
    formats: tuple[str, ...] = USUAL
    multiplier: str = "27x18"
    instructions: int = 64
    memory_bytes: int = 0
    trace_records: int = 4096
    clock_mhz: float = 100.0
    numerics: tuple[str, ...] = ("exact18",)
    memory: MemoryTiming = dataclasses.field(default_factory=MemoryTiming)

    def __post_init__(self) -> None:
        check(self)

    def with_chunk(self, tokens: int) -> Machine:
        """This machine with chunks of at least ``tokens`` tokens, buffers growing with them. No result depends on the chunk."""
        if tokens <= self.tokens:
            return self
        factor = -(-tokens // self.tokens)
        return dataclasses.replace(
            self,
            tokens=tokens,
            buffer=min(LARGEST_BUFFER, factor * self.buffer),
            score_entries=factor * self.score_entries,
        )

    @property
    def beat_bytes(self) -> int:
        return self.port_bits // 8

    @property
    def longest_write(self) -> int:
        """Beats of the longest write burst."""
        return self.write_burst or self.burst

    @property
    def weight_lanes(self) -> int:
        """INT4 weights per beat."""
        return self.port_bits // 4

    @property
    def mask_ports(self) -> int:
        """Ports that hold thresholds of channels: what they bring is compared in one place."""
        return min(1 << self.ports.bit_length() - 1, THRESHOLD_PORTS)

    @property
    def leading_channels(self) -> int:
        """Channels of a masked product's first tile, at most, that are fetched before it is known whether a token needs them. With twice as many on
        `u280-masks`, and 40 % needless, the array loses as much time as the memory gains."""
        return self.weight_fifo // 4

    def leading_groups(self, groups: int, group: int) -> int:
        """Those in groups of ``group``; none of a product that has no ``groups`` behind them."""
        leading = self.leading_channels // group
        return leading if leading < groups else 0

    @property
    def channel_slots(self) -> int:
        """Input channels of a beat at most, where beats are channels: those of a block of 8 rows."""
        return self.weight_lanes // BLOCK_ROWS

    @property
    def kv_lanes(self) -> int:
        """FP16 elements per beat."""
        return self.port_bits // 16

    @property
    def query_words(self) -> int:
        """Words of ``kv_lanes`` elements in each of four banks of queries: every slot's, whatever the number of query heads per KV head."""
        return self.query // self.kv_lanes * -(-self.tokens // QUERY_LANES)

    def require_masks(self, purpose: str) -> None:
        """Raises ProgramError unless this machine can leave out input channels; ``purpose`` is what for."""
        if not self.masks:
            having = " and ".join(name for name in target_names() if Machine.load(name).masks)
            raise ProgramError(
                f"machine {self.name}: masks is {self.masks}; accepted: true, {purpose}; of the targets {having} have masks"
            )

    def adds_entries(self, logarithm: int, kv_words: Any, score_words: Any) -> Any:
        """Whether a multiplier adds up weighted values of 2 ** ``logarithm`` entries of ``kv_words`` beats and ``score_words`` each: half its
        buffer has their beats, and there is room for two rounds' probabilities. Numbers or hardware's values."""
        return (kv_words << logarithm <= BEATS_HELD // 2) & (score_words << logarithm <= self.query_words)

    @property
    def weight_formats(self) -> tuple[Format, ...]:
        """Formats of weights that the array multiplies, codes ascending."""
        return tuple(sorted((formats.BY_NAME[name] for name in self.formats), key=lambda form: form.code))

    @property
    def _format_names(self) -> tuple[str, ...]:
        return tuple(form.name for form in self.weight_formats)

    @property
    def zero_points(self) -> bool:
        """Whether one of them has zero points."""
        return any(form.zero_points for form in self.weight_formats)

    def numerics_fingerprint(self, profile: str) -> str:
        """That of a numerics profile with this machine's weight formats."""
        return fingerprint(profile, self._format_names, self.masks)

    @property
    def groups_in_beats(self) -> tuple[int, ...]:
        """Weights of the groups of which several stand side by side in a beat."""
        sizes = (self.weight_lanes // 4, self.weight_lanes // 2)
        return tuple(size for size in sizes if size >= SHORTEST_GROUP) if self.short_groups else ()

    @property
    def drain_ports(self) -> int:
        """Ports whose results leave the array in one cycle, a pair of rows each: their blocks share a word of the buffer."""
        return math.gcd(max(1, self.vector_lanes // BLOCK_ROWS), self.ports)

    @property
    def drain_pairs(self) -> int:
        """Pairs of rows of a port that leave the array in one cycle: a stationary array's results come many rows at a time."""
        return min(BLOCK_ROWS, self.vector_lanes) // 2 if self.stationary else 1

    @property
    def free_tokens(self) -> int:
        """Tokens of a chunk that are multiplied while memory brings the weights anyway: a pair of beats meets a token per cycle. A chunk of
        as many can be given back in part: each has a port of its own."""
        return min(self.tokens, self.ports, int(2 / self.memory.rate))

    @property
    def history_slots(self) -> int:
        """Tokens whose entries a port's history buffer can tell apart."""
        return self.history // HISTORY_SLOT

    @property
    def peak_bandwidth(self) -> float:
        """Bytes per second of all ports at the assumed clock while the memory moves data."""
        return self.ports * self.beat_bytes * self.clock_mhz * 1e6 * self.memory.beats_per_256_cycles / 256

    @property
    def bandwidth_cap(self) -> float:
        """Bytes per second of all ports that endless reads reach: the peak less refreshes."""
        return self.ports * self.beat_bytes * self.clock_mhz * 1e6 * self.memory.rate

    @property
    def beats_per_block(self) -> int:
        """Beats in a 64-byte address unit."""
        return ADDRESS_UNIT // self.beat_bytes

    @property
    def hardware_parameters(self) -> dict[str, Any]:
        """Everything that programs and the generated processor share (not clocks, the memory behind it or the name)."""
        data = dataclasses.asdict(self)
        for name in ("name", "clock_mhz", "memory", "memory_bytes", "trace_records"):
            del data[name]
        data["formats"] = self._format_names
        if data["formats"] == USUAL:
            del data["formats"]
        return {name: value for name, value in data.items() if value is not False}  # a unit that is not there leaves no trace

    @property
    def fingerprint(self) -> str:
        """16 hex digits over :attr:`hardware_parameters`."""
        canonical = json.dumps(self.hardware_parameters, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "machine") -> Machine:
        """Builds a machine; ``where`` names the source in errors.

        Raises:
            ConfigError: an unknown or missing key, or a value outside its range.
        """
        values = typed(Machine, data, where)
        memory = values.pop("memory", {})
        for name in {"numerics", "formats"} & values.keys():
            values[name] = tuple(values[name])
        try:
            machine = Machine(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        timing = memory_timing(memory, machine.clock_mhz, machine.beat_bytes, where)
        return dataclasses.replace(machine, memory=timing)

    @staticmethod
    def load(target: str | Path) -> Machine:
        """A shipped target by name, or a YAML file by path.

        A description may name another one as ``base`` (a shipped target) and give what differs from it.
        """
        return Machine.from_dict(describe(target), str(target))
