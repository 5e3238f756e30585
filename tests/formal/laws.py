"""What is to be proven of a unit, written from outside: what may happen around it, and what must hold then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Shape, Signal, Value, ValueLike
from amaranth.lib import stream


@dataclass(frozen=True)
class Claim:
    """Of one output of the circuit: never 1 (a law), or 1 at some time (``reached``).

    Attributes:
        text: the claim in one sentence.
        output: what is never 1; of what is reached, what is 1 at some time.
        bound: cycles from reset within which a law was looked at; 0: proven for any number.
        reached: it is shown that the state occurs, so that the laws around it are not empty.
        within: cycles from reset in which the state has to occur; 0: any.
    """

    text: str
    output: Signal
    bound: int = 0
    reached: bool = False
    within: int = 0


class Laws(Elaboratable):
    """A circuit around a unit, whose outputs are :attr:`claims`.

    The surroundings are made of free inputs, so that they can do whatever their construction allows; what they may not do beyond that
    is assumed: a claim counts while no assumption was broken.

    Attributes:
        m: the circuit; units go to its submodules.
        inputs: free, any value in any cycle.
        claims: about it.
    """

    def __init__(self) -> None:
        self.m = Module()
        self.inputs: list[Signal] = []
        self.claims: list[Claim] = []
        self._assumed: list[Value] = []
        self._first = Signal(init=1)
        self.m.d.sync += self._first.eq(0)
        self._fair, self._was_fair = Signal(), Signal(init=1)

    def free(self, shape: int | range, name: str = "free") -> Signal:
        """An input of ``shape``: any value in any cycle, of a range only those in it."""
        value = Signal(shape, name=f"{name}_{len(self.inputs)}")
        self.inputs.append(value)
        if isinstance(shape, range) and len(shape) < 1 << len(value):
            self.assume((value >= shape.start) & (value < shape.stop))
        return value

    def fixed(self, shape: int | range, name: str = "fixed") -> Signal:
        """Any value of ``shape``, the same in all cycles."""
        value = self.free(shape, name)
        held, now = Signal.like(value), Signal.like(value)
        self.m.d.comb += now.eq(Mux(self._first, value, held))
        self.m.d.sync += held.eq(now)
        return now

    def drive(self, *targets: Value) -> None:
        """Connects free inputs to a unit's inputs."""
        for target in targets:
            self.m.d.comb += target.eq(self.free(len(target)))

    def offer(self, to: stream.Interface, payload: ValueLike | None = None, allowed: ValueLike = 1) -> None:
        """Something that offers at any time when it is ``allowed``, and then keeps to its offer until it is taken."""
        bits = Value.cast(to.payload)
        width = len(bits)
        waits, held = Signal(), Signal(width)
        chosen = self.free(width) if payload is None else Value.cast(payload)
        self.m.d.comb += [to.valid.eq(waits | (self.free(1) & allowed)), bits.eq(Mux(waits, held, chosen))]
        self.m.d.sync += [waits.eq(to.valid & ~to.ready), held.eq(bits)]

    def before(self, value: ValueLike) -> Signal:
        """The value of a cycle ago; 0 in the first one."""
        value = Value.cast(value)
        past = Signal(Shape(len(value)))
        self.m.d.sync += past.eq(value)
        return past

    def stands(self, valid: Value, ready: Value, *payload: Value) -> Value:
        """What was offered and not taken a cycle ago is offered unchanged."""
        bits = Cat(payload)
        return ~self.before(valid & ~ready) | (valid & (self.before(bits) == bits))

    def counter(self, width: int, up: ValueLike, down: ValueLike) -> Signal:
        """A counter of ``width`` bits; the claims say whether they suffice."""
        count = Signal(width)
        self.m.d.sync += count.eq(count + up - down)
        return count

    def assume(self, condition: ValueLike) -> None:
        """What the surroundings keep to."""
        self._assumed.append(Value.cast(condition).bool())

    def law(self, text: str, condition: ValueLike, bound: int = 0) -> None:
        """``condition`` holds in every cycle, or in the first ``bound`` cycles."""
        self._claim(text, ~Value.cast(condition).bool(), bound, False)

    def reached(self, text: str, condition: ValueLike, within: int = 0) -> None:
        """``condition`` holds at some time, or in one of the first ``within`` cycles: those that bounded laws look at."""
        self._claim(text, Value.cast(condition).bool(), 0, True, within)

    def _claim(self, text: str, broken: Value, bound: int, reached: bool, within: int = 0) -> None:
        output = Signal(name=f"claim_{len(self.claims)}")
        self.m.d.comb += output.eq(self._fair & broken)
        self.claims.append(Claim(text, output, bound, reached, within))

    def elaborate(self, platform: object) -> Module:
        fair = Cat(*self._assumed, 1).all()
        self.m.d.comb += self._fair.eq(self._was_fair & fair)
        self.m.d.sync += self._was_fair.eq(self._fair)
        return self.m


@dataclass(frozen=True)
class Unit:
    """What is claimed of one source file.

    Attributes:
        path: of the file, from the project's root.
        build: makes the circuit with its claims.
        of: for which parameters.
    """

    path: str
    build: Callable[[], Laws]
    of: str
