"""Points of study ``accuracy`` with their records, and cells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.studies.accuracy.setting import SEED, SHIPPED, Design, Point, Policy
from skipopu.report import Cell, Keys, Record, shown

COMMAND = "skipopu study accuracy"


@dataclass(frozen=True)
class Noted:
    """A point with its records."""

    point: Point
    bits: Record
    executed: Record
    bytes: Record | None
    active: Record | None

    @property
    def records(self) -> list[Record]:
        return [record for record in (self.bits, self.executed, self.bytes, self.active) if record is not None]


def noted(point: Point, model: str, design: Design, part: str) -> Noted:
    policy = point.policy
    who = f"{policy.label}, dial {point.dial:g}" if policy.name == "routers" else policy.label
    who += part and f"; {part}"
    keys: Keys = {
        "model": model if point.form == SHIPPED else f"{model}, {point.form}",
        "skip": None if policy.share is None else round(1 - policy.share, 4),
        "kv": str(policy.kv),
        "system": policy.name,
        "precision": point.format,
        "stack": f"{point.method}, {point.masks}" if point.masks else point.method,
        "masked": point.masked or None,
    }
    text = f"{COMMAND}, seed {SEED}, first {design.size} bytes of heldout.txt; {who}"
    by_reference: Keys = keys | {"engine": "reference"}
    bits = Record("bits_per_byte", point.bits, "bit/byte", "simulated", text, digits=".4f", **by_reference)
    executed = Record("executed_share", point.executed, "ratio", "simulated", text, digits=".4f", **by_reference)
    read = None
    if point.bytes is not None:
        half = design.window // 2
        by_timing: Keys = keys | {"engine": "timing", "target": design.target, "context": f"{half}+{half}", "phase": "decode"}
        source = f"{COMMAND}; every beat read between the first and the last decoded token; {who}"
        if point.masked:
            source += "; less what channels of the text that are left out have, without whole beats"
        kind = "derived" if point.masked else "simulated"
        read = Record("bytes_read", point.bytes, "byte/token", kind, source, digits=".0f", **by_timing)
    active = None
    if point.masked:
        active = Record("active_channels_share", point.active, "ratio", "simulated", text, digits=".4f", **by_reference)
    return Noted(point, bits, executed, read, active)


class Points:
    """All points with their records, to be found by what they are of."""

    def __init__(self, points: Sequence[Point], model: str, design: Design, part: str = "") -> None:
        self.all = [noted(point, model, design, part) for point in points]

    def find(self, policy: Policy, **fields: object) -> Noted | None:
        """The first under the policy whose point has the fields; nothing masked unless they say so."""
        fields = {"masked": 0.0} | fields
        for one in self.all:
            if one.point.policy == policy and all(getattr(one.point, name) == value for name, value in fields.items()):
                return one
        return None


def bits_of(found: Noted | None) -> Cell:
    return "" if found is None else shown("{:.4f}", found.bits)


def bytes_of(found: Noted | None) -> Cell:
    return "" if found is None or found.bytes is None else shown("{:,.0f}", found.bytes)
