"""Why simulations do not reach some of the hardware."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.coverage.holes import Hole


@dataclass(frozen=True)
class Rule:
    """Explains holes of units ``units``, of kinds ``kinds``, named ``name`` (regular expressions of whole texts), of bits from ``least`` on."""

    units: str
    kinds: str
    name: str
    why: str
    least: int = 0

    def explains(self, hole: Hole) -> bool:
        """Whether all of ``hole`` is what the rule is about."""
        whole = (re.fullmatch(self.units, hole.unit), re.fullmatch(self.kinds, hole.kind), re.fullmatch(self.name, hole.name))
        return all(whole) and all(bit >= self.least for bit in hole.bits)


RULES: tuple[Rule, ...] = ()


def explanation(hole: Hole) -> Rule | None:
    """The first rule that explains all of ``hole``."""
    return next((rule for rule in RULES if rule.explains(hole)), None)
