"""What a comparison says in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import RULE, Decoding, decodings, masks_said, percent, rate, span
from sim.estimate import prefill_products
from sim.timing import energy
from skipopu.machine.config import Machine
from skipopu.quantity import quantity


def estimated_clock(machine: Machine) -> tuple[float, float, float] | None:
    """(low, likely, high) MHz by the netlist of a machine with these parameters, where resources are committed; see docs/clock.md."""
    for path in sorted((Path(__file__).parents[2] / "boards" / "resources").glob("*.json")):
        data = json.loads(path.read_text())
        if data["inputs"]["fingerprint"] == machine.fingerprint:
            values = {record["name"]: record["value"] for record in data["records"]}
            return values["fmax_mhz, high delays"], values["fmax_mhz"], values["fmax_mhz, low delays"]
    return None


def best_of_each(rows: Sequence[Decoding]) -> str:
    """The fastest of ``rows`` for each system and weight format."""
    best: dict[tuple[str, str], Decoding] = {}
    for row in rows:
        best.setdefault((row.system, row.weights), row)
    return "; ".join(f"{row.name} ({row.weights}) {rate(row.tokens_per_s, row.high)}" for row in best.values())


def clock_note(c: Comparison) -> str:
    """What the rates' clock is worth."""
    said = f"Rates are simulated at an assumed {c.machine.clock_mhz:g} MHz."
    if len(c.by_clock) > 1:
        slowest, pair = min(c.by_clock.items())
        known = estimated_clock(c.machine)
        estimate = (
            f": the static timing estimate of the netlist gives {known[1]:.0f} MHz ({known[0]:.0f} to {known[2]:.0f})"
            if known
            else ""
        )
        said += (
            f" No clock of an UltraScale+ device was closed{estimate}; at {slowest:g} MHz the same run gives"
            f" {pair[1].tokens_per_s:.1f} tokens per second."
        )
    return said


def masks_note(c: Comparison) -> str:
    """What masks are worth against others."""
    said = f"masks are {c.how_masked}, and a GPU that masks channels gains as well"
    if all(figure.masked is None for figure in c.measured_figures("decode_tokens_per_s")):
        said += "; none was measured doing so"
    return said


def verdict(c: Comparison) -> list[str]:
    """Plain sentences: who is faster, who uses its memory better, what is not known."""
    rows, machine = decodings(c), c.machine.name
    ours, dense = c.skipping.tokens_per_s, c.dense.tokens_per_s
    said = [
        f"{machine} decodes {c.model} at {dense:.1f} tokens per second with every module executed and at {ours:.1f} with"
        f" {c.skipped:.0%} of them skipped, {ours / dense:.2f} times as many.",
        clock_note(c),
    ]
    if c.masked:
        rates, before = [part.tokens_per_s for part in c.masked], (dense, ours)
        said.append(
            f"With {masks_said(c)} these are {rates[0]:.1f} and {rates[1]:.1f}, {rates[0] / before[0]:.2f} and {rates[1] / before[1]:.2f}"
            f" times as many. No comparison with GPUs below has them: {masks_note(c)}."
        )
    gpus = [row for row in rows if row.system in data.gpus().gpus]
    if faster := [row for row in gpus if row.tokens_per_s > dense]:
        fastest = max(faster, key=lambda row: row.high or row.tokens_per_s)
        most = fastest.high or fastest.tokens_per_s
        said.append(
            f"GPUs execute every module here. Dense against dense they are up to {most / dense:.2f} times as fast:"
            f" {best_of_each(faster)}. Against our rate with skipping that is {most / ours:.2f} times; no GPU was measured skipping."
        )
    if slower := [row for row in gpus if row.tokens_per_s <= dense]:
        said.append(f"Slower than ours, dense against dense: {best_of_each(slower)}.")
    if not gpus:
        said.append(
            f"No GPU figure is published for {c.model} in our sources; the rooflines below are all there is to hold it against."
        )
    own = [row for row in rows if row.part is c.dense or row.part is c.skipping]
    int4 = [row for row in gpus if row.weights == "int4" and row.share]
    if int4:
        best = max(int4, key=lambda row: row.share_high or row.share or 0)
        peaks = [data.gpus().gpus[row.system].peak_gb_s for row in int4]
        said.append(
            f"Of its peak bandwidth ({RULE}) {machine} uses {' and '.join(percent(row.share) for row in reversed(own))} (dense, skipping);"
            f" the best INT4 GPU here {percent(best.share, best.share_high)} ({best.name}). That is what the machine is good at: a card"
            f" with {quantity(c.machine.peak_bandwidth, 'B/s')} against {min(peaks):.0f} to {max(peaks):.0f} GB/s."
        )
    prompt, pair = max(c.by_prompt.items())
    floors = {name: gpu.prefill_floor(sum(prefill_products(c.config, prompt))) for name, gpu in data.gpus().gpus.items()}
    first = pair[1].time_to_first_token
    if ahead := [name for name, floor in floors.items() if floor < first / 3]:
        said.append(
            f"A prompt of {prompt} tokens takes {quantity(first, 's')}: {', '.join(ahead)} could take less than a third of that, being far"
            " ahead in multiplications per second."
        )
    parts = c.skipping.energy()
    rest = energy.share_at_rest(parts)
    said.append(
        f"A token is estimated at {span(energy.total(parts))}; {rest.likely:.0%} of it ({rest.low:.0%} to {rest.high:.0%}) is the card at"
        " rest."
    )
    if c.missing():
        said.append("No measurement of a GPU on the same skipping is at hand: those rows are shown as missing.")
    return [*said, *c.left_out]
