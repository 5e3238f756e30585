"""Input channels that a product leaves out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.functional.state import State
from sim.walk import Fields
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.masks import ThresholdTable
from skipopu.numerics import mask


def active(s: State, f: Fields, slots: NDArray[np.int64], first: int) -> NDArray[np.bool_]:
    """bool (slots, groups, group): which channels of the product's input, from group ``first`` on, count for each slot."""
    keys = s.activation.keys[slots, first : first + f["groups"]]
    base = s.walk.mask + (s.walk.layer_base if f["layered"] else 0)
    thresholds = _thresholds(s, base * ADDRESS_UNIT, *keys.shape[1:])
    scale = mask.key(s.inverse_rms[slots]) if f["norm"] else np.full(len(slots), mask.ONE)
    found, there = mask.active(keys, scale[:, None, None], thresholds), keys >= 0
    s.channels += [np.count_nonzero(found & there), np.count_nonzero(there)]
    if s.see_masks is not None:
        elements = np.count_nonzero(there[0])
        s.see_masks(
            s.walk.layer, s.walk.mask * ADDRESS_UNIT, s.walk.position + slots, found.reshape(len(slots), -1)[:, :elements]
        )
    return found


def _thresholds(s: State, address: int, groups: int, group: int) -> NDArray[np.uint16]:
    """(groups, group) at a byte address, read once: the image's do not change while a program runs."""
    key = address, groups, group
    if key not in s.thresholds:
        table = ThresholdTable(groups, group, s.machine.mask_ports, s.machine.beat_bytes)
        s.thresholds[key] = table.unpack([s.read(port, address, table.size) for port in range(s.machine.mask_ports)])
    return s.thresholds[key]
