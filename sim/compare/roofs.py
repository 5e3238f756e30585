"""What memory allows: this machine under its roofs, and every system on the same bytes."""

from __future__ import annotations

from sim.baselines import data
from sim.compare.decoding import PHYSICAL, RULE, masks_said, percent
from sim.compare.figures import Figures
from sim.compare.findings import masks_note
from sim.compare.paper import PAPER_BYTES, PAPER_FORMULA
from sim.estimate import Estimate, weight_bytes
from skipopu.quantity import quantity, size
from skipopu.report import Cell, Table, shown
from skipopu.shapes import shape


def rate_and_bytes(f: Figures, part: Estimate) -> list[Cell]:
    """Tokens per second of a run, and its bytes per token."""
    rate, read = f.find(part, "decode_tokens_per_s"), f.find(part, "bytes_per_token")
    return [
        shown("{:.1f}", rate) if rate else f"{part.tokens_per_s:.1f}",
        shown(size, read) if read else size(part.bytes_per_token),
    ]


def roof_table(f: Figures) -> Table:
    """Where the asked-for run stands under its roofs."""
    c = f.c
    part, peak, cap = c.skipping, c.machine.peak_bandwidth, c.machine.bandwidth_cap
    papers = c.formula_bytes("int4 with zero points", c.ratio)
    rows: list[list[Cell]] = [
        ["tokens per second, simulated", *rate_and_bytes(f, part), ""],
        [
            "roof: these bytes at the memory's cap",
            shown("{:.1f}", f.of(part, "roof_tokens_per_s")),
            shown(size, f.of(part, "bytes_per_token")),
            "cap / bytes",
        ],
        ["roof: the paper's bytes at the cap", f"{cap / papers:.1f}", size(papers), f"cap / ({PAPER_BYTES})"],
    ]
    for what, other, how in (
        ("with two-layer routers", c.two_layer, "hidden layer of d/4 each"),
        ("without routers", c.ahead, "what executes is known in front of each layer"),
        ("K and V of every token computed", c.dense_kv, "dense policy"),
    ):
        if other is not None:
            rows.append([what, *rate_and_bytes(f, other), how])
    if c.masked:
        masked = c.masked[1]
        rows.append([masks_said(c), *rate_and_bytes(f, masked), c.how_masked])
        roof, read = shown("{:.1f}", f.of(masked, "roof_tokens_per_s")), shown(size, f.of(masked, "bytes_per_token"))
        rows.append(["roof: these bytes at the memory's cap", roof, read, "cap / bytes"])
    rows += [
        ["share of the peak, weights alone", shown(percent, f.of(part, "weight_share")), "", RULE],
        ["share of the cap, physical bytes", shown(percent, f.of(part, "share_of_cap")), "", "bytes x tok/s / cap"],
        ["share of the peak, physical bytes", shown(percent, f.of(part, "bandwidth_efficiency")), "", PHYSICAL],
        ["share of the peak, the paper's bytes", percent(papers * part.tokens_per_s / peak), "", PAPER_FORMULA],
    ]
    note = (
        f"{c.machine.name}: peak {quantity(peak, 'B/s', 4)}, cap of endless reads {quantity(cap, 'B/s', 4)}"
        f" ({cap / peak:.1%}). Nothing can be above the cap."
    )
    return Table(f"Roofs of {c.machine.name}", ["", "value", "per token", "formula"], rows, note, (0,))


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


def gpu_roof_table(f: Figures) -> Table:
    """What memory bandwidth allows each system on the same bytes."""
    c = f.c
    dense, skipping, half = c.formula_bytes("int4", 0), c.formula_bytes("int4", c.ratio), c.formula_bytes("fp16", 0)
    masked = c.formula_bytes("int4", c.ratio, c.masked_share)
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
                *([f"{peak / masked:.0f}"] if c.masked else []),
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
        *([f"the same, {masks_said(c)}"] if c.masked else []),
        "best INT4 share",
        "at that share",
    ]
    note = (
        "Tokens per second if nothing but the peak bandwidth limited: layers' weights, head and FP16 keys and values at context"
        f" {c.workload.mean_context}; INT4 is 4.125 bits (groups of 128 with an FP16 scale). The last column is what a GPU would"
        f" reach if it skipped as freely as it reads dense weights, at the best share ({RULE}) of any INT4 rate published for it: no"
        f" measurement of that is at hand. Ours is {PHYSICAL}."
    )
    if c.masked:
        note += f" Whoever masks channels reads the layers' weights less the masked share, and every scale: {masks_note(c)}."
    return Table("The same bytes on every memory: rooflines", header, rows, note, (0,))
