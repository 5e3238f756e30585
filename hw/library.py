"""Modules that occur many times: converted to Verilog once, instantiated everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member

from hw.component import AnyComponent, Component


class Shared(Elaboratable):
    """One use of a component: has its members, elaborates to an instance of Verilog module ``name``.

    ``label`` names the instance's signals, ``domains`` are the component's clock domains.
    """

    def __init__(self, name: str, component: Component, label: str, domains: Sequence[str]) -> None:
        self.name, self.signature, self.domains = name, component.signature, domains
        for member, interface in self.signature.members.create(path=(label,)).items():
            setattr(self, member, interface)
        component.declared.attach(self)

    def elaborate(self, platform: object) -> Instance:
        ports: dict[str, object] = {}
        for domain in self.domains:
            prefix = "" if domain == "sync" else f"{domain}_"
            ports |= {f"i_{prefix}clk": ClockSignal(domain), f"i_{prefix}rst": ResetSignal(domain)}
        return Instance(self.name, **ports, **pins(self.signature, self))


def pins(signature: wiring.Signature | wiring.FlippedSignature, interface: object, prefix: str = "") -> dict[str, object]:
    """Ports ``prefix...`` of an instance that has ``signature``, connected to ``interface``: by Amaranth's names for them."""
    return {
        f"{'i' if cast(Member, member).flow is In else 'o'}_{prefix}{'__'.join(map(str, path))}": Value.cast(value)
        for path, member, value in signature.flatten(interface)  # a member; the stubs say its flow
    }


class Library:
    """Components by module name; equal ones are built once.

    Attributes:
        modules: module name to the component behind it, for the converter.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Component] = {}

    def use(self, name: str, build: Callable[[], AnyComponent], label: str, domains: Sequence[str] = ("sync",)) -> AnyComponent:
        """A new instance ``label`` of module ``name``; ``build`` makes its component, with these clock domains, on first use.

        What returns is a :class:`Shared`, which has the component's ports and nothing else of it.
        """
        if name not in self.modules:
            self.modules[name] = build()
        return cast(AnyComponent, Shared(name, self.modules[name], label, domains))
