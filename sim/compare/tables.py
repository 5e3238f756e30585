"""The report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.baselines import data
from sim.compare.comparison import PAPER_MODELS, PAPER_TARGET, Comparison
from sim.compare.decoding import PHYSICAL, RULE, RULE_NOTE, decodings, percent, rate, span
from sim.compare.findings import clock_note
from sim.estimate import WEIGHT_BITS, kv_bytes, prefill_products, weight_bytes, workload_bytes
from sim.timing import energy
from skipopu.quantity import quantity
from skipopu.shapes import shape

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
    cells = [
        [
            row.name,
            rate(row.tokens_per_s, row.high),
            f"{row.tokens_per_s / (c.skipping if row.skipped else c.dense).tokens_per_s:.2f}x",
            f"{row.skipped:.0%}",
            row.weights,
            percent(row.share, row.share_high),
            row.other,
            row.joules,
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
    own = tuple(k for k, row in enumerate(rows) if row.own)
    return Table(f"Decoding {c.model}, ours at [{c.workload.prompt}, {c.workload.new}]", note, header, cells, own)


def clock_table(c: Comparison) -> Table:
    """The same run at lower clocks."""
    rows = [
        [
            f"{clock:g} MHz",
            *(f"{part.tokens_per_s:.1f}" for part in pair),
            *(quantity(part.time_to_first_token, "s") for part in pair),
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
    return Table("What the assumed clock is worth", note, header, rows, (0,))


def roof_table(c: Comparison) -> Table:
    """Where the asked-for run stands under its roofs."""
    part, peak, cap = c.skipping, c.machine.peak_bandwidth, c.machine.bandwidth_cap
    papers = c.formula_bytes("int4 with zero points", c.ratio)
    rows = [
        ["tokens per second, simulated", f"{part.tokens_per_s:.1f}", quantity(part.bytes_per_token, "B", 4), ""],
        ["roof: these bytes at the memory's cap", f"{part.roof:.1f}", quantity(part.bytes_per_token, "B", 4), "cap / bytes"],
        ["roof: the paper's bytes at the cap", f"{cap / papers:.1f}", quantity(papers, "B", 4), f"cap / ({PAPER_BYTES})"],
    ]
    for what, other, how in (
        ("with two-layer routers", c.two_layer, "hidden layer of d/4 each"),
        ("K and V of every token computed", c.dense_kv, "dense policy"),
    ):
        if other is not None:
            rows.append([what, f"{other.tokens_per_s:.1f}", quantity(other.bytes_per_token, "B", 4), how])
    weights = c.weight_share(part.tokens_per_s, peak, WEIGHT_BITS["int4"], skipped=c.skipped)
    rows += [
        ["share of the peak, weights alone", percent(weights), "", RULE],
        ["share of the cap, physical bytes", percent(part.share_of_cap), "", "bytes x tok/s / cap"],
        ["share of the peak, physical bytes", percent(part.efficiency), "", PHYSICAL],
        ["share of the peak, the paper's bytes", percent(papers * part.tokens_per_s / peak), "", PAPER_FORMULA],
    ]
    note = (
        f"{c.machine.name}: peak {quantity(peak, 'B/s', 4)}, cap of endless reads {quantity(cap, 'B/s', 4)}"
        f" ({cap / peak:.1%}). Nothing can be above the cap."
    )
    return Table(f"Roofs of {c.machine.name}", note, ["", "value", "per token", "formula"], rows, (0,))


def best_share(gpu: str) -> float:
    """The best share of the peak, by RULE, of a GPU's published INT4 rates; 0 where there is none."""
    peak = data.gpus().gpus[gpu].peak_gb_s * 1e9
    return max(
        (
            weight_bytes(shape(row.model), row.bits, row.head_bits) * (row.tokens_per_s_high or row.tokens_per_s) / peak
            for row in data.gpus().rows
            if row.gpu == gpu and row.precision == "int4" and row.bits
        ),
        default=0.0,
    )


def gpu_roof_table(c: Comparison) -> Table:
    """What memory bandwidth allows each system on the same bytes."""
    dense, skipping, half = c.formula_bytes("int4", 0), c.formula_bytes("int4", c.ratio), c.formula_bytes("fp16", 0)
    rows = []
    systems = [(name, gpu.peak_gb_s * 1e9) for name, gpu in data.gpus().gpus.items()]
    for name, peak in [(c.machine.name, c.machine.peak_bandwidth), *systems]:
        best = c.skipping.efficiency if name == c.machine.name else best_share(name)
        rows.append(
            [
                name,
                quantity(peak, "B/s"),
                f"{peak / half:.0f}",
                f"{peak / dense:.0f}",
                f"{peak / skipping:.0f}",
                percent(best) if best else "",
                f"{best * peak / skipping:.0f}" if best else "",
            ]
        )
    header = [
        "system",
        "peak",
        "FP16 dense",
        "INT4 dense",
        f"INT4, {c.ratio:.0%} skipped",
        "best INT4 share",
        "at that share",
    ]
    note = (
        "Tokens per second if nothing but the peak bandwidth limited: layers' weights, head and FP16 keys and values at context"
        f" {c.workload.mean_context}; INT4 is 4.125 bits (groups of 128 with an FP16 scale). The last column is what a GPU would"
        f" reach if it skipped as freely as it reads dense weights, at the best share ({RULE}) of any INT4 rate published for it: no"
        f" measurement of that is at hand. Ours is {PHYSICAL}."
    )
    return Table("The same bytes on every memory: rooflines", note, header, rows, (0,))


def first_token_table(c: Comparison) -> Table:
    header = ["time to first token", *(f"prompt {n}" for n in c.by_prompt), "kind"]
    rows = [
        [
            f"{c.machine.name}, {name}",
            *(quantity(pair[k].time_to_first_token, "s") for pair in c.by_prompt.values()),
            "simulated",
        ]
        for k, name in enumerate(("every module", f"{c.skipped:.0%} skipped"))
    ]
    for name, gpu in data.gpus().gpus.items():
        floors = [gpu.prefill_floor(sum(prefill_products(c.config, n))) for n in c.by_prompt]
        rows.append([f"{name}, at least", *(quantity(value, "s") for value in floors), "derived"])
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
    sizes: list[tuple[str, float]] = [
        ("layers' weights and routers, INT4", regions["layers"]),
        ("head, INT4", regions["head"]),
        ("embedding, FP16", regions["embedding"]),
        (f"keys and values of {c.workload.prompt + c.workload.new} tokens, all layers", entry),
        ("of these written: executed attention only", entry * used),
        ("rotary rows, tokens, trace, program", sum(regions[n] for n in ("rope", "tokens", "trace", "ring", "program"))),
        ("all", sum(regions.values())),
        ("a GPU, INT4 weights and head, FP16 KV, formula", gpu_memory(c, "int4")),
        ("a GPU, FP16, formula", gpu_memory(c, "fp16")),
    ]
    rows = [[name, quantity(size, "B", 4)] for name, size in sizes]
    return Table("Memory needed", "Bytes in all ports of the compiled program.", ["", "size"], rows, (6,))


def gpu_memory(c: Comparison, weights: str) -> float:
    """Weights, FP16 embedding and all keys and values of the workload."""
    tokens = c.workload.prompt + c.workload.new
    embedding = 0 if c.config.tie_word_embeddings and weights == "fp16" else 2 * c.config.hidden_size * c.config.vocab_size
    return workload_bytes(c.config, tokens, weights) + embedding


def paper_table(c: Comparison) -> Table:
    """The paper's rows beside ours with its parameters, and the terms between them."""
    paper = data.fpgas().paper
    first = c.paper[PAPER_MODELS[0]]
    rows = []
    for name, part in c.paper.items():
        said = paper.tokens_per_s[name]
        off = f"{part.tokens_per_s / said - 1:+.1%}"
        rows.append([f"{name}: tokens per second", f"{said:.1f}", f"{part.tokens_per_s:.1f}", off])
        size = workload_bytes(part.config, part.workload.mean_context, paper.weights, paper.skip)
        share, said = size * part.tokens_per_s / (paper.peak_gb_s * 1e9), paper.efficiency[name]
        rows.append([f"{name}: bandwidth efficiency", f"{said:.1%}", f"{share:.1%}", f"{share / said - 1:+.1%}"])
    saved = 1 - first.kv_entries / (first.config.num_layers * (first.workload.prompt + first.workload.new - 1))
    rows.append(["KV storage saved, at most", f"{paper.kv_saved:.1%}", f"{saved:.1%}", f"{saved / paper.kv_saved - 1:+.1%}"])
    note = (
        f"Close to circular: target {PAPER_TARGET} is given the {paper.dense_read_gb_s} GB/s that the paper measured for its dense reads,"
        f" {paper.dense_read_gb_s / paper.peak_gb_s:.1%} of the peak, and decoding is bound by memory. What these rows show is that the"
        " bytes and what is lost between layers are alike, not that a bandwidth was predicted. Clocks, array, history buffer and routing"
        f" ratio are the paper's too. Efficiency by the paper's bytes: {PAPER_FORMULA}. The models differ in no parameter but their"
        " shapes. Layer 0's attention is always executed and counted. The paper's KV bandwidth points and prefill speed-ups: see the"
        " pages on keys and values and on the fused dataflow."
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
    ahead = first.decode["AHEAD_BEATS"] * first.machine.beat_bytes / (len(first.cycles) - 1)
    kv_formula = config.num_layers * kv_width * context * (1 - paper.skip)
    kv_here = attended * kv_width * context
    weights = without - kv_formula
    rows = [
        ["the paper's bytes", f"{zero / 1e9:.4f}"],
        ["no zero points: 4.125 instead of 4.156 bits per weight", f"{(without - zero) / 1e9:+.4f}"],
        ["attention executed in layer 0 and by this trace, keys and values", f"{(kv_here - kv_formula) / 1e9:+.4f}"],
        ["hits of the history buffer", f"{-hits / 1e9:+.4f}"],
        [f"read into it ahead of use: hits spare {(hits - ahead) / 1e9:.4f} net", f"{ahead / 1e9:+.4f}"],
        ["entries and tokens written", f"{written / 1e9:+.4f}"],
        [
            "routers, scales, headers, embedding, rounding of the trace: the rest",
            f"{(read + written - (weights + kv_here - hits + ahead + written)) / 1e9:+.4f}",
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
        ["all", "", "", *(span(total) for total in totals), "likely (all lines at their least to all at their largest)"]
    )
    rest = [energy.share_at_rest(parts) for parts in both]
    rows.append(["at rest, of all", "", "", *(f"{r.likely:.0%} ({r.low:.0%} to {r.high:.0%})" for r in rest), ""])
    watts = [total * part.tokens_per_s for total, part in zip(totals, (c.dense, c.skipping), strict=True)]
    rows.append(["power", "", "", *(f"{w.likely:.3g} W ({w.low:.3g} to {w.high:.3g})" for w in watts), ""])
    header = ["event", "energy", "per token, skipping", "every module", f"{c.skipped:.0%} skipped", "source"]
    note = (
        "Estimated: counts of the timing engine times energies, each a range; no board was measured. Two lines have a source, the others"
        " are guesses and say so. The largest line is the card at rest, whatever it computes: it is paid for as long as a token takes,"
        " so a slower clock raises it. For scale, published powers of other decoders on such cards: FlightLLM on a U280 45 W, EdgeLLM"
        " on a VCU128 56.8 W; a 7B model in FP16 on GPUs takes 3 to 5.5 J per token (from compilations, not looked up again)."
    )
    return Table("Energy per decoded token, estimated", note, header, rows, (len(rows) - 3,))


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
    header = ["system", "device", "model", "format", "tok/s", "of peak, its own", "W", "source"]
    note = "As published, each by its own formula; models, formats and devices differ, so rows are not comparable one by one."
    return Table("Other FPGA systems", note, header, rows)


def tables(c: Comparison) -> list[Table]:
    """All of the report's, in its order."""
    makers = (
        decode_table,
        clock_table,
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
