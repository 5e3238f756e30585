"""The overlay: wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, Out

from hw.arithmetic.pipeline import delay, registered, tree
from hw.control.dispatch import Dispatcher
from hw.control.host import ADDRESS_BITS, HostRegisters
from hw.control.issue import UNITS, field
from hw.control.queue import UnitQueue
from hw.control.record import RecordWriter
from hw.control.weights import WeightFetch
from hw.kv.attention import AttentionUnit
from hw.kv.map import MapEntry
from hw.kv.query import QUERY_WRITES
from hw.kv.write import KvWriteUnit
from hw.library import Library
from hw.memory.axi import Axi4, AxiLite
from hw.memory.buffer import Buffer
from hw.memory.reader import ReadPort
from hw.memory.writer import WritePort
from hw.pe.activation import ACTIVATION_WRITES, AlignedMemory
from hw.pe.array import ArrayUnit
from hw.pe.tile import Tile
from hw.router.route import RouteUnit
from hw.vector.align import AlignUnit
from hw.vector.aligner import Aligner
from hw.vector.embed import EmbedUnit
from hw.vector.groups import GroupTracker
from hw.vector.store import StoreUnit
from skipopu.isa.registers import COUNTERS, PREFETCH, SERIAL_ATTENTION, WEIGHTS_ON_DEMAND, Config, Error
from skipopu.isa.spec import ALIGN, ATTEND, EMBED, KVWRITE, MATMUL, OPCODE_BITS, ROUTE, STORE, AlignTarget, Unit
from skipopu.machine.config import Machine

HOST_PORTS = tuple(AxiLite(ADDRESS_BITS).members)


class Overlay(Component):
    """The whole processor. One clock, synchronous reset.

    Modules that occur once per port go to ``library``, to be converted once. Members: ``host_*`` AXI4-Lite slave (registers:
    :mod:`skipopu.isa.registers`); ``port{p}_*`` AXI4 masters.
    """

    def __init__(self, machine: Machine, library: Library) -> None:
        self.machine, self.library = machine, library
        self.axi = Axi4(machine.port_bits).members
        host = AxiLite(ADDRESS_BITS).flip().members
        members = {f"host_{name}": host[name] for name in HOST_PORTS}
        for p in range(machine.ports):
            members |= {f"port{p}_{name}": member for name, member in self.axi.items()}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        ports = range(machine.ports)
        m.submodules.host = host = HostRegisters(machine)
        m.submodules.dispatch = dispatch = Dispatcher(machine)
        m.submodules.fetch = fetch = WeightFetch(machine)
        m.submodules.records = records = RecordWriter(machine)
        m.submodules.buffer = buffer = Buffer(machine)
        m.submodules.activation = activation = AlignedMemory(machine, machine.activation, machine.weight_lanes)
        tiles = [self.library.use("tile", lambda: Tile(machine), f"tile_{p}") for p in ports]
        m.submodules.array = array = ArrayUnit(machine, tiles)
        m.submodules.attention_unit = attention = AttentionUnit(machine, tiles, self.library)
        m.submodules.align = align = Aligner(machine)
        m.submodules.groups = groups = GroupTracker(machine)
        m.submodules.scan = scan = AlignUnit(machine)
        m.submodules.embed = embed = EmbedUnit(machine)
        m.submodules.route = route = RouteUnit(machine)
        m.submodules.kv_write = kv_write = KvWriteUnit(machine)
        m.submodules.store = store = StoreUnit(machine)
        queues = [UnitQueue(machine) for _ in range(UNITS)]
        readers, writers = [], []
        for unit, queue in zip(Unit, queues, strict=True):
            m.submodules[f"queue_{unit.name.lower()}"] = queue
        for p in ports:
            reader = self.library.use("read_port", lambda: ReadPort(machine), f"read_{p}")
            writer = self.library.use("write_port", lambda: WritePort(machine), f"write_{p}")
            m.submodules[f"read_{p}"], m.submodules[f"write_{p}"] = reader, writer
            m.submodules[f"tile_{p}"] = tiles[p]
            readers.append(reader)
            writers.append(writer)

        # Host
        for name in HOST_PORTS:
            inner, outer = getattr(host, name), getattr(self, f"host_{name}")
            m.d.comb += outer.eq(inner) if host.signature.members[name].flow is Out else inner.eq(outer)
        for name in ("start", "clear", "program", "program_length", "prompt_length", "max_new"):
            m.d.comb += getattr(dispatch, name).eq(getattr(host, name))
        for name in ("status", "error", "error_pc", "generated", "position", "retired", "executed_attention", "executed_ffn"):
            m.d.comb += getattr(host, name).eq(getattr(dispatch, name))
        m.d.comb += [host.kv_entries.eq(kv_write.entries), route.dial.eq(host.dial)]
        m.d.comb += [records.check.eq(host.check[0]), records.ring.eq(host.ring), records.ring_records.eq(host.ring_records)]

        # Configuration
        def config(register: Config) -> Value:
            return dispatch.config.word_select(int(register), 32)

        half_head = config(Config.HEAD_DIM) >> 1
        for target, register in (
            (embed.vocabulary, Config.VOCABULARY),
            (embed.tokens, Config.TOKENS),
            (embed.rope, Config.ROPE),
            (embed.rope_row, Config.ROPE_ROW),
            (kv_write.kv_heads, Config.KV_HEADS),
            (kv_write.head_dim, Config.HEAD_DIM),
            (kv_write.kv_base, Config.KV_BASE),
            (kv_write.kv_entry, Config.KV_ENTRY),
            (kv_write.kv_slots, Config.KV_SLOTS),
            (kv_write.context, Config.CONTEXT),
            (attention.kv_heads, Config.KV_HEADS),
            (attention.query_group, Config.QUERY_GROUP),
            (attention.head_dim, Config.HEAD_DIM),
            (attention.kv_base, Config.KV_BASE),
            (attention.kv_entry, Config.KV_ENTRY),
            (attention.history, Config.HISTORY),
            (array.group, Config.GROUP),
            (fetch.group, Config.GROUP),
            (align.inverse_size, Config.INVERSE_SIZE),
            (align.epsilon, Config.EPSILON),
            (align.inner, Config.INNER),
            (array.inner, Config.INNER),
            (array.activation, Config.ACTIVATION),
            (array.parameter, Config.PARAMETER),
        ):
            m.d.comb += target.eq(config(register))
        m.d.comb += [embed.half_head.eq(half_head), array.half_head.eq(half_head)]

        # Queues, dependence tokens, records
        overflows = [Signal(UNITS, name=f"overflow_{a}") for a in range(UNITS)]
        tokens = [[Signal(4, name=f"tokens_{a}_{b}") for b in range(UNITS)] for a in range(UNITS)]
        for a in range(UNITS):
            queue, stream = queues[a], getattr(dispatch, f"issue_{a}")
            m.d.comb += [
                queue.issue.valid.eq(stream.valid),
                queue.issue.payload.eq(stream.payload),
                stream.ready.eq(queue.issue.ready),
                queue.tokens.eq(Cat(tokens[b][a] != 0 for b in range(UNITS))),
            ]
            retired = getattr(records, f"retired_{a}")
            m.d.comb += [
                retired.valid.eq(queue.retired.valid),
                retired.payload.eq(queue.retired.payload),
                queue.retired.ready.eq(retired.ready),
            ]
            for b in range(UNITS):
                give, take = queues[a].give[b], queues[b].take[a]
                m.d.sync += tokens[a][b].eq(Mux(dispatch.restart, 0, tokens[a][b] + give - take))
                m.d.comb += overflows[a][b].eq(give & ~take & tokens[a][b].all())
        m.d.comb += [
            fetch.issue.valid.eq(dispatch.fetch.valid),
            fetch.issue.payload.eq(dispatch.fetch.payload),
            dispatch.fetch.ready.eq(fetch.issue.ready),
            dispatch.units_idle.eq(Cat(queue.idle for queue in queues).all() & fetch.idle & records.idle),
        ]

        # Array and attention share the multipliers: one of them at a time, the array first.
        attending = Signal()
        array_queue, vector_queue, attention_queue = queues
        m.d.comb += [
            array.active.eq(array_queue.active & ~attending),
            array.instruction.eq(array_queue.instruction),
            array_queue.done.eq(array.done),
            array_queue.digest.eq((array.digest + Mux(array.finish, align.digest, 0))[:32]),
            activation.read_slot.eq(array.activation_slot),
            activation.read_word.eq(array.activation_word),
            activation.read_group.eq(array.activation_group),
            array.exponent.eq(delay(m, activation.exponent, 1, "exponent")),
            array.inverse_rms.eq(align.inverse_rms),
            array.last_slot.eq(dispatch.last_slot),
            array.chunk.eq(dispatch.chunk),
            array.rope_slot.eq(embed.rope_slot),
            array.rope_word.eq(embed.rope_word),
            array.rope_data.eq(embed.rope_data),
            array.rope_enable.eq(embed.rope_enable),
            buffer.read_0_address.eq(array.read_address),
            buffer.read_0_enable.eq(array.read_enable),
            array.read_data.eq(buffer.read_0_data),
            buffer.array.valid.eq(array.write_valid),
            buffer.array.payload.eq(array.write),
        ]
        # Attention
        m.d.comb += [
            attention.active.eq(attention_queue.active & (attending | ~array_queue.active)),
            attention.instruction.eq(attention_queue.instruction),
            attention_queue.done.eq(attention.done),
            attention_queue.digest.eq((attention.digest + Mux(attention.finish, align.digest, 0))[:32]),
            buffer.attention.valid.eq(attention.words.valid),
            buffer.attention.payload.eq(attention.words.payload),
            attention.words.ready.eq(buffer.attention.ready),
        ]
        with m.If(attention.done):
            m.d.sync += attending.eq(0)
        with m.Elif(attention.active):
            m.d.sync += attending.eq(1)
        operands = registered(m, Mux(attending, attention.query, activation.data), "operands")
        for tile in tiles:
            m.d.comb += tile.activation.eq(operands)
        # Vector: one of its units at a time, by opcode
        opcode = vector_queue.instruction.word[:OPCODE_BITS]
        units = ((EMBED, embed), (ALIGN, scan), (ROUTE, route), (KVWRITE, kv_write), (STORE, store))
        for instruction, unit in units:
            selected = opcode == instruction.opcode
            m.d.comb += [unit.active.eq(vector_queue.active & selected), unit.instruction.eq(vector_queue.instruction)]
            with m.If(selected):
                if unit is scan:
                    m.d.comb += [vector_queue.done.eq(scan.finish & align.done), vector_queue.digest.eq(align.digest)]
                else:
                    digest = unit.digest + align.digest if unit is embed else unit.digest
                    m.d.comb += [vector_queue.done.eq(unit.done), vector_queue.digest.eq(digest)]
                if unit is not embed:
                    m.d.comb += [buffer.read_1_address.eq(unit.read_address), buffer.read_1_enable.eq(unit.read_enable)]
            if unit is not embed:
                m.d.comb += unit.read_data.eq(buffer.read_1_data)
        m.d.comb += [
            buffer.vector.valid.eq(embed.words.valid & ~groups.pause),
            buffer.vector.payload.eq(embed.words.payload),
            embed.words.ready.eq(buffer.vector.ready),
        ]
        # Alignment follows whoever writes; instructions that align are ordered by dependence tokens.
        aligning = (
            (array.finish, field(array_queue.instruction.word, MATMUL, "align")),
            (attention.finish, field(attention_queue.instruction.word, ATTEND, "align")),
            (embed.finish, Const(AlignTarget.RESIDUAL, 2)),
            (scan.finish, field(vector_queue.instruction.word, ALIGN, "align")),
        )
        target, follows = Signal(2), Signal(2)
        waiting = Const(0, 1)
        for unit, queue, active, aligned in (
            (Unit.ARRAY, array_queue, array.active, aligning[0][1]),
            (Unit.ATTENTION, attention_queue, attention.active, aligning[1][1]),
            (Unit.VECTOR, vector_queue, embed.active, aligning[2][1]),
            (Unit.VECTOR, vector_queue, scan.active, aligning[3][1]),
        ):
            chosen = active & (aligned != AlignTarget.NONE) & ~waiting
            with m.If(chosen):
                m.d.comb += [target.eq(aligned), follows.eq(unit), align.mask.eq(queue.instruction.mask)]
            waiting = waiting | chosen
        queries = target == AlignTarget.QUERY
        group, padded = Signal(10), Signal(11)
        with m.If(queries):
            m.d.comb += [group.eq(config(Config.HEAD_DIM)), padded.eq(round_to(group, machine.kv_lanes))]
        with m.Else():
            m.d.comb += [group.eq(config(Config.GROUP)), padded.eq(group)]
        m.d.comb += [
            align.target.eq(target),
            align.finish.eq(Cat(finish for finish, _ in aligning).any()),
            align.padded.eq(padded),
            groups.group.eq(group),
            groups.padded.eq(padded),
            groups.clear.eq(align.clear | dispatch.restart),
            groups.write_valid.eq(
                (target != AlignTarget.NONE)
                & Mux(scan.active, scan.write_valid, buffer.written_valid & (buffer.written_by == follows))
            ),
            groups.write.eq(Mux(scan.active, scan.write, buffer.written)),
            groups.flush.eq(align.flush),
            align.flushed.eq(groups.flushed),
            align.empty.eq(groups.empty),
            align.groups.valid.eq(groups.groups.valid),
            align.groups.payload.eq(groups.groups.payload),
            groups.groups.ready.eq(align.groups.ready),
            buffer.read_2_address.eq(align.read_address),
            buffer.read_2_enable.eq(align.read_enable),
            align.read_data.eq(buffer.read_2_data),
            *(unit.aligned.eq(align.done) for unit in (array, attention, embed)),
            *(unit.pause.eq(groups.pause) for unit in (array, attention, scan)),
            attention.clear_queries.eq(align.clear | dispatch.restart),
            fetch.on_demand.eq((config(Config.SCHEDULE) & WEIGHTS_ON_DEMAND) != 0),
            fetch.started.eq(array.started),
            attention.serial.eq((config(Config.SCHEDULE) & SERIAL_ATTENTION) != 0),
        ]
        for memory, names, chosen in ((attention, QUERY_WRITES, queries), (activation, ACTIVATION_WRITES, ~queries)):
            for name in names:
                value = getattr(align, name)
                m.d.comb += getattr(memory, name).eq(value & chosen if name.endswith("enable") else value)
        # KV map
        entries_written = Signal(16)
        unwritten = Signal(signed(16))
        m.submodules.kv_map = kv_map = Memory(shape=MapEntry(), depth=machine.map_entries, init=[])
        map_write, map_copy, map_walk = kv_map.write_port(), kv_map.read_port(), kv_map.read_port()
        m.d.comb += [
            map_write.addr.eq(kv_write.map_write_address),
            map_write.data.eq(kv_write.map_write_data),
            map_write.en.eq(kv_write.map_write_enable),
            map_copy.addr.eq(kv_write.map_read_address),
            kv_write.map_read_data.eq(map_copy.data),
            map_walk.addr.eq(attention.map_read_address),
            attention.map_read_data.eq(map_walk.data),
            attention.restart.eq(dispatch.restart),
            attention.may_prefetch.eq(attention_queue.idle & ((config(Config.SCHEDULE) & PREFETCH) != 0)),
            attention.row_start.eq(dispatch.row_start),
            attention.row_end.eq(dispatch.row_end),
            attention.next_row.eq(dispatch.next_row),
            attention.known.eq(dispatch.position),
            dispatch.attention_quiet.eq(attention.quiet),
            kv_write.restart.eq(dispatch.restart),
            kv_write.hold.eq(array.active),
            # Attention waits by itself for the entries of every KVWRITE dispatched before it.
            unwritten.eq(attention_queue.instruction.entries - entries_written),
            attention.unwritten.eq(unwritten > 0),
        ]
        m.d.sync += entries_written.eq(Mux(dispatch.restart, 0, entries_written + kv_write.done))
        # Dispatch, routing, tokens
        m.d.comb += [
            route.next.eq(vector_queue.next & (opcode == ROUTE.opcode)),
            dispatch.route_done.eq(route.done),
            dispatch.attention.eq(route.attention),
            dispatch.ffn.eq(route.ffn),
            dispatch.token.eq(array.best_token),
            records.token.eq(array.best_token),
            records.token_address.eq(dispatch.token_address),
            records.token_start.eq(dispatch.token_start),
            dispatch.token_done.eq(records.token_done),
        ]

        # Ports
        running = {}
        for instruction in (EMBED, ROUTE, KVWRITE, STORE):
            running[instruction] = Signal(name=f"{instruction.name.lower()}_selected")
            m.d.comb += running[instruction].eq((opcode == instruction.opcode) & ~dispatch.loading)
        for p in ports:
            reader, writer = readers[p], writers[p]
            m.d.comb += [reader.stop.eq(dispatch.stop), writer.stop.eq(dispatch.stop)]
            for component in (reader, writer):
                for name, member in component.signature.members.items():
                    if name in self.axi:
                        inner, outer = getattr(component, name), getattr(self, f"port{p}_{name}")
                        m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
            connect_read(m, getattr(fetch, f"runs_{p}"), getattr(array, f"beats_{p}"), reader, 0)
            connect_read(m, getattr(attention, f"runs_{p}"), getattr(attention, f"beats_{p}"), reader, 2)
            m.d.comb += [
                reader.background.eq(attention.background),
                getattr(attention, f"level_{p}").eq(reader.attention_level),
            ]
            users = [(getattr(embed, f"runs_{p}"), getattr(embed, f"beats_{p}"), running[EMBED])]
            if p == 0:
                users.append((route.runs, route.beats, running[ROUTE]))
                users.append((dispatch.runs, dispatch.beats, dispatch.loading))
            connect_shared_read(m, users, reader, 1)
            writes = [(getattr(kv_write, f"runs_{p}"), getattr(kv_write, f"beats_{p}"), running[KVWRITE])]
            if p == 0:
                writes.append((store.runs, store.beats, running[STORE]))
                connect_shared_write(m, [(records.runs, records.beats, Const(1, 1))], writer, 1)
                m.d.comb += [records.written.eq(writer.done_1), store.written.eq(writer.done_0)]
            connect_shared_write(m, writes, writer, 0)
            m.d.comb += kv_write.written[p].eq(writer.done_0)

        # Faults, in rising priority
        vector_pc, faults = vector_queue.pc, []
        aligned_pc = Mux(follows == Unit.ARRAY, array_queue.pc, Mux(follows == Unit.ATTENTION, attention_queue.pc, vector_pc))
        read_errors = [[r.error & (r.error_client == k) for r in readers] for k in range(4)]  # 3: nobody's
        m.d.comb += dispatch.ports_quiet.eq(Cat(port.quiet for port in (*readers, *writers)).all())
        faults += [
            (buffer.range[Unit.ARRAY], Error.BUFFER_RANGE, array_queue.pc),
            (buffer.range[Unit.ATTENTION], Error.BUFFER_RANGE, attention_queue.pc),
            (buffer.range[Unit.VECTOR], Error.BUFFER_RANGE, vector_pc),
            (activation.range | attention.range, Error.BUFFER_RANGE, aligned_pc),
            (embed.bad_token, Error.TOKEN_OUT_OF_RANGE, vector_pc),
            (kv_write.pool_full, Error.KV_POOL_FULL, vector_pc),
            (kv_write.missing, Error.KV_MISSING, vector_pc),
            (Cat(w.error & ~w.error_client for w in writers).any(), Error.AXI_WRITE, vector_pc),
            (Cat(w.error & w.error_client for w in writers).any(), Error.AXI_WRITE, dispatch.pc),
            (Cat(read_errors[0]).any(), Error.AXI_READ, array_queue.pc),
            (Cat(read_errors[2]).any(), Error.AXI_READ, attention_queue.pc),
            (Cat(read_errors[1]).any(), Error.AXI_READ, Mux(dispatch.loading, 0, vector_pc)),
            (Cat(read_errors[3]).any(), Error.AXI_READ, dispatch.pc),
            *((overflow.any(), Error.DEPENDENCE, queue.pc) for overflow, queue in zip(overflows, queues, strict=True)),
        ]
        for condition, code, pc in faults:
            with m.If(condition):
                m.d.comb += [dispatch.fault.eq(1), dispatch.fault_code.eq(code), dispatch.fault_pc.eq(pc)]
        m.d.comb += dispatch.saturated.eq(
            array.saturated | attention.saturated | align.saturated | route.saturated | kv_write.saturated
        )

        # Counters
        vector_working, vector_waiting = Signal(), Signal()
        for instruction, unit in units:
            with m.If(vector_queue.active & (opcode == instruction.opcode)):
                m.d.comb += [vector_working.eq(unit.working), vector_waiting.eq(unit.waiting)]
        counted: dict[str, Value] = {
            "CYCLES": dispatch.running,
            "ARRAY_BUSY": array.streaming,
            "ARRAY_WEIGHTS": array.waiting_weights,
            "ARRAY_DRAIN": array.waiting_drain,
            "ARRAY_EDGE": array.active & ~(array.streaming | array.waiting_weights | array.waiting_drain),
            "ARRAY_WAIT": array_queue.waiting | (array_queue.active & ~array.active),
            "ATTENTION_BUSY": attention.working,
            "ATTENTION_MEMORY": attention.waiting,
            "ATTENTION_EDGE": attention.active & ~(attention.working | attention.waiting),
            "ATTENTION_WAIT": attention_queue.waiting | (attention_queue.active & ~attention.active),
            "VECTOR_BUSY": vector_working,
            "VECTOR_MEMORY": vector_waiting & ~vector_working,
            "VECTOR_EDGE": vector_queue.active & ~(vector_working | vector_waiting),
            "VECTOR_WAIT": vector_queue.waiting,
            "EPILOGUE_BUSY": array.draining,
            "ALIGN_BUSY": align.busy,
            "WAIT_ROUTE": dispatch.wait_route,
            "READ_BEATS": tree([r.beat for r in readers], lambda a, b: a + b),
            "WRITE_BEATS": tree([w.beat for w in writers], lambda a, b: a + b),
            "HISTORY_BEATS": attention.hits,
            "AHEAD_BEATS": attention.fetched_ahead,
        }
        assert tuple(counted) == COUNTERS
        for name, amount in counted.items():
            counter = Signal(64, name=f"count_{name.lower()}")
            with m.If(dispatch.restart):
                m.d.sync += counter.eq(0)
            with m.Elif(dispatch.running):
                m.d.sync += counter.eq(counter + amount)
            m.d.comb += getattr(host, name.lower()).eq(counter)
        m.d.comb += records.cycle.eq(host.cycles)
        return m


def round_to(value: Value, lanes: int) -> Value:
    """``value`` rounded up to a multiple of ``lanes``, a power of two."""
    bits = lanes.bit_length() - 1
    return Cat(Const(0, bits), (value + (lanes - 1)) >> bits)


def connect_read(m: Module, runs: object, beats: object, reader: ReadPort, client: int) -> None:
    """Connects a client's run and beat streams to a read port."""
    to, back = getattr(reader, f"runs_{client}"), getattr(reader, f"beats_{client}")
    m.d.comb += [
        to.valid.eq(runs.valid),
        to.payload.eq(runs.payload),
        runs.ready.eq(to.ready),
        beats.valid.eq(back.valid),
        beats.payload.eq(back.payload),
        back.ready.eq(beats.ready),
    ]


Users = Sequence[tuple[Any, Any, Value]]  # runs, beats, whether they are connected


def connect_shared_read(m: Module, users: Users, reader: ReadPort, client: int) -> None:
    """Connects one of ``users``: what is valid is gated, what it says is chosen among those who could say it."""
    to, back = getattr(reader, f"runs_{client}"), getattr(reader, f"beats_{client}")
    m.d.comb += [
        to.valid.eq(Cat(runs.valid & selected for runs, _, selected in users).any()),
        back.ready.eq(Cat(beats.ready & selected for _, beats, selected in users).any()),
    ]
    for k, (runs, beats, selected) in enumerate(users):
        m.d.comb += [
            runs.ready.eq(to.ready & selected),
            beats.valid.eq(back.valid & selected),
            beats.payload.eq(back.payload),
        ]
        with m.If(selected if k else Const(1, 1)):
            m.d.comb += to.payload.eq(runs.payload)


def connect_shared_write(m: Module, users: Users, writer: WritePort, client: int) -> None:
    """The same towards a write port."""
    for which in range(2):
        to = getattr(writer, f"{('runs', 'beats')[which]}_{client}")
        m.d.comb += to.valid.eq(Cat(user[which].valid & user[2] for user in users).any())
        for k, user in enumerate(users):
            m.d.comb += user[which].ready.eq(to.ready & user[2])
            with m.If(user[2] if k else Const(1, 1)):
                m.d.comb += to.payload.eq(user[which].payload)
