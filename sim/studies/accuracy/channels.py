"""Tables and sentences of masks of input channels: measured here, and published for a large model."""

from __future__ import annotations

from collections.abc import Sequence

from sim.studies.accuracy.noted import Noted, Points, bits_of, bytes_of
from sim.studies.accuracy.setting import Policy
from skipopu.numerics.formats import FORMATS
from skipopu.policy import KvPolicy
from skipopu.report import Cell, Record, Table, shown

# Llama-2-7B's perplexity by the share of channels masked, TEAL's thresholds, weights in Q4_K.
PUBLISHED = {0.0: 5.28, 0.25: 5.26, 0.4: 5.39, 0.5: 5.59}
PAPER = "arXiv 2511.04477"


def table(points: Points, form: str) -> list[Table]:
    """Modules skipped by channels masked, with bytes; none where nothing was masked."""
    own = [one for one in points.all if one.point.form == form and one.point.masked]
    shares = sorted({one.point.masked for one in own})
    rows: list[list[Cell]] = []
    for format, way, policy in dict.fromkeys((n.point.format, n.point.masks, n.point.policy) for n in own):
        these = {"form": form, "format": format}
        found = [points.find(policy, **these, chosen=True)]
        found += [points.find(policy, **these, masked=share, masks=way) for share in shares]
        kv = "" if policy.name == "always" else str(policy.kv)
        rows.append([format, way, policy.label, kv, *(cell(one) for one in found for cell in (bits_of, bytes_of))])
    columns = ["format", "masks", "skipping", "kv"]
    for share in (0.0, *shares):
        columns += [f"bits/byte, {share:.0%}", f"bytes/token, {share:.0%}"]
    title = f"Channels masked, {form}: share of the weights that are left out of those behind masked inputs"
    return [Table(title, columns, rows)] if own else []


def published() -> Table:
    """What others measured on a model that is not of this study."""
    cells: list[Cell] = ["Llama-2-7B, perplexity"]
    for share, value in PUBLISHED.items():
        record = Record(
            *("perplexity", value, "1", "published", PAPER), model="llama-2-7b", masked=share, precision="Q4_K", stack="teal"
        )
        cells.append(shown("{:.2f}", record))
    columns = ["", *(f"{share:.0%} masked" if share else "dense" for share in PUBLISHED)]
    return Table(f"Published ({PAPER}): TEAL's thresholds on Q4_K weights", columns, [cells])


def findings(points: Points, form: str) -> list[str]:
    """Which points with masks are as good as modules skipped alone, for how many bytes."""
    usual = points.find(Policy("routers", KvPolicy.REUSE), form=form, format=FORMATS[0].name, chosen=True)
    every = [one for one in points.all if one.point.form == form and one.point.masked and one.point.bytes is not None]
    if usual is None or usual.point.bytes is None or not every:
        return []
    base, size = usual.point, usual.point.bytes
    as_good = sorted((one for one in every if one.point.bits <= base.bits), key=lambda one: one.point.bytes or 0)
    head = (
        f"{form}: {1 - base.executed:.0%} of the modules skipped and nothing else is {base.bits:.4f} bits at {size:,.0f} bytes"
    )
    if not as_good:
        return [f"{head}; no point with masks is as good."]
    said = [f"{head}; at least as good with the fewest bytes: {_described(as_good[0], size)}."]
    fewer = [one for one in as_good if (one.point.bytes or 0) <= size]
    best = min(fewer, key=lambda one: one.point.bits) if fewer else None
    if best is not None and best is not as_good[0]:
        said.append(f"{form}: the best of no more bytes than that: {_described(best, size)}.")
    elif best is None:
        said.append(f"{form}: none of them reads as few bytes; {_nearest(every, size)}.")
    return said


def _nearest(every: Sequence[Noted], size: float) -> str:
    """The best of those that read no more."""
    fewer = [one for one in every if (one.point.bytes or 0) <= size]
    return _described(min(fewer, key=lambda one: one.point.bits), size) if fewer else "no point does"


def _described(one: Noted, size: float) -> str:
    p = one.point
    skipping = p.policy.label if p.policy.name == "always" else f"{p.policy.label}, {p.policy.kv}"
    read = p.bytes or 0
    return f"{p.format} by {p.method}, {skipping}, {p.masked:.0%} masked ({p.masks}), {p.bits:.4f} bits at {read:,.0f} bytes ({read / size - 1:+.1%})"
