"""The report's table of energy."""

from __future__ import annotations

from collections.abc import Callable

from sim.compare.decoding import span
from sim.compare.figures import Figures
from sim.estimate import Estimate
from sim.timing import energy
from skipopu.quantity import quantity
from skipopu.report import Cell, Table, shown


def ranged(f: Figures, part: Estimate, name: str, form: str | Callable[[float, float, float], str]) -> Cell:
    """An estimated figure of the asked-for workload: likely, least, largest."""
    return shown(form, *(f.of(part, f"{name}{end}") for end in ("", "_low", "_high")))


def joules_cell(f: Figures, part: Estimate) -> Cell:
    return ranged(f, part, "energy_per_token_j", lambda likely, low, high: span(energy.Range(low, likely, high)))


def energy_table(f: Figures) -> Table:
    """Estimated energy of decoding, by event."""
    c = f.c
    rows: list[list[Cell]] = []
    for dense, skipping in zip(c.dense.energy(), c.skipping.energy(), strict=True):
        event = skipping.event
        per = f"{event.energy.likely:.3g} ({event.energy.low:.3g} to {event.energy.high:.3g}) pJ"
        if event.unit == "second":
            per = f"{event.energy.likely / 1e12:.3g} ({event.energy.low / 1e12:.3g} to {event.energy.high / 1e12:.3g}) W"
        rows.append(
            [
                event.name,
                f"{per} / {event.unit}" if event.unit != "second" else per,
                f"{skipping.count:.3g}",
                quantity(dense.joules.likely, "J"),
                quantity(skipping.joules.likely, "J"),
                event.source,
            ]
        )
    both = [part.energy() for part in (c.dense, c.skipping)]
    totals = [energy.total(parts) for parts in both]
    rows.append(
        [
            "all",
            "",
            "",
            *(joules_cell(f, part) for part in (c.dense, c.skipping)),
            "likely (all lines at their least to all at their largest)",
        ]
    )
    rest = [ranged(f, part, "energy_share_at_rest", "{:.0%} ({:.0%} to {:.0%})") for part in (c.dense, c.skipping)]
    rows.append(["at rest, of all", "", "", *rest, ""])
    watts = [total * part.tokens_per_s for total, part in zip(totals, (c.dense, c.skipping), strict=True)]
    rows.append(["power", "", "", *(f"{w.likely:.3g} W ({w.low:.3g} to {w.high:.3g})" for w in watts), ""])
    header = ["event", "energy", "per token, skipping", "every module", f"{c.skipped:.0%} skipped", "source"]
    note = (
        "Estimated: counts of the timing engine times energies, each a range; no board was measured. Two lines have a source, the others"
        " are guesses and say so. The largest line is the card at rest, whatever it computes: it is paid for as long as a token takes,"
        " so a slower clock raises it. For scale, published powers of other decoders on such cards: FlightLLM on a U280 45 W, EdgeLLM"
        " on a VCU128 56.8 W; a 7B model in FP16 on GPUs takes 3 to 5.5 J per token (from compilations, not looked up again)."
    )
    return Table("Energy per decoded token, estimated", header, rows, note, (len(rows) - 3,))
