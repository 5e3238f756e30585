"""Which channels a run's products leave out, where no engine computes them: recorded ones, or drawn ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.masks import Active
from skipopu.accept import number
from skipopu.errors import ProgramError
from skipopu.program.program import Program

SAMPLES = 4  # draws that take turns: a stream's length differs little from one to the next


class Channels(Protocol):
    """Which channels tokens need."""

    def of(self, layer: int, address: int, positions: Sequence[int]) -> NDArray[np.bool_]:
        """bool (channels,) of the product of a layer with thresholds at ``address`` in layer 0: those that any of the tokens needs."""
        ...

    def about(self, layer: int, positions: Sequence[int]) -> tuple[int, ...]:
        """Where this is the same, so are the channels."""
        ...


class Recorded:
    """Those of another engine's run."""

    def __init__(self, program: Program, active: Active) -> None:
        self.inputs = {d["address"]: name for name, d in program.masks.items()}
        self.active = active

    def of(self, layer: int, address: int, positions: Sequence[int]) -> NDArray[np.bool_]:
        return np.asarray(self.active[self.inputs[address]][layer, list(positions)].any(0))

    def about(self, layer: int, positions: Sequence[int]) -> tuple[int, ...]:
        return layer, *positions


class Drawn:
    """Independent ones: each channel of each token is left out with probability ``share``, every input alike. Few draws take turns."""

    def __init__(self, program: Program, share: float, seed: int = 0) -> None:
        self.counts = {d["address"]: d["channels"] for d in program.masks.values()}
        self.share, self.seed = share, seed
        self.drawn: dict[tuple[int, int], NDArray[np.bool_]] = {}

    def sample(self, layer: int, position: int) -> int:
        return zlib.crc32(f"{self.seed} {layer} {position}".encode()) % SAMPLES

    def of(self, layer: int, address: int, positions: Sequence[int]) -> NDArray[np.bool_]:
        every: list[NDArray[np.bool_]] = []
        for index, position in enumerate(positions):
            key = address, SAMPLES * index + self.sample(layer, position)
            if key not in self.drawn:
                self.drawn[key] = np.random.default_rng((self.seed, *key)).random(self.counts[address]) >= self.share
            every.append(self.drawn[key])
        return np.any(every, axis=0)

    def about(self, layer: int, positions: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.sample(layer, position) for position in positions)


def channels(program: Program, share: float | None, active: Active | None, seed: int = 0) -> Channels | None:
    """Those that recorded masks say, ``active``, or of which a ``share`` is left out, drawn with ``seed``; None where neither is given.

    Raises:
        ProgramError: the program has no thresholds, or the recorded masks none of an input that it has some of; no share in 0..1.
    """
    if active is None and share is None:
        return None
    if not program.masks:
        raise ProgramError(
            "what channels are left out is said of a program without thresholds; accepted: one of sk.shape(..., masks=True)"
        )
    if active is None:
        return Drawn(program, number(0, 1).check(share, "mask", ProgramError), seed)
    if missing := sorted(program.masks.keys() - active.keys()):
        raise ProgramError(f"the recorded masks have none of {', '.join(missing)}; the program has thresholds there")
    return Recorded(program, active)
