"""What every engine returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.program import Program

SATURATED = "numbers left the range of FP32 or FP16 and saturated; the tokens are not the model's"

# Called with each generated token as soon as it is known.
OnToken = Callable[[int], None]


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


@dataclass
class Result:
    """Outcome of one run.

    Attributes:
        tokens: generated ids.
        routing: bool (layers, 2, positions), what executed.
        memory: final image per port, (bytes,) uint8 each; empty for engines without data.
        trace: retired unit instructions in program order; filled in check mode.
        counters: cycles, busy and stall cycles and beats under the names of the host registers; empty for engines
            without time.
        saturated: the sticky numeric bit; of the reference, whether its logits are not all finite.
        seconds: real time of the RTL simulation itself, without its build.
        at_token: the counters as each token was written, by the timing engine.
    """

    tokens: list[int]
    routing: NDArray[np.bool_]
    memory: list[NDArray[np.uint8]] = field(default_factory=list)
    trace: list[Retired] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    saturated: bool = False
    kv_entries: int = 0
    seconds: float = 0.0
    at_token: list[dict[str, int]] = field(default_factory=list)

    @property
    def executed_share(self) -> float:
        """Executed modules over all modules of all processed tokens."""
        return float(self.routing.mean())


def logits_of(program: Program, result: Result, positions: int) -> NDArray[np.float32]:
    """(positions, vocab) float32 that a program compiled with logits stored in port 0."""
    region, vocabulary = program.regions["logits"], program.model.vocab_size
    rows = result.memory[0][region.address : region.address + region.size].reshape(program.context, -1)
    return rows[:positions, : 4 * vocabulary].copy().view(np.float32)
