"""What a comparison says in plain sentences, and its figures as records."""

from __future__ import annotations

from collections.abc import Sequence

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import PHYSICAL, RULE, RULE_NOTE, Decoding, decodings, percent, rate, span
from sim.estimate import WEIGHT_BITS, Estimate, prefill_products
from sim.timing import energy
from skipopu.quantity import quantity
from skipopu.report import Record

AS_WRITTEN = "100 to 125 MHz"  # what a delay model of the generated design gave, see docs/pe-array.md


def significant(value: float) -> float:
    """Rounded to five digits, whatever its size."""
    return float(f"{value:.5g}")


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
        said += (
            " No clock of an UltraScale+ device was closed: a delay estimate (cell and wire delays from memory) puts the design as"
            f" written at {AS_WRITTEN}; at {slowest:g} MHz the same run gives {pair[1].tokens_per_s:.1f} tokens per second."
        )
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
    own = [row for row in rows if row.own]
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
    runs += [
        (part, skip, f"at {clock:g} MHz")
        for clock, pair in list(c.by_clock.items())[1:]
        for part, skip in zip(pair, (0.0, c.skipped), strict=True)
    ]
    runs += [(part, ratio, "by skip ratio") for by in c.by_skip.values() for ratio, part in by.items()]
    runs += [(part, data.fpgas().paper.skip, "the paper's parameters") for part in c.paper.values()]
    for part, skip, what in runs:
        note = f"timing engine, {part.machine.clock_mhz:g} MHz assumed; {what}"
        put(part, skip, "decode_tokens_per_s", round(part.tokens_per_s, 3), "token/s", phase="decode", source=note)
        note = f"{PHYSICAL}; {what}"
        put(part, skip, "bandwidth_efficiency", round(part.efficiency, 5), "ratio", "derived", phase="decode", source=note)
        note = f"bytes x tok/s / cap; {what}"
        put(part, skip, "share_of_cap", round(part.share_of_cap, 5), "ratio", "derived", phase="decode", source=note)
        put(part, skip, "bytes_per_token", round(part.bytes_per_token), "byte", phase="decode", source=f"timing engine; {what}")
    for part, skip, _ in runs[:2]:
        share = c.weight_share(part.tokens_per_s, c.machine.peak_bandwidth, WEIGHT_BITS["int4"], skipped=skip)
        put(part, skip, "weight_share", round(share, 5), "ratio", "derived", source=f"{RULE}; {RULE_NOTE}", phase="decode")
        put(part, skip, "roof_tokens_per_s", round(part.roof, 3), "token/s", "derived", source="cap / bytes", phase="decode")
        joules = energy.total(part.energy())
        for name, value in (("", joules.likely), ("_low", joules.low), ("_high", joules.high)):
            why = "per-event table, sim/timing/energy.py"
            put(part, skip, f"energy_per_token_j{name}", significant(value), "J", "estimated", source=why, phase="decode")
        rest = energy.share_at_rest(part.energy())
        for name, value in (("", rest.likely), ("_low", rest.low), ("_high", rest.high)):
            put(part, skip, f"energy_share_at_rest{name}", significant(value), "ratio", "estimated", phase="decode")
        each = part.machine.beat_bytes / (len(part.cycles) - 1)
        hits, ahead = (part.decode[name] * each for name in ("HISTORY_BEATS", "AHEAD_BEATS"))
        for what, value in (("hits", hits), ("net of what is read ahead of use", hits - ahead)):
            put(part, skip, "history_bytes_per_token", round(value), "byte", source=f"timing engine; {what}", phase="decode")
        put(part, skip, "kv_entries", part.kv_entries, "entry")
        put(part, skip, "memory_bytes", sum(part.regions.values()), "byte", "derived", source="compiled program")
    for pair in c.by_prompt.values():
        for part, skip in zip(pair, (0.0, c.skipped), strict=True):
            put(part, skip, "time_to_first_token_s", significant(part.time_to_first_token), "s", phase="prefill")
    for part, skip in zip(c.long or (), (0.0, c.skipped), strict=c.long is not None):
        contexts, rates = part.rate_over_context(256)
        for context, value in zip(contexts, rates, strict=True):
            put(part, skip, f"decode_tokens_per_s_at_{context}", round(float(value), 3), "token/s", phase="decode")
    for row in decodings(c):
        if not row.own and row.kind == "published":
            keys = {"model": c.model, "skip": row.skipped, "system": row.name, "phase": "decode", "precision": row.weights}
            result.append(Record("decode_tokens_per_s", row.tokens_per_s, "token/s", "published", row.source, **keys))
            if row.share is not None:
                why = f"{RULE}, from the published rate; {row.source}"
                result.append(Record("weight_share", round(row.share, 5), "ratio", "derived", why, **keys))
            if row.high is not None:
                result.append(Record("decode_tokens_per_s_high", row.high, "token/s", "published", row.source, **keys))
    for precision, skips, policy in c.missing():
        keys = {"model": c.model, "context": c.workload.context, "precision": precision, "kv": policy, "system": "GPU"}
        skip = round(c.skipped, 4) if skips else 0.0
        result.append(Record("decode_tokens_per_s", None, "token/s", "measured", "missing", skip=skip, phase="decode", **keys))
    return result
