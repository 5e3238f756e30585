"""The report's plots: small enough that their text can be read on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import RULE, Decoding, decodings
from sim.estimate import prefill_products
from sim.timing import energy
from skipopu.plots import GREY
from skipopu.quantity import prefix
from skipopu.report import Plot

OURS, DENSE, PUBLISHED, MEASURED = "#c8553d", "#2f6f9f", "#9aa5b1", "#588157"
WIDE = 5.4  # inches; 520 pixels in a browser


def bars(rows: Sequence[Decoding], values: Sequence[float], texts: Sequence[str], axis: Axes) -> None:
    """A bar for each system, its value written behind it."""
    colours = [
        OURS if r.own and r.skipped else DENSE if r.own else MEASURED if r.kind == "measured" else PUBLISHED for r in rows
    ]
    axis.barh(range(len(rows)), values, color=colours, height=0.7)
    for k, (value, text) in enumerate(zip(values, texts, strict=True)):
        axis.text(value, k, f" {text}", va="center", fontsize=8.5)
    names = [f"{row.name.replace('timing engine', f'{row.skipped:.0%} skipped')}, {row.weights}" for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=8)


def decoding(c: Comparison, axis: Axes) -> None:
    """Tokens per second of every system."""
    rows = decodings(c)[::-1]
    bars(rows, [row.tokens_per_s for row in rows], [f"{row.tokens_per_s:.0f}" for row in rows], axis)
    axis.margins(x=0.1)
    axis.set_xlabel("tokens per second")


def bandwidth(c: Comparison, axis: Axes) -> None:
    """Share of the peak bandwidth by one rule, where it can be told."""
    known = sorted((row.share, k, row) for k, row in enumerate(decodings(c)) if row.share is not None)
    bars([row for *_, row in known], [100 * x for x, *_ in known], [f"{x:.0%}" for x, *_ in known], axis)
    axis.set_xlim(0, 108)
    axis.set_xlabel("% of peak bandwidth")


def beside(axis: Axes, labels: Sequence[tuple[float, str]], apart: float = 0.055) -> None:
    """Names on the right of the axis at their lines' heights, moved upwards where they would overlap (by ``apart`` of the height)."""
    at = -math.inf
    transform = axis.transData + axis.transAxes.inverted()
    for value, text in sorted(labels):
        at = max(float(transform.transform((1.0, value))[1]), at + apart)
        axis.text(1.01, at, text, transform=axis.transAxes, fontsize=7.5, va="center", color=GREY)


def over_context(c: Comparison, axis: Axes) -> None:
    """Decoding as the context grows, dense and skipping."""
    assert c.long is not None
    for part, colour, name in (
        (c.long[1], OURS, f"{c.machine.name}, {c.skipped:.0%} skipped"),
        (c.long[0], DENSE, f"{c.machine.name}, every module"),
    ):
        contexts, rates = part.rate_over_context(64)
        axis.plot(contexts, rates, color=colour, label=name, linewidth=1.6)
    best: dict[str, data.GpuRow] = {}
    for row in c.gpu_rows:
        if row.precision == "int4" and row.tokens_per_s < 2.5 * c.skipping.tokens_per_s:
            best.setdefault(row.gpu, row)
    for row in best.values():
        axis.axhline(row.tokens_per_s, color=PUBLISHED, linewidth=1, linestyle="--")
    axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    beside(axis, [(row.tokens_per_s, f"{row.gpu},\n{row.stack}") for row in best.values()], 0.12)
    axis.set_xlabel("context, tokens")
    axis.set_ylabel("tokens per second")
    axis.legend(fontsize=8, frameon=False, loc="lower left")


def over_skip(c: Comparison, axis: Axes) -> None:
    """Decoding as more is skipped, by KV policy, beside what the bytes left over would allow."""
    for policy, colour, name in (("reuse", OURS, "KV reused"), ("dense", MEASURED, "K and V of every token")):
        by = c.by_skip[policy]
        ratios = [100 * ratio for ratio in by]
        axis.plot(ratios, [part.tokens_per_s for part in by.values()], color=colour, marker="o", markersize=3.5, label=name)
    by = c.by_skip["reuse"]
    axis.plot(
        [100 * r for r in by], [p.roof for p in by.values()], color=GREY, linestyle=":", label="roof of KV reused's bytes"
    )
    axis.set_ylim(bottom=0)
    axis.set_xlabel("modules skipped, %")
    axis.set_ylabel("tokens per second")
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def first_token(c: Comparison, axis: Axes) -> None:
    """Time to first token over the prompt's length; GPUs' floors."""
    prompts = list(c.by_prompt)
    for k, (colour, name) in enumerate(((DENSE, "every module"), (OURS, f"{c.skipped:.0%} skipped"))):
        seconds = [pair[k].time_to_first_token for pair in c.by_prompt.values()]
        axis.plot(prompts, seconds, color=colour, marker="o", markersize=3.5, label=f"{c.machine.name}, {name}")
    ends = []
    for name, gpu in data.gpus().gpus.items():
        floors = [gpu.prefill_floor(sum(prefill_products(c.config, n))) for n in prompts]
        axis.plot(prompts, floors, color=PUBLISHED, linewidth=1, linestyle="--")
        ends.append((floors[-1], f"{name}, at least"))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    axis.set_xticks(prompts, [str(n) for n in prompts])
    beside(axis, ends)
    axis.minorticks_off()
    axis.set_xlabel("prompt, tokens")
    axis.set_ylabel("seconds to first token")
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def joules(c: Comparison, axis: Axes) -> None:
    """Estimated energy of a decoded token, by event."""
    colours = ("#2f6f9f", "#c8553d", "#e0a458", "#588157", "#7d5ba6", "#9aa5b1", "#d9dde1")
    both = [part.energy() for part in (c.skipping, c.dense)]
    factor, name = prefix(energy.total(both[1]).likely)
    for row, parts in enumerate(both):
        left = 0.0
        for colour, line in zip(colours, parts, strict=True):
            value = line.joules.likely / factor
            axis.barh(row, value, left=left, color=colour, height=0.55, label=line.event.name if row == 0 else None)
            left += value
        total = energy.total(parts)
        spread = [[(total.likely - total.low) / factor], [(total.high - total.likely) / factor]]
        axis.errorbar([left], [row], xerr=spread, color="#222222", capsize=4, linewidth=1)
    axis.set_yticks((0, 1), (f"{c.skipped:.0%} skipped", "every module"))
    axis.set_ylim(-0.5, 1.6)
    axis.set_xlabel(f"{name}J per decoded token, estimated")
    axis.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.42, -0.2), ncols=1)


Draw = Callable[[Comparison, Axes], None]


def plots(c: Comparison) -> list[Plot]:
    """Those for which there is something to show."""
    count = len(decodings(c))
    plans: dict[str, tuple[str, Draw, float]] = {
        "decoding": (
            f"Decoding, batch 1. Ours is simulated at an assumed {c.machine.clock_mhz:g} MHz, grey is published.",
            decoding,
            1.0 + 0.24 * count,
        ),
        "bandwidth": (f"Share of the memory's peak bandwidth by one rule: {RULE}.", bandwidth, 1.0 + 0.24 * count),
        "skip": ("Decoding as more modules are skipped, at the same prompt and tokens.", over_skip, 3.3),
        "energy": ("Energy per decoded token, estimated; the bar's ends are the least and largest estimate.", joules, 3.6),
    }
    if c.long is not None:
        caption = "Decoding as the context grows; dashed: each GPU's best published INT4 rate, dense, at short contexts."
        plans["context"] = (caption, over_context, 3.3)
    if len(c.by_prompt) > 1:
        plans["first-token"] = ("Time to first token; dashed: what GPUs cannot undercut.", first_token, 3.3)

    def onto_axis(draw: Draw) -> Callable[[Figure], None]:
        return lambda figure: draw(c, figure.subplots())

    return [Plot(name, onto_axis(draw), (WIDE, height), caption) for name, (caption, draw, height) in plans.items()]
