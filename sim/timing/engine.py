"""The timing engine: walks a program with a routing trace and counts cycles; no data."""

from __future__ import annotations

import numpy as np

from sim.engine import OnToken, Result, Retired
from sim.timing.costs import DISPATCH, EPILOGUE, HANDOVER, Costs
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import COUNTERS, Config
from skipopu.isa.spec import BY_OPCODE, OPCODE_BITS, AlignTarget, Epilogue, RouteMode, TokenList, Unit, WeightFormat
from skipopu.layout import KvEntry

Fields = dict[str, int]
QUEUE_DEPTH = 4


class TimingEngine:
    """Times of one run: every unit's queue, the dependence tokens between units, the weight streams."""

    def __init__(self, program: Program, options: Run, routed: Result) -> None:
        self.program, self.machine, self.options = program, program.machine, options
        self.costs = Costs(program.machine)
        self.routing = routed.routing
        self.new_tokens = len(routed.tokens)
        self.config = [0] * 64
        self.now = 0  # of the dispatcher
        self.free = dict.fromkeys(Unit, 0)
        self.tokens: dict[tuple[int, int], list[int]] = {(a, b): [] for a in Unit for b in Unit}
        self.finished: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        self.route_done = 0
        self.fetch_free = 0  # when the weight readers can take the next stream
        self.position = self.count = self.layer = self.generated = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.lists: dict[int, np.ndarray] = {}
        self.entries = 0
        self.trace: list[Retired] = []
        model = program.model
        self.entry = KvEntry(model.num_kv_heads, model.head_dim, self.machine)

    # What each unit instruction costs: (cycles, read beats, write beats)

    def embed(self, f: Fields, slots: int) -> tuple[int, int, int]:
        half = self.config[Config.HEAD_DIM] // 2
        beat = self.machine.beat_bytes
        ports = min(self.machine.ports, -(-f["elements"] // (f["row"] * 32)))
        beats = slots * (1 + ports * f["row"] * 64 // beat + -(-8 * half // beat))
        return self.costs.embed(slots, f["elements"], f["row"], half), beats, 0

    def align(self, f: Fields, slots: int) -> tuple[int, int, int]:
        lanes = self.machine.kv_lanes if f["target"] == AlignTarget.QUERY else self.machine.weight_lanes
        return self.costs.align(slots, f["elements"], f["group"], lanes, bool(f["norm"])), 0, 0

    def route(self, f: Fields, slots: int) -> tuple[int, int, int]:
        address = self.program.router_record[0] + self.layer * self.program.router_record[1]
        modes = int(self.program.memory[0][address + 8])
        traced = not isinstance(self.options.routing, str) or RouteMode.TRACE in (modes & 3, modes >> 2 & 3)
        chunk = slice(self.position, self.position + self.count)
        every = np.arange(self.count)
        self.lists[TokenList.ATTENTION] = every[self.routing[self.layer, 0, chunk]]
        self.lists[TokenList.FFN] = every[self.routing[self.layer, 1, chunk]]
        return self.costs.route(slots, traced), self.costs.record_beats() + (slots if traced else 0), 0

    def kvwrite(self, f: Fields, slots: int) -> tuple[int, int, int]:
        self.entries += slots
        return self.costs.kvwrite(slots, self.count - slots, self.entry), 0, slots * self.entry.beats

    def attend(self, f: Fields, slots: int) -> tuple[int, int, int]:
        listed = self.lists[f["list"]].tolist()
        last = self.position + listed[-1] + 1
        per_port = [-(-(last - p) // self.machine.ports) for p in range(self.machine.ports)]
        queries, dim = self.config[Config.QUERY_GROUP], self.config[Config.HEAD_DIM]
        return self.costs.attend(listed, per_port, self.entry, queries, dim), last * self.entry.beats, 0

    def store(self, f: Fields, slots: int) -> tuple[int, int, int]:
        return self.costs.store(slots, f["elements"]), 0, slots * -(-4 * f["elements"] // self.machine.beat_bytes)

    def matmul(self, f: Fields, slots: int, start: int, requested: int) -> tuple[int, int, int]:
        """Cycles of a product that starts at ``start`` and whose weights were requested at ``requested``."""
        costs, machine = self.costs, self.machine
        rounds, groups, group = f["rounds"], f["groups"], self.config[Config.GROUP]
        if not rounds:
            return costs.matmul_start() + EPILOGUE, 0, 0
        bits = WeightFormat(f["format"]).bits
        steps, cycles = costs.matmul_stream(slots, rounds, groups, group, bits)
        full, short = costs.matmul_beats(rounds, groups, group, bits), costs.matmul_beats(rounds - 1, groups, group, bits)
        rate = costs.weight_rate
        begin = start + costs.matmul_start()
        supply = max(requested, self.fetch_free) + costs.read + 2
        first = max(begin, supply)
        held = min(machine.weight_fifo, full, max(0, int((first - supply) * rate)))
        streaming = max(cycles, int((full - held) / rate))
        halves = 1 if f["epilogue"] == Epilogue.SWIGLU else 2
        drain = costs.drain(slots, machine.ports, halves)
        last_drain = costs.drain(slots, f["ports"], halves)
        # Two accumulator banks: rounds either stream back to back or wait for the drain of the round before last.
        drained = streaming // rounds + costs.matmul_flight() + (rounds - 1) * (drain + 1)
        stalled = max(0, drained - streaming - costs.matmul_flight())
        end = first + streaming + stalled + costs.matmul_flight() + last_drain + EPILOGUE
        self.counters["ARRAY_STREAM"] += steps
        self.counters["ARRAY_STALL_MEMORY"] += first - begin + streaming - cycles
        self.counters["ARRAY_STALL_DRAIN"] += stalled
        # The next stream's requests start when this one's last beats were requested.
        self.fetch_free = max(requested, first + streaming + stalled - int(machine.weight_fifo / rate))
        return end - start, f["ports"] * full + (machine.ports - f["ports"]) * short, 0

    # The walk

    def issue(self, unit: Unit, f: Fields, name: str, pc: int) -> None:
        listed = self.lists[f["list"]]
        if f["list"] in (TokenList.ATTENTION, TokenList.FFN) and self.now < self.route_done:
            self.counters["WAIT_ROUTE"] += self.route_done - self.now
            self.now = self.route_done
        queue = self.finished[unit]
        if len(queue) >= QUEUE_DEPTH:
            self.now = max(self.now, queue[-QUEUE_DEPTH] + 1)
        listed = self.lists[f["list"]]
        start = max(self.now + HANDOVER, self.free[unit])
        for other in Unit:
            if f["pop"] >> other & 1:
                start = max(start, self.tokens[other, unit].pop(0))
        slots = len(listed)
        cycles = 0
        if slots or name == "kvwrite":
            if name == "matmul":
                cycles, read, written = self.matmul(f, slots, start, self.now + 6)
            else:
                cycles, read, written = getattr(self, name)(f, slots)
            self.counters[f"{unit.name}_BUSY"] += cycles
            self.counters["READ_BEATS"] += read
            self.counters["WRITE_BEATS"] += written
        end = start + cycles
        if name == "route":
            self.route_done = end + 1
        self.free[unit] = end + HANDOVER
        self.finished[unit].append(end)
        for other in Unit:
            if f["push"] >> other & 1:
                self.tokens[unit, other].append(end + HANDOVER)
        if self.options.check:
            self.counters["WRITE_BEATS"] += self.costs.record_beats()
        self.trace.append(Retired(pc, 0, end, self.layer, self.position))
        self.now += DISPATCH

    def idle(self) -> int:
        """When everything issued so far is done."""
        return max([self.now, *(times[-1] + HANDOVER for times in self.finished.values() if times)])

    def run(self) -> None:
        program, prompt = self.program, len(self.options.prompt)
        decoded = [
            (BY_OPCODE[w & (1 << OPCODE_BITS) - 1], BY_OPCODE[w & (1 << OPCODE_BITS) - 1].decode(w))
            for w in program.instructions
        ]
        beats = -(-len(decoded) * 16 // self.machine.beat_bytes)
        self.now = self.costs.read + beats + 2
        self.counters["READ_BEATS"] += beats
        pc = loop = count = 0
        while True:
            instruction, f = decoded[pc]
            name = instruction.name
            pc += 1
            if name == "SET":
                self.config[f["register"]] = f["value"]
                self.now += DISPATCH
            elif name == "CHUNK":
                left = prompt - self.position
                self.count = min(self.machine.tokens, left) if left > 0 else 1
                every = np.arange(self.count)
                last = every[-1:] if self.position + self.count >= prompt else every[:0]
                self.lists = {TokenList.ALL: every, TokenList.ATTENTION: every, TokenList.FFN: every, TokenList.LAST: last}
                self.now += DISPATCH + 1
            elif name == "LOOP":
                loop, count, self.layer = pc, f["count"], 0
                self.now += DISPATCH
            elif name == "END":
                self.layer += 1
                self.now += DISPATCH
                if self.layer < count:
                    pc = loop
            elif name == "NEXT":
                self.now = self.idle() + DISPATCH
                last = len(self.lists[TokenList.LAST]) > 0
                self.position += self.count
                if last:
                    if self.generated >= self.new_tokens:
                        continue
                    self.generated += 1
                    self.now += 8  # the token is written
                    self.counters["WRITE_BEATS"] += 1
                if not last or self.generated < self.new_tokens:
                    pc = f["target"]
            elif name == "HALT":
                self.counters["CYCLES"] = self.idle() + 1
                return
            else:
                self.issue(Unit[instruction.unit.upper()], f, name.lower(), pc - 1)


def run(program: Program, options: Run, routed: Result | None = None, on_token: OnToken | None = None) -> Result:
    """Counts cycles of ``options`` under the routing and number of tokens of ``routed``.

    ``routed`` is another engine's result for the same run, or any result whose ``routing`` (layers, 2, positions) and
    ``tokens`` say what is to be timed.
    """
    del on_token
    if routed is None:
        raise ValueError("the timing engine needs a routing trace")
    engine = TimingEngine(program, options, routed)
    engine.run()
    return Result(list(routed.tokens), routed.routing, trace=engine.trace, counters=engine.counters, kv_entries=engine.entries)
