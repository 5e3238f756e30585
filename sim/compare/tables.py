"""The report's tables, and its figures as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.baselines import data
from sim.compare.comparison import PAPER_MODELS, PAPER_TARGET, Comparison
from sim.estimate import Estimate, prefill_products, workload_bytes
from sim.timing import energy
from skipopu.report import Record

PHYSICAL = "beats read and written x tok/s / peak"
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


@dataclass(frozen=True)
class Decoding:
    """One system's decoding: tokens per second, share of its peak bandwidth by ``formula``, joules per token and how it is known."""

    system: str
    how: str
    weights: str
    skipped: float
    tokens_per_s: float
    high: float | None
    share: float | None
    share_high: float | None
    formula: str
    joules: str
    kind: str
    source: str
    own: bool = False

    @property
    def name(self) -> str:
        return f"{self.system}, {self.how}" if self.how else self.system


def rate(low: float, high: float | None = None) -> str:
    return f"{low:.1f}" if high is None else f"{low:.1f} to {high:.1f}"


def percent(low: float | None, high: float | None = None) -> str:
    if low is None:
        return ""
    return f"{low:.1%}" if high is None else f"{low:.0%} to {high:.0%}"


def span(value: energy.Range) -> str:
    return f"{value.likely:.2g} ({value.low:.2g} to {value.high:.2g})"


def own_decoding(c: Comparison, part: Estimate, skipped: float) -> Decoding:
    return Decoding(
        c.machine.name,
        "timing engine",
        "int4",
        skipped,
        part.tokens_per_s,
        None,
        part.efficiency,
        None,
        PHYSICAL,
        span(energy.total(part.energy())),
        "simulated",
        f"timing engine, {c.machine.clock_mhz:g} MHz assumed; energy estimated",
        True,
    )


def decodings(c: Comparison) -> list[Decoding]:
    """This machine's rows, GPUs' and other FPGAs' of the same model; fastest first."""
    rows = [own_decoding(c, c.skipping, c.skipped), own_decoding(c, c.dense, 0.0)]
    for row in c.gpu_rows:
        most = data.gpus().gpus[row.gpu].power_w / row.tokens_per_s
        rows.append(
            Decoding(
                row.gpu,
                row.stack + (f" [{row.context}]" if row.context else ""),
                row.precision,
                0.0,
                row.tokens_per_s,
                row.tokens_per_s_high,
                row.share,
                row.share_high,
                row.formula,
                f"at most {most:.2g}",
                "published",
                row.source,
            )
        )
    shares = {(f.system, f.stack, f.precision, f.skip, f.kv): f.value for f in c.measured_figures("bandwidth_efficiency")}
    joules = {(f.system, f.stack, f.precision, f.skip, f.kv): f.value for f in c.measured_figures("energy_per_token_j")}
    for figure in c.measured_figures("decode_tokens_per_s"):
        key = figure.system, figure.stack, figure.precision, figure.skip, figure.kv
        policy = f", {figure.kv} KV" if figure.skip and figure.kv else ""
        joule = f"{joules[key]:.2g}" if key in joules else ""
        rows.append(
            Decoding(
                figure.system,
                f"{figure.stack}{policy}",
                figure.precision,
                figure.skip,
                figure.value,
                None,
                shares.get(key),
                None,
                "as the record says",
                joule,
                "measured",
                figure.source,
            )
        )
    for fpga in data.fpgas().rows:
        if fpga.model == c.model and fpga.tokens_per_s is not None:
            watt = fpga.power_w / fpga.tokens_per_s if fpga.power_w else 1 / fpga.tokens_per_j if fpga.tokens_per_j else None
            rows.append(
                Decoding(
                    fpga.system,
                    fpga.device or "",
                    fpga.format,
                    data.fpgas().paper.skip if fpga.system == "SkipOPU" else 0.0,
                    fpga.tokens_per_s,
                    fpga.tokens_per_s_high,
                    fpga.share,
                    fpga.share_high,
                    "its own",
                    "" if watt is None else f"{watt:.2g}",
                    "published",
                    fpga.source,
                )
            )
    return sorted(rows, key=lambda row: -row.tokens_per_s)


def decode_table(c: Comparison) -> Table:
    rows = decodings(c)
    ours = c.skipping.tokens_per_s
    cells = [
        [
            row.name,
            row.weights,
            f"{row.skipped:.0%}",
            rate(row.tokens_per_s, row.high),
            f"{row.tokens_per_s / ours:.2f}x",
            percent(row.share, row.share_high),
            row.formula,
            row.joules,
            row.kind,
            row.source,
        ]
        for row in rows
    ]
    header = ["system", "weights", "skipped", "tok/s", "to ours", "of peak bandwidth", "formula", "J/token", "kind", "source"]
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
    rows = [
        ["tokens per second, simulated", f"{part.tokens_per_s:.1f}", f"{part.bytes_per_token / 1e9:.3f}", ""],
        ["roof: these bytes at the memory's cap", f"{part.roof:.1f}", f"{part.bytes_per_token / 1e9:.3f}", "cap / bytes"],
        ["roof: the paper's bytes at the cap", f"{cap / papers:.1f}", f"{papers / 1e9:.3f}", f"cap / ({PAPER_BYTES})"],
    ]
    if c.two_layer is not None:
        two = c.two_layer
        rows.append(
            [
                "with two-layer routers",
                f"{two.tokens_per_s:.1f}",
                f"{two.bytes_per_token / 1e9:.3f}",
                "hidden layer of d/4 each",
            ]
        )
    if c.dense_kv is not None:
        rest = c.dense_kv
        rows.append(
            ["K and V of every token computed", f"{rest.tokens_per_s:.1f}", f"{rest.bytes_per_token / 1e9:.3f}", "dense policy"]
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
    return Table(f"Roofs of {c.machine.name}", note, ["", "value", "GB/token", "formula"], rows, (0,))


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
        " nobody has measured that."
    )
    return Table("The same bytes on every memory: rooflines", note, header, rows, (0,))


def first_token_table(c: Comparison) -> Table:
    header = ["time to first token, s", *(f"prompt {n}" for n in c.by_prompt), "kind"]
    rows = [
        [f"{c.machine.name}, {name}", *(f"{pair[k].time_to_first_token:.3f}" for pair in c.by_prompt.values()), "simulated"]
        for k, name in enumerate(("every module", f"{c.skipped:.0%} skipped"))
    ]
    for name, gpu in data.gpus().gpus.items():
        floors = [gpu.prefill_floor(sum(prefill_products(c.config, n))) for n in c.by_prompt]
        rows.append([f"{name}, at least", *(f"{value:.4f}" for value in floors), "derived"])
    note = (
        "Ours is at an assumed clock. A GPU's floor is 2 x products / FP16 tensor peak, every module executed; real stacks take"
        " longer, yet all of these data-centre GPUs are far ahead here: a prompt is work for multipliers."
    )
    return Table("Time to first token", note, header, rows, (0, 1))


def memory_table(c: Comparison) -> Table:
    part = c.skipping
    regions = part.regions
    entry = regions["kv"]
    layers = c.config.num_layers
    used = part.kv_entries / (layers * -(-(c.workload.prompt + c.workload.new) // c.machine.ports) * c.machine.ports)
    rows = [
        ["layers' weights and routers, INT4", f"{regions['layers'] / 1e9:.3f}"],
        ["head, INT4", f"{regions['head'] / 1e9:.3f}"],
        ["embedding, FP16", f"{regions['embedding'] / 1e9:.3f}"],
        [f"keys and values of {c.workload.prompt + c.workload.new} tokens, all layers", f"{entry / 1e9:.3f}"],
        ["of these written: executed attention only", f"{entry * used / 1e9:.3f}"],
        [
            "rotary rows, tokens, trace, program",
            f"{sum(regions[n] for n in ('rope', 'tokens', 'trace', 'ring', 'program')) / 1e9:.3f}",
        ],
        ["all", f"{sum(regions.values()) / 1e9:.3f}"],
        ["a GPU, INT4 weights and head, FP16 KV, formula", f"{gpu_memory(c, 'int4') / 1e9:.3f}"],
        ["a GPU, FP16, formula", f"{gpu_memory(c, 'fp16') / 1e9:.3f}"],
    ]
    return Table("Memory needed", "Bytes in all ports of the compiled program.", ["", "GB"], rows, (6,))


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
    kv_width = 2 * 2 * config.num_kv_heads * config.head_dim
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
                f"{1e3 * dense.joules.likely:.1f}",
                f"{1e3 * skipping.joules.likely:.1f}",
                event.source,
            ]
        )
    totals = [energy.total(part.energy()) for part in (c.dense, c.skipping)]
    rows.append(["all", "", "", *(f"{1e3 * t.likely:.0f} ({1e3 * t.low:.0f} to {1e3 * t.high:.0f})" for t in totals), ""])
    watts = [t.likely * part.tokens_per_s for t, part in zip(totals, (c.dense, c.skipping), strict=True)]
    rows.append(["power, W", "", "", *(f"{w:.0f}" for w in watts), ""])
    header = ["event", "energy", "per token, skipping", "mJ, every module", f"mJ, {c.skipped:.0%} skipped", "source"]
    note = (
        "Estimated: counts of the timing engine times typical energies of 16 nm devices, each a range; no board was measured."
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
        " one is a measurement that nobody has made yet, not a zero."
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
        ahead = [name for name, floor in floors.items() if floor < first / 3]
        if ahead:
            said.append(
                f"A prompt of {prompt} tokens takes {first:.2f} s: {', '.join(ahead)} could take less than a third of that, being far"
                " ahead in multiplications per second."
            )
    if c.missing():
        said.append("No GPU has been measured on the same skipping: those rows are shown as missing.")
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
