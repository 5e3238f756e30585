"""The report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.baselines import data
from sim.compare.comparison import PAPER_MODELS, PAPER_TARGET, Comparison
from sim.compare.decoding import PHYSICAL, decodings, percent, rate
from sim.estimate import kv_bytes, prefill_products, workload_bytes
from sim.timing import energy
from skipopu.report import unit_of

PAPER_BYTES = "W4 with zero points + FP16 KV at the mean context, less the skip ratio of both"
PAPER_FORMULA = f"({PAPER_BYTES}) x tok/s / peak"


@dataclass(frozen=True)
class Table:
    """``own`` are numbers of the rows about this machine."""

    title: str
    note: str
    header: Sequence[str]
    rows: list[list[str]]
    own: tuple[int, ...] = ()


def decode_table(c: Comparison) -> Table:
    rows = decodings(c)
    ours = c.skipping.tokens_per_s
    cells = [
        [
            row.name,
            rate(row.tokens_per_s, row.high),
            f"{row.tokens_per_s / ours:.2f}x",
            f"{row.skipped:.0%}",
            row.weights,
            percent(row.share, row.share_high),
            row.joules,
            row.kind,
            row.formula,
            row.source,
        ]
        for row in rows
    ]
    header = ["system", "tok/s", "to ours", "skipped", "weights", "of peak bandwidth", "J/token", "kind", "formula", "source"]
    note = (
        "Batch 1. Ours is from the first to the last generated token; its joules are estimated, likely (least to largest). A"
        " GPU's joules are its board's power limit over its rate, so no more than that."
    )
    own = tuple(k for k, row in enumerate(rows) if row.own)
    return Table(f"Decoding {c.model}, ours at [{c.workload.prompt}, {c.workload.new}]", note, header, cells, own)


def roof_table(c: Comparison) -> Table:
    """Where the asked-for run stands under its roofs."""
    part, peak, cap = c.skipping, c.machine.peak_bandwidth, c.machine.bandwidth_cap
    papers = c.formula_bytes("int4 with zero points", c.ratio)
    per, byte = unit_of(part.bytes_per_token, "B", "G")
    rows = [
        ["tokens per second, simulated", f"{part.tokens_per_s:.1f}", f"{part.bytes_per_token / per:.3f}", ""],
        ["roof: these bytes at the memory's cap", f"{part.roof:.1f}", f"{part.bytes_per_token / per:.3f}", "cap / bytes"],
        ["roof: the paper's bytes at the cap", f"{cap / papers:.1f}", f"{papers / per:.3f}", f"cap / ({PAPER_BYTES})"],
    ]
    if c.two_layer is not None:
        two = c.two_layer
        rows.append(
            [
                "with two-layer routers",
                f"{two.tokens_per_s:.1f}",
                f"{two.bytes_per_token / per:.3f}",
                "hidden layer of d/4 each",
            ]
        )
    rest = c.dense_kv
    rows.append(
        ["K and V of every token computed", f"{rest.tokens_per_s:.1f}", f"{rest.bytes_per_token / per:.3f}", "dense policy"]
    )
    rows += [
        ["share of the cap, physical bytes", percent(part.share_of_cap), "", "bytes x tok/s / cap"],
        ["share of the peak, physical bytes", percent(part.efficiency), "", PHYSICAL],
        ["share of the peak, the paper's bytes", percent(papers * part.tokens_per_s / peak), "", PAPER_FORMULA],
    ]
    note = (
        f"{c.machine.name}: peak {peak / 1e9:.1f} GB/s, cap of endless reads {cap / 1e9:.1f} GB/s"
        f" ({cap / peak:.1%}). Nothing can be above the cap."
    )
    return Table(f"Roofs of {c.machine.name}", note, ["", "value", f"{byte}/token", "formula"], rows, (0,))


def gpu_roof_table(c: Comparison) -> Table:
    """What memory bandwidth allows each system on the same bytes."""
    dense, skipping, half = c.formula_bytes("int4", 0), c.formula_bytes("int4", c.ratio), c.formula_bytes("fp16", 0)
    rows = []
    systems = [(name, gpu.peak_gb_s * 1e9) for name, gpu in data.gpus().gpus.items()]
    for name, peak in [(c.machine.name, c.machine.peak_bandwidth), *systems]:
        shares = [row.share_high or row.share for row in data.gpus().rows if row.gpu == name and row.precision == "int4"]
        best = c.skipping.efficiency if name == c.machine.name else max(shares, default=0.0)
        rows.append(
            [
                name,
                f"{peak / 1e9:.0f}",
                f"{peak / half:.0f}",
                f"{peak / dense:.0f}",
                f"{peak / skipping:.0f}",
                percent(best) if best else "",
                f"{best * peak / skipping:.0f}" if best else "",
            ]
        )
    header = [
        "system",
        "peak GB/s",
        "FP16 dense",
        "INT4 dense",
        f"INT4, {c.ratio:.0%} skipped",
        "best INT4 share",
        "at that share",
    ]
    note = (
        f"Tokens per second if nothing but the peak bandwidth limited: layers' weights, head and FP16 keys and values at context"
        f" {c.workload.mean_context}; INT4 is 4.125 bits (groups of 128 with an FP16 scale). The last column is what a GPU would"
        " reach if it skipped as freely as it reads dense weights, at the best share published for it with any model and INT4:"
        " no measurement of that is at hand."
    )
    return Table("The same bytes on every memory: rooflines", note, header, rows, (0,))


def first_token_table(c: Comparison) -> Table:
    per, second = unit_of(max((pair[0].time_to_first_token for pair in c.by_prompt.values()), default=1.0), "s")
    header = [f"time to first token, {second}", *(f"prompt {n}" for n in c.by_prompt), "kind"]
    rows = [
        [
            f"{c.machine.name}, {name}",
            *(f"{pair[k].time_to_first_token / per:.3f}" for pair in c.by_prompt.values()),
            "simulated",
        ]
        for k, name in enumerate(("every module", f"{c.skipped:.0%} skipped"))
    ]
    for name, gpu in data.gpus().gpus.items():
        floors = [gpu.prefill_floor(sum(prefill_products(c.config, n))) for n in c.by_prompt]
        rows.append([f"{name}, at least", *(f"{value / per:.4f}" for value in floors), "derived"])
    note = (
        "Ours is at an assumed clock. A GPU's floor is 2 x products / FP16 tensor peak, every module executed; real stacks take"
        " longer, yet every GPU here is far ahead: a prompt is work for multipliers."
    )
    return Table("Time to first token", note, header, rows, (0, 1))


def memory_table(c: Comparison) -> Table:
    part = c.skipping
    regions = part.regions
    entry = regions["kv"]
    layers = c.config.num_layers
    used = part.kv_entries / (layers * -(-(c.workload.prompt + c.workload.new) // c.machine.ports) * c.machine.ports)
    per, byte = unit_of(sum(regions.values()), "B", "G")
    rows = [
        ["layers' weights and routers, INT4", f"{regions['layers'] / per:.3f}"],
        ["head, INT4", f"{regions['head'] / per:.3f}"],
        ["embedding, FP16", f"{regions['embedding'] / per:.3f}"],
        [f"keys and values of {c.workload.prompt + c.workload.new} tokens, all layers", f"{entry / per:.3f}"],
        ["of these written: executed attention only", f"{entry * used / per:.3f}"],
        [
            "rotary rows, tokens, trace, program",
            f"{sum(regions[n] for n in ('rope', 'tokens', 'trace', 'ring', 'program')) / per:.3f}",
        ],
        ["all", f"{sum(regions.values()) / per:.3f}"],
        ["a GPU, INT4 weights and head, FP16 KV, formula", f"{gpu_memory(c, 'int4') / per:.3f}"],
        ["a GPU, FP16, formula", f"{gpu_memory(c, 'fp16') / per:.3f}"],
    ]
    return Table("Memory needed", "Bytes in all ports of the compiled program.", ["", byte], rows, (6,))


def gpu_memory(c: Comparison, weights: str) -> float:
    """Weights, FP16 embedding and all keys and values of the workload."""
    tokens = c.workload.prompt + c.workload.new
    embedding = 0 if c.config.tie_word_embeddings and weights == "fp16" else 2 * c.config.hidden_size * c.config.vocab_size
    return workload_bytes(c.config, tokens, weights) + embedding


def paper_table(c: Comparison) -> Table:
    """The paper's rows beside ours with its parameters, and the terms between them."""
    paper = data.fpgas().paper
    first = c.paper[PAPER_MODELS[0]]
    rows = [
        [
            f"{PAPER_MODELS[0]}: tokens per second",
            f"{paper.tokens_per_s:.1f}",
            f"{first.tokens_per_s:.1f}",
            f"{first.tokens_per_s / paper.tokens_per_s - 1:+.1%}",
        ]
    ]
    for name, part in c.paper.items():
        size = workload_bytes(part.config, part.workload.mean_context, paper.weights, paper.skip)
        share = size * part.tokens_per_s / (paper.peak_gb_s * 1e9)
        said = paper.efficiency[name]
        rows.append([f"{name}: bandwidth efficiency", f"{said:.1%}", f"{share:.1%}", f"{share / said - 1:+.1%}"])
    saved = 1 - first.kv_entries / (first.config.num_layers * (first.workload.prompt + first.workload.new - 1))
    rows.append(["KV storage saved, at most", f"{paper.kv_saved:.1%}", f"{saved:.1%}", f"{saved / paper.kv_saved - 1:+.1%}"])
    note = (
        f"Target {PAPER_TARGET}: the paper's clocks, array, history buffer and routing ratio, and channels as fast as it measured"
        f" its dense reads, {paper.dense_read_gb_s} GB/s; nothing else is taken from its rows. Efficiency by the paper's bytes:"
        f" {PAPER_FORMULA}. The models differ in no parameter but their shapes. Layer 0's attention is always executed and counted."
        " Its KV bandwidth points and prefill speed-ups: see the pages on keys and values and on the fused dataflow."
    )
    return Table(f"The paper's rows, {paper.source}, [128, 1024]", note, ["", "published", "simulated", "off by"], rows)


def terms_table(c: Comparison) -> Table:
    """From the paper's bytes to this machine's, one difference at a time, GB per token."""
    first = c.paper[PAPER_MODELS[0]]
    context, config, paper = first.workload.mean_context, first.config, data.fpgas().paper
    zero = workload_bytes(config, context, "int4 with zero points", paper.skip)
    without = workload_bytes(config, context, "int4", paper.skip)
    kv_width = kv_bytes(config)
    attended = first.attention * config.num_layers
    read = first.decode["READ_BEATS"] * first.machine.beat_bytes / (len(first.cycles) - 1)
    written = first.decode["WRITE_BEATS"] * first.machine.beat_bytes / (len(first.cycles) - 1)
    hits = first.decode["HISTORY_BEATS"] * first.machine.beat_bytes / (len(first.cycles) - 1)
    kv_formula = config.num_layers * kv_width * context * (1 - paper.skip)
    kv_here = attended * kv_width * context
    weights = without - kv_formula
    rows = [
        ["the paper's bytes", f"{zero / 1e9:.4f}"],
        ["no zero points: 4.125 instead of 4.156 bits per weight", f"{(without - zero) / 1e9:+.4f}"],
        ["attention executed in layer 0 and by this trace, keys and values", f"{(kv_here - kv_formula) / 1e9:+.4f}"],
        ["hits of the history buffer", f"{-hits / 1e9:+.4f}"],
        ["entries and tokens written", f"{written / 1e9:+.4f}"],
        [
            "routers, scales, headers, embedding, rounding of the trace: the rest",
            f"{(read + written - (weights + kv_here - hits + written)) / 1e9:+.4f}",
        ],
        [f"bytes on {PAPER_TARGET}", f"{(read + written) / 1e9:.4f}"],
    ]
    note = (
        f"Then {paper.dense_read_gb_s} GB/s over these bytes is {paper.dense_read_gb_s * 1e9 / (read + written):.1f} tokens per"
        f" second; {first.tokens_per_s:.1f} are simulated: the rest is layers' borders, where no weights can be asked for until the"
        " routers decided, and ports that wait for the fullest one."
    )
    return Table("Term by term: bytes per token, GB", note, ["", "GB/token"], rows)


def energy_table(c: Comparison) -> Table:
    """Estimated energy of decoding, by event."""
    rows = []
    totals = [energy.total(part.energy()) for part in (c.dense, c.skipping)]
    per_joule, joule = unit_of(totals[0].likely, "J", "m")
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
                f"{dense.joules.likely / per_joule:.1f}",
                f"{skipping.joules.likely / per_joule:.1f}",
                event.source,
            ]
        )
    rows.append(
        [
            "all",
            "",
            "",
            *(f"{t.likely / per_joule:.0f} ({t.low / per_joule:.0f} to {t.high / per_joule:.0f})" for t in totals),
            "",
        ]
    )
    watts = [t.likely * part.tokens_per_s for t, part in zip(totals, (c.dense, c.skipping), strict=True)]
    rows.append(["power, W", "", "", *(f"{w:.0f}" if w >= 10 else f"{w:.2g}" for w in watts), ""])
    header = ["event", "energy", "per token, skipping", f"{joule}, every module", f"{joule}, {c.skipped:.0%} skipped", "source"]
    note = (
        "Estimated: counts of the timing engine times typical energies of 16 nm devices, each a range, not looked up again; no board was measured."
        " For scale, published powers of other decoders on such cards: FlightLLM on a U280 45 W, EdgeLLM on a VCU128 56.8 W."
    )
    return Table("Energy per decoded token, estimated", note, header, rows, (len(rows) - 2,))


def measured_table(c: Comparison) -> Table:
    """Records measured on GPUs, what is missing said."""
    rows = [
        [figure.system, figure.precision, f"{figure.skip:.0%}", figure.kv or "", f"{figure.value:.1f}", figure.source]
        for figure in c.measured_figures("decode_tokens_per_s")
    ]
    for precision, skips, policy in c.missing():
        rows.append(["any GPU", precision, "same as ours" if skips else "0%", policy or "", "missing", ""])
    note = (
        f"Records of {c.model} at [{c.workload.prompt}, {c.workload.new}] from `sim/baselines/measured` and --measured. A missing"
        " one is a measurement that is not at hand, not a zero."
    )
    header = ["system", "weights", "skipped", "KV policy", "tok/s", "source"]
    return Table("Measured on GPUs with the same skipping", note, header, rows)


def others_table(c: Comparison) -> Table:
    """FPGA systems as published, whatever the model."""
    rows = []
    for row in data.fpgas().rows:
        tokens = "" if row.tokens_per_s is None else rate(row.tokens_per_s, row.tokens_per_s_high)
        watt = "" if row.power_w is None else f"{row.power_w:g}"
        names = [row.system, row.device or "", row.model or "", row.format, tokens]
        rows.append([*names, percent(row.share, row.share_high), watt, row.source])
    header = ["system", "device", "model", "format", "tok/s", "of peak bandwidth", "W", "source"]
    note = "As published, each by its own formula; models, formats and devices differ, so rows are not comparable one by one."
    return Table("Other FPGA systems", note, header, rows)


def tables(c: Comparison) -> list[Table]:
    """All of the report's, in its order."""
    makers = (
        decode_table,
        roof_table,
        gpu_roof_table,
        measured_table,
        first_token_table,
        energy_table,
        memory_table,
        paper_table,
        terms_table,
        others_table,
    )
    return [make(c) for make in makers]
