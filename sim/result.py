"""What engines return: one record, and what each kind of engine says in it for certain."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipopu.errors import ProgramError
from skipopu.program.program import Program

SATURATED = "numbers left the range of FP32 or FP16 and saturated; the tokens are not the model's"
Image = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Retired:
    """One record of the trace ring: an instruction's index, its signature and the cycle it retired (0: not timed).

    ``layer`` and ``position`` (of the chunk's first token) are known to the functional engine only; ``sequence``, the number in the
    order of dispatch, is part of the ring's records.
    """

    pc: int
    signature: int
    cycle: int = 0
    layer: int = -1
    position: int = -1
    sequence: int = -1


@dataclass(frozen=True, kw_only=True)
class Result:
    """Outcome of one run; None is what the engine does not know.

    Attributes:
        tokens: generated ids.
        routing: bool (layers, 2, positions), what executed.
        memory: final image per port, (bytes,) uint8 each.
        counters: cycles, busy and stall cycles and beats under the names of the host registers.
        predicted: ids that the model puts behind known tokens, from the run's ``predict_from`` on.
        kv_entries: entries of keys and values that are there.
        channels: input channels of masked tokens in products with a mask: how many were active, and how many there were.
        saturated: the sticky numeric bit; of the reference, whether its logits are not all finite; of the timing engine, what the
            result said that gave it the routing.
        trace: retired unit instructions in program order; filled in check mode.
        at_token: the counters as each token was written, by the timing engine.
        seconds: real time of the timing engine or the RTL simulation itself, without what is run or built before.
    """

    tokens: list[int]
    routing: NDArray[np.bool_] | None = None
    memory: Image | None = None
    counters: dict[str, int] | None = None
    predicted: list[int] = field(default_factory=list)
    kv_entries: int | None = None
    channels: tuple[int, int] | None = None
    saturated: bool = False
    trace: list[Retired] = field(default_factory=list)
    at_token: list[dict[str, int]] = field(default_factory=list)
    seconds: float | None = None

    @property
    def active_channels_share(self) -> float | None:
        """Active channels over all of them; None where nothing was masked."""
        return share_of(self.channels)


@dataclass(frozen=True, kw_only=True)
class Routed(Result):
    """A result that says what executed."""

    routing: NDArray[np.bool_] = field()

    @property
    def executed_share(self) -> float:
        """Executed modules over all modules of all processed tokens."""
        return float(self.routing.mean())


@dataclass(frozen=True, kw_only=True)
class Computed(Routed):
    """Of the functional engine: every number of the machine, no time."""

    memory: Image = field()
    kv_entries: int = field()
    channels: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Timed(Routed):
    """Of the timing engine: time, no numbers."""

    counters: dict[str, int] = field()
    kv_entries: int = field()


@dataclass(frozen=True, kw_only=True)
class Counted(Result):
    """Of hardware, simulated or real, which counts what executed instead of listing it."""

    counters: dict[str, int] = field()
    kv_entries: int = field()


def share_of(channels: tuple[int, int] | None) -> float | None:
    """Active channels over all of them; None where there are none."""
    return channels[0] / channels[1] if channels and channels[1] else None


def logits_of(program: Program, result: Computed, positions: int) -> NDArray[np.float32]:
    """(positions, vocab) float32 that a program compiled with logits stored in port 0, under the model's cap if it has one."""
    region, vocabulary = program.regions["logits"], program.model.vocab_size
    rows = result.memory[0][region.address : region.address + region.size].reshape(program.context, -1)
    return capped(rows[:positions, : 4 * vocabulary].copy().view(np.float32), program.model.logit_cap)


def logits_at(program: Program, memory: NDArray[np.uint8], position: int) -> NDArray[np.float32]:
    """(vocab,) the same of one position, of port 0's ``memory``; raises ProgramError where the program stores none."""
    return capped(memory[logits_place(program, position)].copy().view(np.float32), program.model.logit_cap)


def logits_place(program: Program, position: int) -> slice:
    """Bytes of port 0 that have them; raises ProgramError where the program stores none."""
    region = program.regions.get("logits")
    if region is None:
        raise ProgramError(
            f"the program of {program.source['checkpoint']} stores no logits; accepted: one compiled with logits=True, or --logits"
        )
    address = region.address + position * (region.size // program.context)
    return slice(address, address + 4 * program.model.vocab_size)


def capped(logits: NDArray[np.float32], cap: float) -> NDArray[np.float32]:
    """The head's results under the model's ``cap`` if that is not 0: the machine needs no more than their order."""
    return np.float32(cap) * np.tanh(logits / np.float32(cap)) if cap else logits
