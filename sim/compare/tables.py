"""The report's tables of rates, times and memory."""

from __future__ import annotations

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import PHYSICAL, RULE, RULE_NOTE, Decoding, percent, rate
from sim.compare.energy import joules_cell
from sim.compare.figures import Figures
from sim.compare.findings import clock_note, masks_note
from sim.estimate import prefill_products, workload_bytes
from skipopu.quantity import seconds, size
from skipopu.report import Cell, Record, Table, shown

ASIDE = ("to ours", "of peak, otherwise", "source")


def rate_cell(f: Figures, row: Decoding) -> Cell:
    """Tokens per second of a row, with the other end of a range."""
    of = row.part or row
    known = [f.find(of, name) for name in ("decode_tokens_per_s", "decode_tokens_per_s_high")]
    found = [record for record in known if record is not None]
    return shown(rate, *found) if found else rate(row.tokens_per_s, row.high)


def share_cell(f: Figures, row: Decoding) -> Cell:
    """Its share of the peak by the one rule."""
    record = f.find(row.part or row, "weight_share")
    return shown(lambda share: percent(share, row.share_high), record) if record else percent(row.share, row.share_high)


def decode_table(f: Figures) -> Table:
    c, rows = f.c, f.rows

    def to_ours(row: Decoding) -> Cell:
        ours = f.of(c.skipping if row.skipped else c.dense, "decode_tokens_per_s")
        return shown(lambda value: f"{row.tokens_per_s / value:.2f}x", ours)

    def otherwise(row: Decoding) -> Cell:
        return shown(f"{{:.1%}}: {PHYSICAL}", f.of(row.part, "bandwidth_efficiency")) if row.part else row.other

    cells = [
        [
            row.name,
            rate_cell(f, row),
            to_ours(row),
            f"{row.skipped:.0%}",
            row.weights,
            share_cell(f, row),
            otherwise(row),
            joules_cell(f, row.part) if row.part else row.joules,
            row.kind,
            row.source,
        ]
        for row in rows
    ]
    header = [
        "system",
        "tok/s",
        "to ours",
        "skipped",
        "weights",
        "of peak",
        "of peak, otherwise",
        "per token",
        "kind",
        "source",
    ]
    note = (
        f"Batch 1. {clock_note(c)} Ours is from the first to the last generated token. To ours: dense to our dense run, skipping to our"
        f" run with skipping. Of peak: {RULE} ({RULE_NOTE}); otherwise: by the formula that stands with it. Our joules are"
        " estimated, likely (least to largest); a GPU's are its board's power limit over its rate, so no more than that."
    )
    if c.masked:
        note += f" Rows with masked channels, whose weights are not read, stand beside ours without: {masks_note(c)}."
    own = tuple(k for k, row in enumerate(rows) if row.own)
    return Table(f"Decoding {c.model}, ours at [{c.workload.prompt}, {c.workload.new}]", header, cells, note, own, ASIDE)


def clock_table(f: Figures) -> Table:
    """The same run at lower clocks."""
    c = f.c
    rows = [
        [
            f"{clock:g} MHz",
            *(shown("{:.1f}", f.of(part, "decode_tokens_per_s")) for part in pair),
            *(seconds(part.time_to_first_token) for part in pair),
        ]
        for clock, pair in c.by_clock.items()
    ]
    header = [
        "clock",
        "tok/s, every module",
        f"tok/s, {c.skipped:.0%} skipped",
        "first token, every module",
        "first token, skipping",
    ]
    note = f"{clock_note(c)} The memory keeps its speed in seconds; a port's one beat per core cycle does not, so rates fall with the clock."
    return Table("What the assumed clock is worth", header, rows, note, (0,))


def first_token_table(f: Figures) -> Table:
    c = f.c
    header = ["time to first token", *(f"prompt {n}" for n in c.by_prompt), "kind"]
    rows: list[list[Cell]] = [
        [
            f"{c.machine.name}, {name}",
            *(shown(seconds, f.of(pair[k], "time_to_first_token_s")) for pair in c.by_prompt.values()),
            "simulated",
        ]
        for k, name in enumerate(("every module", f"{c.skipped:.0%} skipped"))
    ]
    for name, gpu in data.gpus().gpus.items():
        floors = [gpu.prefill_floor(sum(prefill_products(c.config, n))) for n in c.by_prompt]
        rows.append([f"{name}, at least", *map(seconds, floors), "derived"])
    note = (
        "Ours is at an assumed clock. A GPU's floor is 2 x products / FP16 tensor peak, every module executed; real stacks take"
        " longer, yet every GPU here is far ahead: a prompt is work for multipliers."
    )
    return Table("Time to first token", header, rows, note, (0, 1))


def memory_table(f: Figures) -> Table:
    c, part = f.c, f.c.skipping
    regions = part.regions
    entry = regions["kv"]
    layers = c.config.num_layers
    used = part.kv_entries / (layers * -(-(c.workload.prompt + c.workload.new) // c.machine.ports) * c.machine.ports)
    sizes: list[tuple[str, float | Record]] = [
        ("layers' weights and routers, INT4", regions["layers"]),
        ("head, INT4", regions["head"]),
        ("embedding, FP16", regions["embedding"]),
        (f"keys and values of {c.workload.prompt + c.workload.new} tokens, all layers", entry),
        ("of these written: executed attention only", entry * used),
        ("rotary rows, tokens, trace, program", sum(regions[n] for n in ("rope", "tokens", "trace", "ring", "program"))),
        ("all", f.of(part, "memory_bytes")),
        ("a GPU, INT4 weights and head, FP16 KV, formula", gpu_memory(c, "int4")),
        ("a GPU, FP16, formula", gpu_memory(c, "fp16")),
    ]
    rows = [[name, shown(size, of) if isinstance(of, Record) else size(of)] for name, of in sizes]
    return Table("Memory needed", ["", "size"], rows, "Bytes in all ports of the compiled program.", (6,))


def gpu_memory(c: Comparison, weights: str) -> float:
    """Weights, FP16 embedding and all keys and values of the workload."""
    tokens = c.workload.prompt + c.workload.new
    embedding = 0 if c.config.tie_word_embeddings and weights == "fp16" else 2 * c.config.hidden_size * c.config.vocab_size
    return workload_bytes(c.config, tokens, weights) + embedding


def measured_table(f: Figures) -> Table:
    """Records measured on GPUs, what is missing said."""
    c = f.c
    rows = [
        [
            figure.system,
            figure.precision,
            f"{figure.skip:.0%}" + (f", {figure.masked:.0%} of channels" if figure.masked is not None else ""),
            figure.kv or "",
            f"{figure.value:.1f}",
            figure.source,
        ]
        for figure in c.measured_figures("decode_tokens_per_s")
    ]
    for precision, skips, policy in c.missing():
        rows.append(["any GPU", precision, "same as ours" if skips else "0%", policy or "", "missing", ""])
    note = (
        f"Records of {c.model} at [{c.workload.prompt}, {c.workload.new}] from `sim/baselines/measured` and --measured. A missing"
        " one is a measurement that is not at hand, not a zero."
    )
    header = ["system", "weights", "skipped", "KV policy", "tok/s", "source"]
    return Table("Measured on GPUs with the same skipping", header, rows, note)


def others_table(f: Figures) -> Table:
    """FPGA systems as published, whatever the model."""
    rows = []
    for row in data.fpgas().rows:
        tokens = "" if row.tokens_per_s is None else rate(row.tokens_per_s, row.tokens_per_s_high)
        watt = "" if row.power_w is None else f"{row.power_w:g}"
        names = [row.system, row.device or "", row.model or "", row.format, tokens]
        rows.append([*names, percent(row.share, row.share_high), watt, row.source])
    header = ["system", "device", "model", "format", "tok/s", "of peak, its own", "W", "source"]
    note = "As published, each by its own formula; models, formats and devices differ, so rows are not comparable one by one."
    return Table("Other FPGA systems", header, rows, note)
