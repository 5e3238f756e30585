"""What a comparison says in plain sentences, and its figures as records."""

from __future__ import annotations

from collections.abc import Sequence

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import PHYSICAL, Decoding, decodings, percent, rate
from sim.estimate import Estimate, prefill_products
from sim.timing import energy
from skipopu.report import Record, unit_of


def best_of_each(rows: Sequence[Decoding]) -> str:
    """The fastest of ``rows`` for each system and weight format."""
    best: dict[tuple[str, str], Decoding] = {}
    for row in rows:
        best.setdefault((row.system, row.weights), row)
    return "; ".join(f"{row.name} ({row.weights}) {rate(row.tokens_per_s, row.high)}" for row in best.values())


def verdict(c: Comparison) -> list[str]:
    """Plain sentences: who is faster, who uses its memory better, what is not known."""
    rows, ours, machine = decodings(c), c.skipping.tokens_per_s, c.machine.name
    gain = ours / c.dense.tokens_per_s
    said = [
        f"{machine} decodes {c.model} at {ours:.1f} tokens per second with {c.skipped:.0%} of the modules skipped, {gain:.2f} times"
        f" as many as with none ({c.dense.tokens_per_s:.1f}). Simulated, at an assumed {c.machine.clock_mhz:g} MHz."
    ]
    gpus = [row for row in rows if row.system in data.gpus().gpus]
    faster = [row for row in gpus if row.tokens_per_s > ours]
    if faster:
        said.append(
            f"GPUs are faster: {best_of_each(faster)}. Every module executed; the fastest {faster[0].tokens_per_s / ours:.2f} times"
            " our rate."
        )
    if slower := [row for row in gpus if row.tokens_per_s <= ours]:
        said.append(f"Slower than ours: {best_of_each(slower)}.")
    if not gpus:
        said.append(
            f"No GPU figure is published for {c.model} in our sources; the rooflines below are all there is to hold it against."
        )
    int4 = [row for row in gpus if row.weights == "int4" and row.share]
    if int4:
        best = max(int4, key=lambda row: row.share_high or row.share or 0)
        said.append(
            f"Of its peak bandwidth {machine} uses {c.skipping.efficiency:.0%}; the best INT4 GPU here {percent(best.share, best.share_high)}"
            f" ({best.name}). That is what the machine is good at: a card with {c.machine.peak_bandwidth / 1e9:.0f} GB/s against"
            f" {min(data.gpus().gpus[row.system].peak_gb_s for row in int4):.0f} to"
            f" {max(data.gpus().gpus[row.system].peak_gb_s for row in int4):.0f}."
        )
    if c.by_prompt:
        prompt, pair = max(c.by_prompt.items())
        floors = {name: gpu.prefill_floor(sum(prefill_products(c.config, prompt))) for name, gpu in data.gpus().gpus.items()}
        first = pair[1].time_to_first_token
        per, unit = unit_of(first, "s")
        ahead = [name for name, floor in floors.items() if floor < first / 3]
        if ahead:
            said.append(
                f"A prompt of {prompt} tokens takes {first / per:.2f} {unit}: {', '.join(ahead)} could take less than a third of that, being far"
                " ahead in multiplications per second."
            )
    if c.missing():
        said.append("No measurement of a GPU on the same skipping is at hand: those rows are shown as missing.")
    return said


def records(c: Comparison) -> list[Record]:
    """Every figure of the report that is ours, and the published ones it is held against."""
    result: list[Record] = []
    source = f"timing engine, {c.machine.clock_mhz:g} MHz assumed"

    def put(part: Estimate, skip: float, name: str, value: float, unit: str, kind: str = "simulated", **more: str) -> None:
        keys = {
            "engine": "timing",
            "target": part.machine.name,
            "model": part.workload.model,
            "context": part.workload.context,
            "skip": round(skip, 4),
            "kv": part.workload.kv,
            "system": "skipopu",
        }
        result.append(Record(name, value, unit, kind, more.pop("source", source), **keys, **more))

    runs: list[tuple[Estimate, float, str]] = [(c.skipping, c.skipped, "linear routers"), (c.dense, 0.0, "linear routers")]
    runs += [(c.two_layer, c.skipped, "two-layer routers")] if c.two_layer else []
    runs += [(part, ratio, "by skip ratio") for by in c.by_skip.values() for ratio, part in by.items()]
    runs += [(part, data.fpgas().paper.skip, "the paper's parameters") for part in c.paper.values()]
    for part, skip, what in runs:
        note = f"{source}; {what}"
        put(part, skip, "decode_tokens_per_s", round(part.tokens_per_s, 3), "token/s", phase="decode", source=note)
        note = f"{PHYSICAL}; {what}"
        put(part, skip, "bandwidth_efficiency", round(part.efficiency, 5), "ratio", "derived", phase="decode", source=note)
        note = f"bytes x tok/s / cap; {what}"
        put(part, skip, "share_of_cap", round(part.share_of_cap, 5), "ratio", "derived", phase="decode", source=note)
        put(part, skip, "bytes_per_token", round(part.bytes_per_token), "byte", phase="decode", source=f"{source}; {what}")
    for part, skip, _ in runs[:2]:
        put(part, skip, "roof_tokens_per_s", round(part.roof, 3), "token/s", "derived", source="cap / bytes", phase="decode")
        joules = energy.total(part.energy())
        for name, value in (("", joules.likely), ("_low", joules.low), ("_high", joules.high)):
            why = "per-event table, sim/timing/energy.py"
            put(part, skip, f"energy_per_token_j{name}", round(value, 4), "J", "estimated", source=why, phase="decode")
        put(part, skip, "kv_entries", part.kv_entries, "entry")
        put(part, skip, "memory_bytes", sum(part.regions.values()), "byte", "derived", source="compiled program")
    for pair in c.by_prompt.values():
        for part, skip in zip(pair, (0.0, c.skipped), strict=True):
            put(part, skip, "time_to_first_token_s", round(part.time_to_first_token, 5), "s", phase="prefill")
    for part, skip in zip(c.long, (0.0, c.skipped), strict=True):
        contexts, rates = part.rate_over_context(256)
        for context, value in zip(contexts, rates, strict=True):
            put(part, skip, f"decode_tokens_per_s_at_{context}", round(float(value), 3), "token/s", phase="decode")
    for row in decodings(c):
        if not row.own and row.kind == "published":
            keys = {"model": c.model, "skip": row.skipped, "system": row.name, "phase": "decode", "precision": row.weights}
            result.append(Record("decode_tokens_per_s", row.tokens_per_s, "token/s", "published", row.source, **keys))
            if row.share is not None:
                why = f"{row.source}: {row.formula}"
                result.append(Record("bandwidth_efficiency", row.share, "ratio", "published", why, **keys))
    for precision, skips, policy in c.missing():
        keys = {"model": c.model, "context": c.workload.context, "precision": precision, "kv": policy, "system": "GPU"}
        skip = round(c.skipped, 4) if skips else 0.0
        result.append(Record("decode_tokens_per_s", None, "token/s", "measured", "missing", skip=skip, phase="decode", **keys))
    return result
