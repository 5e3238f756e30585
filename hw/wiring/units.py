"""All units of an overlay."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import DomainRenamer, Module, Value

from hw.component import AnyComponent, Component
from hw.control.channels import ChannelFetch
from hw.control.configuration import setting
from hw.control.counters import Counters
from hw.control.dispatch import Dispatcher
from hw.control.host import HostRegisters
from hw.control.queue import UnitQueue
from hw.control.record import RecordWriter
from hw.control.recovery import Recovery
from hw.control.tokens import DependenceTokens
from hw.control.watchdog import MOVES, Watchdog
from hw.control.weights import WeightFetch
from hw.kv.attention import AttentionUnit
from hw.kv.map_memory import MapMemory
from hw.kv.stationary.attention import HeldAttention
from hw.kv.unwritten import Unwritten
from hw.kv.write import KvWriteUnit
from hw.library import Library
from hw.memory.buffer import Buffer
from hw.memory.outpost import Outpost
from hw.memory.reader import ReadPort
from hw.memory.writer import WritePort
from hw.pe.activation import AlignedMemory
from hw.pe.array import ArrayUnit
from hw.pe.sharing import Sharing
from hw.pe.spread import PIECES, Spread
from hw.pe.stationary.mask import MaskUnit
from hw.pe.stationary.operands import Operands, word_lanes
from hw.pe.tile import Tile
from hw.router.route import RouteUnit
from hw.vector.adjust import AdjustUnit
from hw.vector.align import AlignUnit
from hw.vector.aligner import Aligner
from hw.vector.embed import EmbedUnit
from hw.vector.groups import GroupTracker
from hw.vector.source import AlignSource
from hw.vector.store import StoreUnit
from hw.vector.switch import VectorSwitch
from skipopu.isa.registers import Config
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine
from skipopu.machine.limits import WATCHDOG_CYCLES
from skipopu.machine.pipeline import apart

HOST = "host"  # domain of what keeps its state while the rest is reset for another run
OF_HOST = ("registers", "recovery")
OUTPOSTS = ("outpost_home", "outpost")  # names of those of port 0 and of the others
PORTS = ("activation", "array", "attention", "operands", "tokens", "unwritten")  # names of units that ports have too


class Units:
    """One object for each; the files beside this one join them. ``library`` takes the modules that occur once per port."""

    def __init__(self, machine: Machine, library: Library) -> None:
        self.machine, self.library = machine, library
        ports = range(machine.ports)
        # Per port
        self.tiles = [library.use("tile", lambda: Tile(machine, library), f"tile_{p}") for p in ports]
        self.readers = [library.use("read_port", lambda: ReadPort(machine), f"read_{p}") for p in ports]
        self.writers = [library.use("write_port", lambda: WritePort(machine), f"write_{p}") for p in ports]
        # Control
        self.registers, self.recovery = HostRegisters(machine), Recovery()
        self.dispatch, self.watchdog = Dispatcher(machine), Watchdog(WATCHDOG_CYCLES, MOVES + 2 * machine.ports)
        self.queues = [UnitQueue(machine) for _ in Unit]
        self.tokens, self.records, self.counters = DependenceTokens(), RecordWriter(machine), Counters(machine)
        # Array and attention
        self.weights = ChannelFetch(machine) if machine.stationary else WeightFetch(machine)
        self.array = ArrayUnit(machine, self.tiles, library)
        pieces = PIECES if machine.short_groups and not machine.stationary else 1
        lanes = word_lanes(machine) if machine.stationary else machine.weight_lanes
        self.activation = AlignedMemory(
            machine, machine.activation, lanes, machine.zero_points and not machine.stationary, pieces
        )
        self.attention = (HeldAttention if machine.stationary else AttentionUnit)(machine, self.tiles, library)
        self.sharing = Sharing(machine)
        self.map, self.unwritten = MapMemory(machine, 2), Unwritten()
        # Vectors
        self.spread = Spread(machine) if machine.short_groups and not machine.stationary else None
        self.activation_second = self.operands = None
        if machine.stationary:  # two tokens at a time
            self.activation_second = AlignedMemory(machine, machine.activation, lanes)
            self.operands = Operands(machine)
        self.masks = MaskUnit(machine) if machine.masks else None
        self.buffer = Buffer(machine)
        self.switch = VectorSwitch(machine)
        self.embed, self.scan, self.route = EmbedUnit(machine), AlignUnit(machine), RouteUnit(machine)
        self.kv_write, self.store = KvWriteUnit(machine), StoreUnit(machine)
        # Port 0's memory is everybody's, and stands apart from the others'.
        self.outposts = [Outpost(machine, count) for count in (1, machine.ports - 1)] if apart(machine) else []
        self.adjust = AdjustUnit(machine) if machine.adjust else None
        self.source, self.groups, self.aligner = AlignSource(machine), GroupTracker(machine), Aligner(machine)

    def setting(self, register: Config) -> Value:
        """The present value of a configuration register."""
        return setting(self.dispatch.config, register)

    def shared(self, name: str, kind: Callable[[Machine, int], AnyComponent], port: int) -> AnyComponent:
        """Port ``port``'s instance of a unit for one user, a module that all ports share; it has no registers."""
        return self.library.use(name, lambda: kind(self.machine, 1), f"{name}_{port}", domains=())

    def place(self, m: Module) -> None:
        """Makes them submodules."""
        for name, unit in vars(self).items():
            if isinstance(unit, Component):
                own = DomainRenamer(HOST)(unit) if name in OF_HOST else unit
                m.submodules[f"{name}_unit" if name in PORTS else name] = own
        for p, (tile, reader, writer) in enumerate(zip(self.tiles, self.readers, self.writers, strict=True)):
            m.submodules[f"tile_{p}"], m.submodules[f"read_{p}"], m.submodules[f"write_{p}"] = tile, reader, writer
        for place, outpost in zip(OUTPOSTS, self.outposts, strict=False):
            m.submodules[place] = outpost
        for unit in Unit:
            m.submodules[f"queue_{unit.name.lower()}"] = self.queues[unit]
