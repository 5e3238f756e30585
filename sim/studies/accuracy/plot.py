"""Plot of study ``accuracy``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.studies.accuracy.setting import FP32, PRODUCTS, Point
from skipopu.numerics.formats import INT4, INT8

MARKERS = {"always": "s", "routers": "o", "random": "x"}
MASKED = {"always": "D", "routers": "P"}  # where channels are left out too
TOP = 1.16  # times the least bits, up to where points are shown
COLOURS = ("tab:blue", "tab:red", "tab:green", "tab:purple", "tab:brown", "tab:olive")


def sizes(points: Sequence[Point]) -> list[float]:
    """Bytes of points that have them."""
    return [point.bytes for point in points if point.bytes is not None]


def front(points: Sequence[Point]) -> list[Point]:
    """Of chosen methods those that no other beats in bytes and in bits, by rising bytes."""
    best: list[Point] = []
    for point in sorted((p for p in points if p.bytes is not None and p.chosen), key=lambda p: (p.bytes, p.bits)):
        if not best or point.bits < best[-1].bits:
            best.append(point)
    return best


def draw(figure: Figure, points: Sequence[Point], more: Sequence[Point]) -> None:
    """Bits per byte over bytes per token, a panel for each form of the model, and one of what more bytes buy."""
    forms = list(dict.fromkeys(point.form for point in points))
    formats = list(dict.fromkeys(point.format for point in points if point.format != FP32))
    *axes, last = figure.subplots(1, len(forms) + 1, squeeze=False)[0]
    bought(last, points, more)
    for axis, form in zip(axes, forms, strict=True):
        own = [point for point in points if point.form == form and point.bytes is not None]
        for format, colour in zip(formats, COLOURS, strict=False):
            for policy, marker in MARKERS.items():
                some = [p for p in own if (p.format, p.policy.name) == (format, policy) and not p.masked]
                if some:
                    label = f"{format}, {policy}"
                    axis.scatter(
                        sizes(some),
                        [p.bits for p in some],
                        c=colour,
                        marker=marker,
                        s=[34 if p.chosen else 12 for p in some],
                        alpha=0.8,
                        label=label,
                    )
            for policy, marker in MASKED.items():
                some = [p for p in own if (p.format, p.policy.name) == (format, policy) and p.masked]
                if some:
                    label = f"{format}, {policy}, masks"
                    axis.scatter(sizes(some), [p.bits for p in some], c=colour, marker=marker, s=26, alpha=0.8, label=label)
        best = front(own)
        axis.plot(sizes(best), [p.bits for p in best], color="black", linewidth=1, zorder=0, label="front")
        for point in points:
            if point.format == FP32 and (
                point.policy.name == "always" or (point.policy.share is None and point.policy.kv == "reuse")
            ):
                axis.axhline(point.bits, color="grey", linewidth=0.8, linestyle="--")
                text = f"FP32, {point.policy.label}"
                axis.text(0.99, point.bits, text, transform=axis.get_yaxis_transform(), ha="right", va="bottom", fontsize=7)
        axis.set(title=form, xlabel="bytes read per decoded token")
        axis.grid(alpha=0.3)
    bound = min(point.bits for point in points)
    for axis, form in zip(axes, forms, strict=True):
        axis.set_ylim(bound - 0.02 * bound, TOP * bound)
        beyond = [p.bits for p in points if p.form == form and p.bits > TOP * bound]
        if beyond:
            text = f"{len(beyond)} points above, up to {max(beyond):.1f}"
            axis.text(0.98, 0.98, text, transform=axis.transAxes, ha="right", va="top", fontsize=8)
    axes[0].set_ylabel("bits per byte of held-out text")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, fontsize=8)


def curve(points: Sequence[Point], more: Sequence[Point], form: str) -> list[Point]:
    """Everything executed, GPTQ: from INT4 over 8 bits for some products to 8 bits for all, by rising bytes."""
    own = [p for p in (*more, *points) if p.form == form and p.policy.name == "always" and p.method == "gptq" and not p.masked]
    some = [p for p in own if p.format in (INT4.name, INT8.name) or p.bought == PRODUCTS]
    by_bytes = {p.bytes: p for p in some if p.bytes is not None}
    return [by_bytes[size] for size in sorted(by_bytes)]


def bought(axis: Axes, points: Sequence[Point], more: Sequence[Point]) -> None:
    form = more[0].form
    line = curve(points, more, form)
    axis.plot(sizes(line), [p.bits for p in line], "o-", color="tab:red", label="8 bits for some products")
    corrected = [p for p in more if p.bought not in ("", PRODUCTS) and p.policy.name == "always"]
    for (method, held), marker in zip(dict.fromkeys((p.method, p.bought) for p in corrected), "v^<>", strict=False):
        some = [p for p in corrected if (p.method, p.bought) == (method, held)]
        label = f"{method}, corrections in {held}"
        axis.plot(sizes(some), [p.bits for p in some], marker=marker, linewidth=0.8, label=label)
    axis.set(title=f"what more bytes buy, {form}, all executed", xlabel="bytes read per decoded token")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
