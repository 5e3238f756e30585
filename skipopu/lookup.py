"""Speculation by prompt lookup: what followed the last words where they stood before. On the host, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipopu.accept import whole
from skipopu.errors import ProgramError

MOST = 1024


@dataclass(frozen=True)
class Lookup:
    """Drafts of tokens that may follow (after "prompt lookup decoding", A. Saxena 2023): of earlier places that end like what is there so
    far, over the most tokens, the latest one says what comes next.

    Attributes:
        drafts: tokens of a draft at most.
        shortest: no draft where fewer tokens are equal.
        longest: no more of them are compared.
    """

    drafts: int
    shortest: int = 2
    longest: int = 32

    def __post_init__(self) -> None:
        for name, least in (("drafts", 0), ("shortest", 1), ("longest", self.shortest)):
            whole(least, MOST).check(getattr(self, name), name, ProgramError)

    def draft(self, ids: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that may follow ``ids``."""
        known, most = np.asarray(ids, np.int64), min(most, self.drafts)
        if most <= 0 or len(known) <= self.shortest:
            return ()
        ends = np.arange(len(known) - 1)  # places behind which something is known
        for equal in range(min(self.longest, len(known) - 1)):
            longer = ends[(ends >= equal) & (known[ends - equal] == known[-1 - equal])]
            if not len(longer):
                return self._behind(known, ends, most) if equal >= self.shortest else ()
            ends = longer
        return self._behind(known, ends, most)

    @staticmethod
    def _behind(known: np.ndarray, ends: np.ndarray, most: int) -> tuple[int, ...]:
        return tuple(known[ends[-1] + 1 : ends[-1] + 1 + most].tolist())
