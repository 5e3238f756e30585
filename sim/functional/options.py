"""What the functional engine takes beside program and run."""

from __future__ import annotations

from dataclasses import dataclass

from sim import engine
from sim.functional.weights import WeightCache
from skipopu.numerics.profile import EXACT18, PROFILES, Profile


@dataclass(frozen=True)
class Options(engine.Options):
    """Options of the functional engine.

    Attributes:
        weights: of the same program; spares decoding them again when it is run many times.
        profile: replaces the arithmetic of the program's own profile, for studies.
    """

    weights: WeightCache | None = None
    profile: Profile = PROFILES[EXACT18]
