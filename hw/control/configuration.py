"""The configuration registers."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value

from hw.arithmetic.pipeline import delay_valid, registered
from hw.component import Component, given, gives
from skipopu.isa.registers import Config
from skipopu.isa.spec import SET
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges, registers_of

REGISTER_BITS = 32


def setting(config: Value, register: Config) -> Value:
    """The ``register`` among all of them side by side."""
    return config[REGISTER_BITS * register : REGISTER_BITS * (register + 1)]


def config_bits(machine: Machine) -> int:
    """Width of all of a machine's registers side by side."""
    return REGISTER_BITS * len(registers_of(machine))


class Configuration(Component):
    """Registers that SET writes. What a machine cannot execute is written, but said; so is what it has no register for, written nowhere.

    What programs without caps and masks do not write is cleared when a run starts.

    Latency: 2 cycles from a write to ``config``, one to ``rejected``. Throughput: a write every other cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.write = given(1, "write now")
        self.register = given(SET.by_name["register"].width, "number of the register; stands for the cycle behind too")
        self.value = given(REGISTER_BITS, "its new value; as long")
        self.rejected = gives(1, "a cycle behind ``write``: the machine has no such register or cannot execute that value")
        if machine.soft_cap or machine.masks:
            self.restart = given(1, "a run starts, for a cycle")
        self.config = gives(config_bits(machine), "all registers, in their order")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        legal = ranges(self.machine)
        write = delay_valid(m, self.write, 1, "write")
        registers = {r: Signal(REGISTER_BITS, name=r.name.lower()) for r in registers_of(self.machine)}
        illegal = Signal()
        m.d.comb += [self.config.eq(Cat(registers.values())), self.rejected.eq(write & registered(m, illegal, "illegal"))]
        with m.Switch(self.register):
            for register in registers:
                with m.Case(register):
                    with m.If(write):
                        m.d.sync += registers[register].eq(self.value)
                    if register in legal:
                        allowed = legal[register]
                        steps = self.value[: allowed.step.bit_length() - 1]
                        outside = (self.value < allowed.least) | (self.value > allowed.most) | (steps != 0)
                        for value in allowed.also:
                            outside &= self.value != value
                        m.d.comb += illegal.eq(outside)
            with m.Default():
                m.d.comb += illegal.eq(1)
        if cleared := [register for register in registers if register > Config.HISTORY]:
            with m.If(self.restart):
                m.d.sync += [registers[register].eq(0) for register in cleared]
        return m
