"""A random generator that speaks of integers and choices."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipopu.layout import round_up


class Draw:
    """A random generator that speaks of integers and choices."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def between(self, least: int, most: int) -> int:
        """Uniform, both ends included."""
        return int(self.rng.integers(least, most + 1))

    def scaled(self, least: int, most: int) -> int:
        """Uniform in the logarithm."""
        return min(most, int(least * (most + 1) ** (u := self.rng.random()) / least**u)) if least < most else least

    def of(self, values: Any) -> Any:
        return values[self.between(0, len(values) - 1)]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def spare(self, need: int, unit: int) -> int:
        """A capacity for ``need`` in multiples of ``unit``: often exactly that, seldom less."""
        share = self.of((1, 1, 1, 1.1, 1.5, 2, 3)) if self.chance(0.985) else 0.9
        return max(unit, round_up(int(need * share), unit))
