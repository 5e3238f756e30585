"""Ways to choose thresholds for a ratio of channels; all of them end in the machine's rule, key sums against integers.

TEAL (Liu et al., 2024, arXiv 2408.14690): one threshold on an input's magnitudes. WINA (Chen et al., 2025, arXiv 2505.19427): magnitudes
count times the norm of the channel's weights. CHESS (He et al., 2024, arXiv 2409.01366): behind a gate each channel has a threshold of
its own, found on the gate's output.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.calibrate.observe import I32, Seen
from skipopu.masks import U16
from skipopu.numerics import mask

TEAL, WINA, CHESS = "teal", "wina", "chess"
RULES = {
    TEAL: "one threshold for an input of a layer",
    WINA: "magnitudes count times the norm of the channel's weights",
    CHESS: "what down reads has a threshold for each channel, found on the gate's output; other inputs, and all of models without a gate,"
    " are as with teal",
}
STEPS = 128  # of a key, to a power of two


def quantile(sums: I32, ratio: float) -> int:
    """The integer that a share of the key sums as close as possible to ``ratio`` is below."""
    ranked = np.sort(sums, axis=None)
    at = int(ranked[min(int(ratio * len(ranked)), len(ranked) - 1)])
    below, through = (np.searchsorted(ranked, at, side) / len(ranked) for side in ("left", "right"))
    return at if ratio - below <= through - ratio else at + 1


def lifted(norms: NDArray[np.float64]) -> I32:
    """By how many steps of a key norms (channels,) lift magnitudes above what 1 would; channels without weights go far down."""
    with np.errstate(divide="ignore"):
        steps = np.rint(STEPS * np.log2(norms))
    return np.clip(np.nan_to_num(steps, neginf=-mask.NEVER), -mask.NEVER, mask.NEVER).astype(np.int32)


def thresholds(rule: str, seen: Seen, ratio: float, norms: NDArray[np.float64]) -> U16:
    """(channels,) that leave out about ``ratio`` of what was seen; 0 for a ratio of 0. ``norms`` (channels,) are of the columns of
    the weights.

    Zeros are left out with any other ratio, where no scale is added: they cost nothing.
    """
    count = seen.sums.shape[1]
    if ratio <= 0 or not len(seen.sums):
        return np.zeros(count, np.uint16)
    if rule == WINA:
        lift = lifted(norms)
        found = quantile(seen.sums + lift, ratio) - lift
    elif rule == CHESS and seen.gate is not None:
        found = behind_gate(seen, ratio)
    else:
        found = np.full(count, quantile(seen.sums, ratio))
    least = 1 if seen.scaled else mask.ONE + 1
    return np.clip(found, least, mask.NEVER).astype(np.uint16)


def behind_gate(seen: Seen, ratio: float) -> NDArray[np.int64]:
    """Each channel is left out as often as its gate, times the mean of what it multiplies, is among the ``ratio`` least of all
    channels': which of its tokens these are, its own key sums say, the machine's rule knows no other numbers."""
    assert seen.gate is not None
    assert seen.up is not None
    weighed = seen.gate * seen.up
    shares = (weighed < np.quantile(weighed, ratio)).mean(0)
    return np.array([quantile(sums, share) for sums, share in zip(seen.sums.T, shares, strict=True)])
