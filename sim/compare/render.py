"""The report as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from sim.compare.comparison import Comparison
from sim.compare.decoding import PHYSICAL, masks_said
from sim.timing import energy
from skipopu import __version__
from skipopu.plots import svg
from skipopu.quantity import prefix, quantity
from skipopu.report import Report, write_json


def write(c: Comparison, report: Report, directory: Path) -> list[Path]:
    """Writes comparison.md, comparison.html, comparison.json and the figures as SVG; returns the first three."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {plot.name: (plot.caption, svg(plot)) for plot in report.plots}
    for name, (_, text) in drawn.items():
        (directory / f"{name}.svg").write_text('<?xml version="1.0" encoding="utf-8"?>\n' + text, encoding="utf-8")
    workload, masked = c.workload, f", {masks_said(c)}" if c.masked else ""
    values = {
        "title": f"{c.model} on {c.machine.name}",
        "subtitle": f"[{workload.prompt}, {workload.new}] tokens, batch 1, {c.skipped:.1%} of modules skipped, {workload.kv} KV{masked}",
        "machine": c.machine,
        "verdict": report.findings,
        "cards": cards(c),
        "figures": drawn,
        "tables": report.tables,
        "version": __version__,
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=jinja2.select_autoescape(("html.j2",))
    )
    environment.filters["code"] = code
    written = []
    for suffix in ("md", "html"):
        path = directory / f"comparison.{suffix}"
        path.write_text(environment.get_template(f"report.{suffix}.j2").render(values).rstrip() + "\n", encoding="utf-8")
        written.append(path)
    inputs = {
        "model": c.model,
        "target": c.machine.name,
        "context": workload.context,
        "skip": workload.skip,
        "kv": workload.kv,
        "seed": workload.seed,
    }
    if c.masked:
        inputs["masked"] = c.masked_share
    path = directory / "comparison.json"
    write_json(path, "compare", inputs, report.records)
    return [*written, path]


def cards(c: Comparison) -> list[tuple[str, str, str]]:
    """(value, what it is, how it is known) of the figures that a reader wants first."""
    joule = energy.total(c.skipping.energy())
    clock = f"simulated, {c.machine.clock_mhz:g} MHz assumed"
    first = quantity(c.skipping.time_to_first_token, "s")
    factor, name = prefix(joule.likely)
    return [
        (f"{c.dense.tokens_per_s:.1f}", "tokens/s, every module", clock),
        (f"{c.skipping.tokens_per_s:.1f}", f"tokens/s, {c.skipped:.0%} skipped", clock),
        *(
            (f"{part.tokens_per_s:.1f}", f"tokens/s, {masks_said(c)}, {skip:.0%} skipped", clock)
            for part, skip in c.masked_runs[1:]
        ),
        (f"{c.skipping.efficiency:.1%}", "of peak bandwidth", PHYSICAL),
        (first, f"to first token, prompt {c.workload.prompt}", clock),
        (quantity(joule.likely, "J"), "per token", f"estimated, {joule.low / factor:.3g} to {joule.high / factor:.3g} {name}J"),
    ]


def code(text: str) -> Markup:
    """HTML of a sentence whose `words` between backticks are code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
