"""What the timing engine knows of one run, and what its units share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.result import Retired, Routed
from sim.timeline import Span
from sim.timing.costs import Attention, Costs
from sim.timing.history import History, own_entries
from sim.timing.masked import Masked
from sim.timing.masks import Channels
from sim.timing.product import Product
from sim.timing.stream import Streams
from sim.timing.times import Times
from sim.walk import Fields, Walk
from skipopu.isa.registers import COUNTERS, MASK_GENERATED, MASK_PROMPT, PREFETCH, SERIAL_ATTENTION, WEIGHTS_ON_DEMAND, Config
from skipopu.isa.spec import AlignTarget
from skipopu.layout import KvEntry, port_of, round_up
from skipopu.policy import Pair, Phase
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import router_windows


class State:
    """One run: times, counters, contents of the history buffer.

    Attributes:
        entries: KV entries written. entry: one of them.
        pc: of the present instruction. waited: cycles for which it stood at its queue's head.
        kvwrites: fields of the present loop's KVWRITE.
        every_policy: of each layer. traced: whether the present layer's routing bits are read from memory. ranked: whether tokens are compared.
        part: what the present layer's attention takes. parts: those that were worked out.
        room: beats that could be fetched ahead of the layer before. ahead: whether more than that is missing for the present one.
        products, undecided: remembered by :mod:`sim.timing.array` and :mod:`sim.timing.bus`.
        channels: which channels products need, thresholds: address of those of the next one. masked_products: remembered.
        last_mask: what says which mask the product before had, if it stands; None: no mask does.
        spans: receives a bar of the timeline for everything, if there is one.
    """

    def __init__(
        self,
        program: Program,
        run: Run,
        routed: Routed,
        walk: Walk,
        spans: list[Span] | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.program, self.machine, self.run, self.walk, self.spans = program, program.machine, run, walk, spans
        self.routing = routed.routing
        self.costs, self.streams, self.times = Costs(program.machine), Streams(program.machine), Times(program.machine)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.trace: list[Retired] = []
        self.entries = int(own_entries(program, routed.routing[:, 0, : run.first]).sum())
        self.entry = KvEntry(program.model.num_kv_heads, program.model.head_dim, program.machine)
        self.history = History(program, routed.routing, self.entry)
        self.pc = self.waited = 0
        self.kvwrites: Fields = {"late": 0, "list": 0}
        self.every_policy = run.policies(program)
        self.traced = self.ranked = self.ahead = False
        self.part: Attention | None = None
        self.parts: dict[tuple[object, ...], Attention] = {}
        self.room = 0
        self.products: dict[tuple[int, int, int], Product] = {}
        self.undecided: dict[int, NDArray[np.int64]] = {}
        self.channels, self.thresholds = channels, 0
        self.last_mask: tuple[int, ...] | None = None
        self.masked_products: dict[tuple[object, ...], Masked] = {}

    def remember(self, other: State) -> None:
        """What was worked out for another run of the program."""
        self.costs, self.streams, self.parts = other.costs, other.streams, other.parts
        self.products, self.undecided, self.masked_products = other.products, other.undecided, other.masked_products

    @property
    def prefetch(self) -> bool:
        return bool(self.walk.config[Config.SCHEDULE] & PREFETCH)

    @property
    def on_demand(self) -> bool:
        return bool(self.walk.config[Config.SCHEDULE] & WEIGHTS_ON_DEMAND)

    @property
    def masked(self) -> bool:
        """Whether masks of the chunk's tokens apply."""
        bit = MASK_GENERATED if self.walk.decoding else MASK_PROMPT
        return self.machine.masks and bool(self.walk.config[Config.MASKING] & bit)

    @property
    def serial(self) -> bool:
        return bool(self.walk.config[Config.SCHEDULE] & SERIAL_ATTENTION)

    @property
    def capped(self) -> bool:
        return self.machine.soft_cap and bool(self.walk.config[Config.SOFT_CAP])

    def book(self, unit: str, busy: int, cycles: int, **stalls: int) -> None:
        """Counts an instruction of ``unit`` that takes ``cycles``: ``busy`` ones, stalls by cause, the rest is its edge."""
        self.counters[f"{unit}_BUSY"] += busy
        for cause, amount in stalls.items():
            self.counters[f"{unit}_{cause}"] += amount
        self.counters[f"{unit}_EDGE"] += cycles - busy - sum(stalls.values())

    def aligned(self, target: int, slots: int, elements: int, spacing: int) -> int:
        """Cycles behind the last write until ``slots`` vectors are aligned; counts what is busy with it."""
        if target == AlignTarget.NONE:
            return 0
        query = target == AlignTarget.QUERY
        group = self.walk.config[Config.HEAD_DIM if query else Config.GROUP]
        padded = round_up(group, self.machine.kv_lanes) if query else group
        residual = target == AlignTarget.RESIDUAL
        self.counters["ALIGN_BUSY"] += self.costs.align_busy(slots, elements, group, padded, residual)
        return self.costs.align_tail(slots, padded, spacing, elements % group == 0, residual)

    def ports_of(self, f: Fields) -> list[int]:
        """Ports that a KVWRITE's entries go to."""
        return [port_of(self.walk.position + int(slot), self.machine.ports) for slot in self.walk.lists[f["list"]]]

    def late(self, f: Fields) -> bool:
        """Whether a KVWRITE's entry is written beside attention instead."""
        walk = self.walk
        return 0 < f["late"] <= walk.position and walk.count == 1 and len(walk.lists[f["list"]]) > 0

    def policies(self, layer: int) -> Pair:
        """Those of a layer's modules in the present chunk."""
        phase = Phase.DECODE if self.walk.decoding else Phase.PREFILL
        return self.every_policy[layer][phase]

    def first(self, layer: int) -> int:
        """The first token that the chunk's queries see in ``layer``."""
        window = self.program.model.window(layer, self.program.context)
        if self.program.memory and self.machine.window:
            address, stride = self.program.router_record
            window = router_windows(self.program.memory[0], address + layer * stride)[0]
        return max(0, self.walk.position + 1 - window) if window else 0

    def span(self, track: str, start: int, end: int) -> None:
        """Keeps a bar of the timeline for the present instruction when one is wanted."""
        if self.spans is not None:
            note = self.program.notes[self.pc].partition(": ")[2]
            self.spans.append(Span(track, note, start, end, self.walk.layer, self.walk.position))
