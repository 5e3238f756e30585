"""What every unit of the hardware says of itself: how fast it is, and what each of its ports means."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from amaranth.hdl import Fragment
from amaranth.lib import wiring

import hw
from hw.arithmetic.fp32 import Add
from hw.component import Bundle, Component, Port
from hw.library import Library
from hw.overlay import Overlay
from skipopu.machine.config import Machine

EMPTY = {"", "a", "an", "it", "its", "of", "the", "their", "this", "to"}  # "that" is of the port before


def classes(of: type) -> Iterator[type]:
    """All below ``of`` that modules of hw define."""
    for below in of.__subclasses__():
        if below.__module__.startswith("hw."):
            yield below
        yield from classes(below)


@pytest.fixture(scope="module")
def units() -> set[type]:
    for module in pkgutil.walk_packages(hw.__path__, "hw."):
        importlib.import_module(module.name)
    return set(classes(wiring.Component)) - {Component}


def test_all_declare_their_ports(units: set[type]) -> None:
    assert not [unit for unit in units if not issubclass(unit, Component)]


@pytest.mark.parametrize("what", ["latency", "throughput"])
def test_all_say_how_fast_they_are(units: set[type], what: str) -> None:
    assert not [unit for unit in units if what not in (unit.__doc__ or "").lower()]


def words(text: str) -> set[str]:
    """Those of ``text`` that say something, in the singular."""
    return {word.removesuffix("s") for word in re.split(r"\W+|_", text.lower()) if word not in EMPTY}


def silent(where: str, meanings: dict[str, str]) -> list[str]:
    """Ports of which the meaning says no more than the name."""
    return [f"{where}.{name}: {meaning}" for name, meaning in meanings.items() if words(meaning) <= words(name)]


def declarations(unit: Component) -> Iterator[tuple[str, Port]]:
    for name, declared in unit.declared.ports.items():
        for port in declared if isinstance(declared, list) else [declared]:
            yield name, port


def bundles(of: Bundle) -> Iterator[Bundle]:
    """``of`` and those in it."""
    yield of
    for member in of.members.values():
        if member.is_signature and isinstance(member.signature, Bundle):
            yield from bundles(member.signature)


def test_every_port_has_a_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all units in an overlay of machine ``tiny`` and of the bundles that join them."""
    made: list[Component] = []
    construct = Component.__init__

    def noted(unit: Component) -> None:
        made.append(unit)
        construct(unit)

    monkeypatch.setattr(Component, "__init__", noted)
    library = Library()
    Fragment.get(Overlay(Machine.load("tiny"), library), None)
    for shared in list(library.modules.values()):
        Fragment.get(shared, None)
    assert {Overlay, Add} <= {type(unit) for unit in made}  # the outermost and one of the innermost
    found = set()
    for unit in made:
        for name, port in declarations(unit):
            found.update(silent(type(unit).__name__, {name: port.meaning}))
            if isinstance(port.shape, Bundle):
                found.update(line for one in bundles(port.shape) for line in silent(type(one).__name__, one.meanings))
    assert not found
