"""Tables, records and sentences of study ``accuracy``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sim.studies.accuracy import channels
from sim.studies.accuracy.noted import Points, bits_of, bytes_of
from sim.studies.accuracy.plot import curve, front
from sim.studies.accuracy.setting import FP32, PRODUCTS, Design, Point, Policy
from skipopu.numerics.formats import FORMATS, INT8
from skipopu.policy import KvPolicy
from skipopu.report import Cell, Report, Table, shown


def quantisers(points: Points, usual: Policy, design: Design) -> Table:
    """Every format by every method, under the routing that the model was trained for."""
    every, dense = Policy("always", KvPolicy.REUSE), Policy(usual.name, KvPolicy.DENSE)
    rows: list[list[Cell]] = []
    marked: list[int] = []
    for form, format, method, chosen in dict.fromkeys(
        (n.point.form, n.point.format, n.point.method, n.point.chosen) for n in points.all if not n.point.masked
    ):
        own = {"form": form, "format": format, "method": method}
        routed = points.find(usual, **own)
        if chosen:
            marked.append(len(rows))
        name = f"{method} *" if chosen and format != FP32 else method
        cells = [bits_of(points.find(policy, **own)) for policy in dict.fromkeys((usual, dense, every))]
        rows.append([form, format, name, *cells, bytes_of(routed), bytes_of(points.find(every, **own))])
    usual_columns = [f"{policy.label}, {policy.kv}" for policy in dict.fromkeys((usual, dense)) if policy.name != "always"]
    columns = ["weights", "format", "method", *usual_columns, "all executed", "bytes/token", "all executed, bytes/token"]
    note = "* loses least on the calibration text; bytes/token are under reuse."
    half = design.window // 2
    title = (
        f"Formats and quantisers: bits per byte of the first {design.size:,} held-out bytes; bytes per decoded token on {design.target},"
        f" {half}+{half} tokens; calibrated on {design.samples} windows"
    )
    return Table(title, columns, rows, note, marked)


def skipping(points: Points, form: str) -> Table:
    """The default format's chosen weights under every policy."""
    rows: list[list[Cell]] = []
    own = {"form": form, "format": FORMATS[0].name, "chosen": True}
    policies = dict.fromkeys((n.point.policy.name, n.point.policy.share) for n in points.all if n.point.form == form)
    for name, share in policies:
        reuse, dense = (points.find(Policy(name, kv, share), **own) for kv in (KvPolicy.REUSE, KvPolicy.DENSE))
        if reuse is None:
            continue
        cells: list[Cell] = [reuse.point.policy.label]
        for found in (reuse, dense):
            cells += ["" if found is None else shown("{:.1%}", found.executed), bits_of(found), bytes_of(found)]
        rows.append(cells)
    columns = ["skipping"]
    for kv in ("reuse", "dense"):
        columns += [f"executed, {kv}", f"bits/byte, {kv}", f"bytes/token, {kv}"]
    return Table(f"Skipping, {form}, {FORMATS[0].name}", columns, rows)


def fronts(points: Points) -> list[Table]:
    """What no other point beats in bytes and in bits."""
    tables = []
    for form in dict.fromkeys(one.point.form for one in points.all):
        own = {id(one.point): one for one in points.all if one.point.form == form}
        rows: list[list[Cell]] = []
        for point in front([one.point for one in own.values()]):
            found = own[id(point)]
            kv = "" if point.policy.name == "always" else str(point.policy.kv)
            rows.append(
                [
                    point.format,
                    point.method,
                    point.policy.label,
                    kv,
                    shown("{:.1%}", found.executed),
                    f"{point.masked:.0%}, {point.masks}" if point.masked else "",
                    bits_of(found),
                    bytes_of(found),
                ]
            )
        columns = ["format", "method", "skipping", "kv", "executed", "masked", "bits/byte", "bytes/token"]
        tables.append(Table(f"The front, {form}: fewer bytes cost bits", columns, rows))
    return tables


def listed(names: Iterable[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def findings(points: Points) -> list[str]:
    """Sentences of what the points say."""
    said = []
    for form in dict.fromkeys(one.point.form for one in points.all):
        own = [one.point for one in points.all if one.point.form == form and one.point.bytes is not None]
        best = front(own)
        said.append(
            f"{form}: {len(best)} of {len(own)} points are on the front, of the formats {listed(p.format for p in best)}, the methods"
            f" {listed(p.method for p in best)}, skipping by {listed(p.policy.label for p in best)}, KV"
            f" {listed(str(p.policy.kv) for p in best if p.policy.name != 'always') if any(p.policy.name != 'always' for p in best) else '-'};"
            f" from {best[0].bits:.4f} bits at {best[0].bytes:,.0f} bytes to {best[-1].bits:.4f} at {best[-1].bytes:,.0f}."
        )
        said += channels.findings(points, form)
        plain = [point for point in own if not point.masked]
        said += [*_formats(plain, form), *_random(plain, form)]
    return said


def _formats(own: Sequence[Point], form: str) -> list[str]:
    every = {p.format: p for p in own if p.chosen and p.policy.name == "always"}
    first = every[FORMATS[0].name]
    said = []
    for name, point in every.items():
        if point is not first and point.bytes is not None and first.bytes is not None:
            said.append(
                f"{form}, everything executed: {name} by {point.method} against {first.format} by {first.method}:"
                f" {point.bits - first.bits:+.4f} bits for {point.bytes / first.bytes - 1:+.1%} bytes."
            )
    return said


def _random(own: Sequence[Point], form: str) -> list[str]:
    """Random skipping against routers whose dial was set for as much, weights the same."""
    pairs: dict[str, list[str]] = {}
    for point in own:
        twin = Policy("routers", point.policy.kv, point.policy.share)
        for other in own if point.policy.name == "random" else ():
            if other.policy == twin and (other.format, other.method) == (point.format, point.method):
                more = f"{point.bits - other.bits:+.3f} ({point.policy.share:.0%})"
                pairs.setdefault(str(point.policy.kv), []).append(more)
    if not pairs:
        return []
    said = "; ".join(f"{kv} {', '.join(each)}" for kv, each in pairs.items())
    return [f"{form}, {FORMATS[0].name}: bits of random skipping over those of routers with the dial for as much, {said}."]


def extras(points: Points, more: Points, usual: Policy) -> Table:
    """What corrections and 8 bits for some products cost and gain."""
    rows: list[list[Cell]] = []
    every = Policy("always", KvPolicy.REUSE)
    form = more.all[0].point.form
    listed = dict.fromkeys((one.point.format, one.point.method) for one in more.all)
    for source, format, method in [*((more, *key) for key in listed), (points, INT8.name, "gptq")]:
        own = {"form": form, "format": format, "method": method}
        cells = [cell(source.find(policy, **own)) for policy in dict.fromkeys((usual, every)) for cell in (bits_of, bytes_of)]
        rows.append([format, method, *cells])
    columns = ["format", "method"]
    for policy in dict.fromkeys((usual, every)):
        columns += [f"bits/byte, {policy.label}", "bytes/token"]
    return Table(f"What more bytes buy, {form}, reuse", columns, rows)


def _bought(points: Points, more: Points) -> list[str]:
    """Each correction of GPTQ's INT4 against 8 bits for as many bytes, between those that were measured on a straight line."""
    form = more.all[0].point.form
    usual, extra = ([one.point for one in part.all] for part in (points, more))
    line = curve(usual, extra, form)
    first, said = line[0], []
    better = total = 0
    for point in extra:
        if point.policy.name != "always" or point.bought in ("", PRODUCTS) or point.bytes is None or first.bytes is None:
            continue
        at = float(np.interp(point.bytes, [p.bytes or 0 for p in line], [p.bits for p in line]))
        total, better = total + 1, better + (point.bits < at)
        if point.method == "gptq":
            said.append(
                f"{point.format.partition(', ')[2]}: {point.bits - first.bits:+.4f} bits for {point.bytes / first.bytes - 1:+.1%} bytes,"
                f" where 8 bits for some products give {at - first.bits:+.4f}"
            )
    return [
        f"{form}, everything executed, corrections of GPTQ's {first.format}: {'; '.join(said)}.",
        f"{better} of {total} corrections (of rounding to nearest and GPTQ) beat 8 bits for some products at the same bytes.",
    ]


def report(of: Sequence[Point], more: Sequence[Point], model: str, design: Design) -> Report:
    points, extra = Points(of, model, design), Points(more, model, design, "what more bytes buy")
    routed = any(point.policy.name == "routers" for point in of)
    usual = Policy("routers" if routed else "always", KvPolicy.REUSE)
    forms = dict.fromkeys(point.form for point in of)
    tables = [quantisers(points, usual, design), *(skipping(points, form) for form in forms)]
    if masked := [each for form in forms for each in channels.table(points, form)]:
        tables += [*masked, channels.published()]
    tables += fronts(points)
    tables.append(extras(points, extra, usual))
    records = [record for one in (*points.all, *extra.all) for record in one.records]
    return Report(tables, findings=[*findings(points), *_bought(points, extra)], listed=records)
