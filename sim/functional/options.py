"""What the functional engine takes beside program and run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sim import engine
from sim.functional.weights import WeightCache
from skipopu.arguments import output_file
from skipopu.numerics.profile import EXACT18, PROFILES, Profile


@dataclass(frozen=True)
class Options(engine.Options):
    """Options of the functional engine.

    Attributes:
        weights: of the same program; spares decoding them again when it is run many times.
        profile: replaces the arithmetic of the program's own profile, for studies.
        scores: gets the head's results, of part after part of the vocabulary: positions (n,), the first id of the part,
            and (n, ids) float32.
        masks: gets the masks of each product that has one: the layer, the thresholds' address in layer 0, positions (n,) of
            tokens that are masked, and their active channels, bool (n, channels).
    """

    FLAGS: ClassVar[tuple[str, ...]] = ("--save-mask-trace",)

    weights: WeightCache | None = None
    profile: Profile = PROFILES[EXACT18]
    scores: Callable[[NDArray[np.int64], int, NDArray[np.float32]], None] | None = None
    masks: Callable[[int, int, NDArray[np.int64], NDArray[np.bool_]], None] | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--save-mask-trace",
            type=output_file,
            metavar="FILE",
            help="write which channels were read, for compare's --mask-trace (functional)",
        )
