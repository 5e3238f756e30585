"""The paper's rows beside ours with its parameters, and the terms between its bytes and this machine's."""

from __future__ import annotations

from sim.baselines import data
from sim.compare.comparison import PAPER_MODELS, PAPER_TARGET
from sim.compare.figures import Figures
from sim.estimate import kv_bytes, workload_bytes
from skipopu.report import Cell, Table, shown

PAPER_BYTES = "W4 with zero points + FP16 KV at the mean context, less the skip ratio of both"
PAPER_FORMULA = f"({PAPER_BYTES}) x tok/s / peak"


def paper_table(f: Figures) -> Table:
    """The paper's rows beside ours with its parameters, and the terms between them."""
    c = f.c
    paper = data.fpgas().paper
    first = c.paper[PAPER_MODELS[0]]
    rows: list[list[Cell]] = []
    for name, part in c.paper.items():
        said = paper.tokens_per_s[name]
        ours = f.of(part, "decode_tokens_per_s")
        off = shown(lambda value, said=said: f"{value / said - 1:+.1%}", ours)
        rows.append([f"{name}: tokens per second", f"{said:.1f}", shown("{:.1f}", ours), off])
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
    return Table(f"The paper's rows, {paper.source}, [128, 1024]", ["", "published", "simulated", "off by"], rows, note)


def terms_table(f: Figures) -> Table:
    """From the paper's bytes to this machine's, one difference at a time, GB per token."""
    first = f.c.paper[PAPER_MODELS[0]]
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
    return Table("Term by term: bytes per token, GB", ["", "GB/token"], rows, note)
