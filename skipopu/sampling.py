"""Which token follows, of a model's logits: the best one, or one that is drawn. On the host, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import Accepted, number, whole
from skipopu.errors import ProgramError

LEAST, MOST = 1e-6, 1e6  # of what logits are divided by
RANGES = {
    "temperature": Accepted(
        f"0, or a number from {LEAST:g} to {MOST:g}", lambda v: number(0, 0).holds(v) or number(LEAST, MOST).holds(v)
    ),
    "top_k": whole(0, (1 << 63) - 1),
    "top_p": Accepted("a number above 0, up to 1", lambda v: number(0, 1).holds(v) and v > 0),
    "repetition_penalty": number(LEAST, MOST),
    "seed": whole(0, (1 << 63) - 1),
}


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The order is that of the package transformers: penalty, temperature, ``top_k``, ``top_p``; of equal logits
    the lower id is the better one.

    Attributes:
        temperature: logits are divided by it; 0 takes the largest one, of equal ones the lowest id.
        top_k: so many of the largest logits take part; 0: all.
        top_p: of what is left, the fewest tokens whose probabilities add up to at least this much.
        repetition_penalty: of tokens that occurred before, as in CTRL (arXiv 1909.05858): positive logits are divided by it, others multiplied.
        seed: of what is drawn. A draw depends on it and on the position alone.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, accepted in RANGES.items():
            accepted.check(getattr(self, name), name, ProgramError)
        if self.temperature == 0 and (self.top_k or self.top_p != 1):
            name = "top_k" if self.top_k else "top_p"
            raise ProgramError(
                f"{name} is {getattr(self, name)}; it has no effect without a temperature: the best token is taken"
            )

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is taken as it is, which the machine does by itself."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def choose(self, logits: NDArray[np.float32], before: Sequence[int]) -> int:
        """The token that follows the tokens ``before``; ``logits`` (vocab,), of the last of them.

        Raises:
            ProgramError: logits are not all finite.
        """
        if not np.isfinite(logits).all():
            raise ProgramError(f"logits at position {len(before) - 1} are not all finite; nothing can be chosen")
        scores = logits.astype(np.float64)
        seen = np.unique(np.asarray(before, np.int64))
        scores[seen] = np.where(
            scores[seen] > 0, scores[seen] / self.repetition_penalty, scores[seen] * self.repetition_penalty
        )
        if self.temperature == 0:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")[: self.top_k or None]
        weights = np.exp((scores[order] - scores[order[0]]) / self.temperature)
        shares = weights.cumsum() / weights.sum()
        shares = shares[: int(np.searchsorted(shares, self.top_p)) + 1]
        drawn = np.random.Generator(np.random.Philox(key=self.seed, counter=len(before))).random() * shares[-1]
        return int(order[: len(shares)][np.searchsorted(shares, drawn, "right").clip(max=len(shares) - 1)])


GREEDY = Sampling()
