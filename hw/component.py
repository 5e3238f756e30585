"""Hardware units whose ports are declared once: shape, direction, meaning and type in one line.

::

    class Adder(Component):
        \"\"\"Adds two numbers.

        Latency: 1 cycle. Throughput: a sum per cycle.
        \"\"\"

        def __init__(self, width: int) -> None:
            self.terms = [given(width, f"term {k}") for k in range(2)]
            self.sum = gives(width + 1, "their sum")
            super().__init__()

A list of ports ``terms`` becomes the members ``terms_0`` and ``terms_1``; the attribute stays a list.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Flow, In, Member, Out, connect, flipped


@dataclass(frozen=True)
class Port:
    """A declared port, until the constructor puts the port itself in its place.

    ``named`` spreads a bundle: its port ``x`` becomes the unit's member ``named.format("x")``. ``init`` is an output's value in reset.
    """

    flow: Flow
    shape: Any
    meaning: str
    named: str = ""
    init: int | None = None

    def members(self, name: str) -> Iterator[tuple[str, Member, str]]:
        """(name, member, meaning) of what it becomes."""
        if not self.named:
            # The stubs know ``init`` by its name before Amaranth 0.5.
            yield name, cast(Any, self.flow)(self.shape, init=self.init), self.meaning
            return
        for part, member in self.shape.members.items():
            own = member if self.flow is Out else member.flip()
            yield self.named.format(part), own, f"{self.meaning}: {self.shape.meanings[part]}"


class Bundle(wiring.Signature):
    """Ports that belong together, declared as a component's are.

    An instance is Amaranth's signature, seen from the side that gives the bundle; where it is given or gives, the attribute has the
    bundle's own type, so that editors and type checkers see its ports.

    Attributes:
        meanings: port to what it means.
        signature: of an instance, which can be connected.
    """

    signature: wiring.Signature

    def __init__(self) -> None:
        ports = {name: port for name, port in vars(self).items() if isinstance(port, Port)}
        members: dict[str, Member] = {}
        self.meanings: dict[str, str] = {}
        for name, port in ports.items():
            delattr(self, name)
            if port.named:
                raise TypeError(f"{type(self).__name__}.{name}: bundles in bundles are not spread")
            for member, description, meaning in port.members(name):
                members[member], self.meanings[member] = description, meaning
        super().__init__(members)


def ports_of(items: Collection[object]) -> set[int]:
    """Identities of ``items``; of a spread bundle those of its ports, of a list those of its elements."""
    found: set[int] = set()
    for item in items:
        inner = item if isinstance(item, list) else list(vars(item).values()) if isinstance(item, Spread) else None
        found |= {id(item)} if inner is None else ports_of(inner)
    return found


class Part(wiring.Signature):
    """Ports of an inner ``unit`` that are those of the unit around it too: ``only`` these, all but those ``without``."""

    def __init__(self, unit: Component, only: Collection[object], without: Collection[object]) -> None:
        chosen, apart = ports_of(only), ports_of(without)
        self.declared = unit.declared
        own = {name: id(getattr(unit, name)) for name in self.declared.members}
        if any(ports_of([item]).isdisjoint(own.values()) for item in (*only, *without)):
            raise ValueError(f"{type(unit).__name__}: what is chosen or left out is none of its ports")
        taken = [name for name, port in own.items() if (not only or port in chosen) and port not in apart]
        self.meanings = {name: self.declared.meanings[name] for name in taken}
        super().__init__({name: self.declared.members[name] for name in taken})


class Spread:
    """A bundle whose ports are members of the unit itself."""

    def __init__(self, port: Port, unit: object) -> None:
        self.signature = port.shape if port.flow is Out else port.shape.flip()
        self.__dict__.update({part: getattr(unit, port.named.format(part)) for part in port.shape.members})
        if isinstance(port.shape, Part):
            port.shape.declared.attach(self)


def level(fifo: SyncFIFOBuffered) -> Signal:
    """Elements in ``fifo``; its stubs do not know that it has them."""
    return vars(fifo)["level"]


def numbered(name: str, declared: Port | list[Port]) -> list[tuple[str, Port]]:
    """(own name, port) of each port that is declared under ``name``."""
    return [(f"{name}_{k}", port) for k, port in enumerate(declared)] if isinstance(declared, list) else [(name, declared)]


class Declared:
    """The declarations that a component's constructor has made, taken off the component."""

    def __init__(self, unit: object) -> None:
        self.ports: dict[str, Port | list[Port]] = {}
        for name, value in list(vars(unit).items()):
            if isinstance(value, Port) or (isinstance(value, list) and value and all(isinstance(item, Port) for item in value)):
                self.ports[name] = value
                delattr(unit, name)
        made = [made for name in self.ports for own, port in numbered(name, self.ports[name]) for made in port.members(own)]
        self.members = {name: member for name, member, _ in made}
        if clashing := [name for k, (name, _, _) in enumerate(made) if name in {other for other, _, _ in made[:k]}]:
            raise TypeError(f"{type(unit).__name__}: two ports are named {clashing[0]}")
        self.meanings = {name: meaning for name, _, meaning in made}

    def attach(self, unit: object) -> None:
        """Gives ``unit``, which has the members or some of them, the attributes that were declared and of which it has all."""
        for name, declared in self.ports.items():
            ports = numbered(name, declared)
            if all(hasattr(unit, member) for own, port in ports for member, _, _ in port.members(own)):
                values = [Spread(port, unit) if port.named else getattr(unit, own) for own, port in ports]
                setattr(unit, name, values if isinstance(declared, list) else values[0])


class Component(wiring.Component):
    """A hardware unit. Its constructor assigns :func:`given` and :func:`gives` to attributes, then calls ``super().__init__()``.

    Attributes:
        declared: its ports as they were declared, with their meanings.
    """

    def __init__(self) -> None:
        self.declared = Declared(self)
        super().__init__(self.declared.members)
        self.declared.attach(self)

    @abstractmethod
    def elaborate(self, platform: object) -> Module:
        """The circuit."""


AnyBundle = TypeVar("AnyBundle", bound=Bundle)
AnyComponent = TypeVar("AnyComponent", bound=Component)


def passes(
    unit: AnyComponent, only: Collection[object] = (), without: Collection[object] = (), named: str = "{}"
) -> AnyComponent:
    """Declares ports of an inner ``unit``: ``only`` these, or all but those ``without``. The attribute has them as ``unit`` has."""
    return _port(Out, Part(unit, only, without), "of an inner unit", named)


def pass_on(m: Module, unit: AnyComponent, own: AnyComponent) -> None:
    """Connects an inner ``unit`` to what was declared with :func:`passes`."""
    connect(m, flipped(own), Spread(Port(Out, own.signature, "", "{}"), unit))


def _port(flow: Flow, shape: object, meaning: str, named: str, init: int | None = None) -> Any:
    if not meaning:
        raise ValueError("a port needs a meaning")
    return Port(flow, shape, meaning, named, init)


@overload
def given(shape: AnyBundle, meaning: str, named: str = "") -> AnyBundle: ...
@overload
def given(shape: stream.Signature, meaning: str) -> stream.Interface: ...
@overload
def given(shape: data.Layout, meaning: str) -> Any: ...
@overload
def given(shape: ShapeLike, meaning: str) -> Signal: ...
def given(shape: object, meaning: str, named: str = "") -> Any:
    """Declares an input: bits, a layout, a stream or a bundle (see :class:`Port` for ``named``)."""
    return _port(In, shape, meaning, named)


@overload
def gives(shape: AnyBundle, meaning: str, named: str = "") -> AnyBundle: ...
@overload
def gives(shape: stream.Signature, meaning: str) -> stream.Interface: ...
@overload
def gives(shape: data.Layout, meaning: str) -> Any: ...
@overload
def gives(shape: ShapeLike, meaning: str, *, init: int = 0) -> Signal: ...
def gives(shape: object, meaning: str, named: str = "", init: int | None = None) -> Any:
    """Declares an output: bits, a layout, a stream or a bundle (see :class:`Port` for ``named`` and ``init``)."""
    return _port(Out, shape, meaning, named, init)
