"""Tables, records and plot of the study ``kv``."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot

from compiler.frontend.shapes import outline
from sim.studies.kv import CONTEXTS, MAPPINGS, NEW, PROMPT, PUBLISHED, SHAPE, SIZES, SKIP, TARGET, TEXT, Study, Sweep
from skipopu.machine.memory import DDR4_2400, HBM2
from skipopu.report import Record

matplotlib.use("Agg")
Table = tuple[list[str], list[list[str]]]


def calibration_table(study: Study) -> Table:
    header = ["GB/s: published, formula, RTL memory", *(f"{size} B" for size in SIZES)]
    rows = [[name, *(f"{a:.2f}, {b:.2f}, {c:.2f}" for a, b, c in cells)] for name, cells in study.calibration.items()]
    rows.append(["all 32 channels", f"421.3, {32 * HBM2.cap:.1f}", "", "", "", ""])
    burst, cap = DDR4_2400.in_flight(512, 4) / DDR4_2400.peak, DDR4_2400.cap / DDR4_2400.peak
    rows.append(["DDR4-2400, 4 bursts in flight: share of peak", "", "", "", f"87.6 %, {burst:.1%}", ""])
    rows.append(["DDR4-2400, best published decoding: share of peak", "", "", "", f"93-94 %, at most {cap:.1%}", ""])
    return header, rows


def points_table(study: Study) -> Table:
    header = ["KV reads, GB/s, hits counted", "paper"]
    header += [f"{mapping}, {what}" for mapping in MAPPINGS for what in ("1016-1031", "whole", f"[{PROMPT}, {NEW}]")]
    header += ["hits", "nearest, and why"]
    rows = []
    for point in study.points:
        paper = PUBLISHED[point.name]
        cells = [f"{paper:.1f}"]
        for mapping in MAPPINGS:
            if point.here:
                here, run = point.here[mapping], point.run[mapping]
                cells += [f"{x:.1f} ({x / paper - 1:+.1%})" for x in (here.bandwidth, here.whole_bandwidth)]
                cells.append(f"{run.bandwidth:.1f}")
            else:
                cells += ["", "", ""]
        hits = f"{next(iter(point.here.values())).hit_rate:.1%}" if point.here else ""
        rows.append([point.name, *cells, hits, f"{point.nearest}: {point.why}" if point.nearest else point.why])
    return header, rows


def sweep_table(sweep: Sweep) -> Table:
    header = ["skipped, attended layers", *(f"{sweep.label} {n}" for n in sweep.at)]
    which = {1: "every layer", 2: "every second"}
    rows = [
        [f"{skip:.0%}, {which[stride]}", *(f"{x.hit_rate:.1%}, {x.bandwidth:.0f}" for x in line)]
        for (skip, stride), line in sweep.rows.items()
    ]
    return header, rows


def heads_table(study: Study) -> Table:
    header = ["KV heads x head size, queries per KV head", *(f"context {n}" for n in CONTEXTS)]
    rows = []
    for name, line in study.heads.items():
        c = outline(name).config
        cells = (f"{x.hit_rate:.1%}, {x.bandwidth:.0f}" for x in line)
        rows.append([f"{name}: {c.num_kv_heads} x {c.head_dim}, {c.queries_per_kv_head}", *cells])
    return header, rows


def traces_table(study: Study) -> Table:
    rows = [[t.name, f"{t.skipped:.1%}", f"{t.hit_rate:.1%}"] for t in study.traces]
    return ["routing", "attention skipped", "hits"], rows


def simulated_table(study: Study) -> Table:
    header = ["history buffer", "RTL cycles", "timing engine", "beats read", "beats spared", "hits", "fetched ahead"]
    rows = []
    for row in study.simulated:
        c, base = row.rtl, study.simulated[0].rtl
        error = row.timing["CYCLES"] / c["CYCLES"] - 1
        spared = base["READ_BEATS"] - c["READ_BEATS"]
        cells = (c["READ_BEATS"], spared, c["HISTORY_BEATS"], c["AHEAD_BEATS"])
        rows.append([row.name, f"{c['CYCLES']:,}", f"{error:+.1%}", *(f"{x:,}" for x in cells)])
    return header, rows


def storage_table(study: Study) -> Table:
    header = ["run", "attention executed", "entries allocated", "of all", "bytes", "in reserved pages"]
    rows = []
    for s in study.storage:
        cells = [f"{s.executed:,}", f"{s.allocated:,}", f"{s.allocated / s.pairs:.1%}", f"{s.allocated * s.entry:,}"]
        rows.append([s.name, *cells, f"{s.reserved:,} ({s.reserved / s.allocated - 1:+.1%})"])
    return header, rows


def decode_table(study: Study) -> Table:
    header = [f"{SHAPE} on {TARGET}, [{PROMPT}, {NEW}], 25 % skipped", "tokens per second"]
    return header, [[f"history buffer {name}", f"{rate:.1f}"] for name, rate in study.decode.items()]


def tables(study: Study) -> list[tuple[str, Table]]:
    """Title and cells of every table."""
    return [
        ("Memory model against published reads of one 512-bit master at 300 MHz", calibration_table(study)),
        (f"The paper's points: {SHAPE} on {TARGET}, 25 % skipped", points_table(study)),
        *((f"Hit rate, GB/s: {sweep.title}", sweep_table(sweep)) for sweep in study.sweeps),
        ("Hit rate, GB/s by the model's heads, 25 % skipped", heads_table(study)),
        ("Learned and random routing of the shipped model: hits of an unlimited history buffer", traces_table(study)),
        ("Shipped model on tiny, 48 bytes + 16 tokens, 25 % random skips", simulated_table(study)),
        ("Storage: allocated entries", storage_table(study)),
        ("Decoding at an assumed 225 MHz", decode_table(study)),
    ]


def records(study: Study, model: str) -> list[Record]:
    """Every figure of the tables."""
    result = []
    for pattern, cells in study.calibration.items():
        for size, (seen, formula, simulated) in zip(SIZES, cells, strict=True):
            name = f"bandwidth, {pattern}, {size} B"
            result.append(Record(name, seen, "GB/s", "published", "U280, one 512-bit master at 300 MHz"))
            result.append(Record(name, round(formula, 3), "GB/s", "derived", "skipopu.machine.memory.HBM2"))
            result.append(Record(name, round(simulated, 3), "GB/s", "simulated", "sim/rtl/axi_memory.sv"))
    keys = {"engine": "timing", "target": TARGET, "model": SHAPE, "phase": "decode", "skip": SKIP, "kv": "reuse"}
    for point in study.points:
        paper = {"phase": "decode", "system": "SkipOPU"}
        name = f"kv_bandwidth, {point.name}"
        result.append(Record(name, PUBLISHED[point.name], "GB/s", "published", "arXiv 2603.14785", **paper))
        for context, parts in (("1016-1031", point.here), (f"{PROMPT}+{NEW}", point.run)):
            for mapping, part in parts.items():
                for what, value in (("while attention works", part.bandwidth), ("whole instructions", part.whole_bandwidth)):
                    source = f"timing engine's formulas; {mapping}, {what}"
                    result.append(Record(name, round(value, 1), "GB/s", "simulated", source, context=context, **keys))
    for sweep in study.sweeps:
        for (skip, stride), line in sweep.rows.items():
            for n, part in zip(sweep.at, line, strict=True):
                context = str(n) if sweep.label == "context" else str(PROMPT + NEW)
                source = f"timing engine's formulas, {sweep.label} {n}, every {stride}. layer attended"
                more = keys | {"skip": skip, "context": context}
                result.append(Record("kv_hit_rate", round(part.hit_rate, 4), "ratio", "simulated", source, **more))
                result.append(Record("kv_bandwidth", round(part.bandwidth, 1), "GB/s", "simulated", source, **more))
    for name, line in study.heads.items():
        for n, part in zip(CONTEXTS, line, strict=True):
            more = keys | {"model": name, "context": str(n)}
            source = "timing engine's formulas"
            result.append(Record("kv_hit_rate", round(part.hit_rate, 4), "ratio", "simulated", source, **more))
            result.append(Record("kv_bandwidth", round(part.bandwidth, 1), "GB/s", "simulated", source, **more))
    for trace in study.traces:
        source = f"{trace.name}, {TEXT} bytes of held-out text"
        more = {"model": model, "skip": round(trace.skipped, 4)}
        result.append(Record("kv_hit_rate", round(trace.hit_rate, 4), "ratio", "simulated", source, **more))
    for row in study.simulated:
        for engine, counters in (("rtl", row.rtl), ("timing", row.timing)):
            for name in ("CYCLES", "READ_BEATS", "HISTORY_BEATS", "AHEAD_BEATS"):
                unit, source = "cycle" if name == "CYCLES" else "beat", f"history buffer {row.name}"
                more = {"engine": engine, "target": "tiny", "model": model, "skip": SKIP}
                result.append(Record(name.lower(), counters[name], unit, "simulated", source, **more))
    for s in study.storage:
        for name, value in (
            ("kv_entries", s.allocated),
            ("attention_executed", s.executed),
            ("kv_entries_reserved", s.reserved),
        ):
            result.append(Record(name, value, "entry", "simulated", s.name, skip=SKIP))
        result.append(Record("kv_bytes", s.allocated * s.entry, "byte", "simulated", s.name, skip=SKIP))
    for name, rate in study.decode.items():
        more = keys | {"context": f"{PROMPT}+{NEW}"}
        source = f"history buffer {name}, assumed 225 MHz"
        result.append(Record("decode_tokens_per_s", round(rate, 2), "token/s", "simulated", source, **more))
    return result


def plot(study: Study, path: Path) -> None:
    """Hit rate and bandwidth against context and capacity; learned against random routing."""
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for row, sweep in zip(axes, study.sweeps, strict=True):
        for (skip, stride), line in sweep.rows.items():
            style = {"color": pyplot.get_cmap("viridis")(skip / 0.7), "linestyle": "-" if stride == 1 else ":", "marker": "."}
            label = f"{skip:.0%} skipped" if stride == 1 else None
            row[0].plot(sweep.at, [100 * x.hit_rate for x in line], label=label, **style)
            row[1].plot(sweep.at, [x.bandwidth for x in line], label=label, **style)
        row[0].set_ylabel("hits, %")
        row[1].set_ylabel("KV reads, GB/s, hits counted")
        row[1].axhline(study.machine.ports * HBM2.cap, color="grey", linewidth=0.8, linestyle="--")
        for axis in row[:2]:
            axis.set(xlabel=sweep.label, title=sweep.title)
            if sweep.label == "context":
                axis.set_xscale("log", base=2)
                axis.set_xticks(sweep.at, map(str, sweep.at))
        handles, labels = row[0].get_legend_handles_labels()
        title = "solid: every layer, dotted: every second"
        row[0].legend(
            handles, labels, fontsize=8, title=title, title_fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=4
        )
    names = [t.name for t in study.traces]
    axes[0, 2].barh(names, [100 * t.hit_rate for t in study.traces])
    axes[0, 2].set(xlabel="hits, %", title="shipped model's routing of held-out text")
    shown = [p for p in study.points if p.here]
    for k, mapping in enumerate(MAPPINGS):
        at = [n + 0.2 - 0.4 * k for n in range(len(shown))]
        axes[1, 2].barh(
            at, [p.here[mapping].bandwidth for p in shown], height=0.36, label=f"here, {mapping}, context 1016-1031"
        )
    axes[1, 2].set_yticks(range(len(shown)), [p.name.replace(", ", ",\n", 1) for p in shown])
    axes[1, 2].plot([PUBLISHED[p.name] for p in shown], range(len(shown)), "k|", markersize=30, label="paper")
    axes[1, 2].set(xlabel="GB/s, hits counted", title="the paper's points", xlim=(0, 500))
    axes[1, 2].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.19), markerscale=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
