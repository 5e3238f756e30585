"""Modules that occur many times: converted to Verilog once, instantiated everywhere."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib.wiring import Component, In


class Shared(Elaboratable):
    """One use of a component: has its members, elaborates to an instance of Verilog module ``name``.

    ``label`` names the instance's signals.
    """

    def __init__(self, name: str, component: Component, label: str) -> None:
        self.name, self.signature = name, component.signature
        for member, interface in self.signature.members.create(path=(label,)).items():
            setattr(self, member, interface)

    def elaborate(self, platform: object) -> Instance:
        ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in self.signature.flatten(self):
            ports[f"{'i' if member.flow is In else 'o'}_{'__'.join(map(str, path))}"] = Value.cast(value)
        return Instance(self.name, **ports)


class Library:
    """Components by module name; equal ones are built once.

    Attributes:
        modules: module name to the component behind it, for the converter.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Component] = {}

    def use(self, name: str, build: Callable[[], Component], label: str) -> Shared:
        """A new instance ``label`` of module ``name``; ``build`` makes its component on first use."""
        if name not in self.modules:
            self.modules[name] = build()
        return Shared(name, self.modules[name], label)
