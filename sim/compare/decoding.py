"""Who decodes the same model how fast: this machine, GPUs, other FPGA systems."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.estimate import WEIGHT_BITS, Estimate, masked_bits
from sim.timing import energy
from skipopu.quantity import prefix

PHYSICAL = "beats read and written x tok/s / peak"
# One rule for every system: what a source's own percentage counts differs from paper to paper.
RULE = "weights read x tok/s / peak"
RULE_NOTE = (
    "weights read: matrices of executed modules and the head at their stored bits, scales and zero points included; no embedding,"
    " no keys and values"
)


@dataclass(frozen=True)
class Decoding:
    """One system's decoding, and how it is known.

    Attributes:
        share: of its peak bandwidth, by RULE; None where the stored bits are not known.
        other: a share by another formula, and that formula.
        high, share_high: the other end where the source gives a range.
        part: the run, of this machine's rows.
    """

    system: str
    how: str
    weights: str
    skipped: float
    tokens_per_s: float
    share: float | None
    other: str
    joules: str
    kind: str
    source: str
    high: float | None = None
    share_high: float | None = None
    part: Estimate | None = field(default=None, repr=False)

    @property
    def own(self) -> bool:
        return self.part is not None

    @property
    def name(self) -> str:
        return f"{self.system}, {self.how}" if self.how else self.system


def rate(low: float, high: float | None = None) -> str:
    return f"{low:.1f}" if high is None else f"{low:.1f} to {high:.1f}"


def percent(low: float | None, high: float | None = None) -> str:
    if low is None:
        return ""
    return f"{low:.1%}" if high is None else f"{low:.1%} to {high:.1%}"


def span(value: energy.Range) -> str:
    """Joules: likely (least to largest)."""
    factor, name = prefix(value.likely)
    likely, low, high = (f"{part / factor:.3g}" for part in (value.likely, value.low, value.high))
    return f"{likely} {name}J ({low} to {high})"


def own_share(c: Comparison, part: Estimate, skipped: float) -> float:
    """A run's share of the peak, by RULE."""
    bits = masked_bits("int4", part.workload.masked or 0.0)
    return c.weight_share(part.tokens_per_s, c.machine.peak_bandwidth, bits, WEIGHT_BITS["int4"], skipped)


def masks_said(c: Comparison) -> str:
    return f"{c.masked_share:.0%} of channels masked"


def own_decoding(c: Comparison, part: Estimate, skipped: float) -> Decoding:
    return Decoding(
        system=c.machine.name,
        how="timing engine" + ("" if part.workload.masked is None else f", {c.masked_share:.0%} masked"),
        weights="int4",
        skipped=skipped,
        tokens_per_s=part.tokens_per_s,
        share=own_share(c, part, skipped),
        other=f"{part.efficiency:.1%}: {PHYSICAL}",
        joules=span(energy.total(part.energy())),
        kind="simulated",
        source=f"timing engine, {c.machine.clock_mhz:g} MHz assumed; energy estimated",
        part=part,
    )


def gpu_decoding(c: Comparison, row: data.GpuRow) -> Decoding:
    gpu = data.gpus().gpus[row.gpu]
    most = (row.power_w or gpu.power_w) / row.tokens_per_s
    peak = gpu.peak_gb_s * 1e9

    def share(rate: float | None) -> float | None:
        return None if row.bits is None or rate is None else c.weight_share(rate, peak, row.bits, row.head_bits)

    return Decoding(
        system=row.gpu,
        how=row.stack + (f" [{row.context}]" if row.context else ""),
        weights=row.precision,
        skipped=0.0,
        tokens_per_s=row.tokens_per_s,
        high=row.tokens_per_s_high,
        share=share(row.tokens_per_s),
        share_high=share(row.tokens_per_s_high),
        other=f"{row.read_gb_s / gpu.peak_gb_s:.1%}: its {row.read_gb_s:.0f} GB/s / peak" if row.read_gb_s else "",
        joules=f"at most {most:.2g} J",
        kind="published",
        source=row.source,
    )


def fpga_decoding(c: Comparison, row: data.FpgaRow, tokens_per_s: float) -> Decoding:
    joule = row.power_w / tokens_per_s if row.power_w else 1 / row.tokens_per_j if row.tokens_per_j else None
    share = None
    if row.bits and row.peak_gb_s:
        share = c.weight_share(tokens_per_s, row.peak_gb_s * 1e9, row.bits, skipped=row.skip)
    return Decoding(
        system=row.system,
        how=row.device or "",
        weights=row.format,
        skipped=row.skip,
        tokens_per_s=tokens_per_s,
        high=row.tokens_per_s_high,
        share=share,
        other=f"{percent(row.share, row.share_high)}: its own" if row.share else "",
        joules="" if joule is None else f"{joule:.2g} J",
        kind="published",
        source=row.source,
    )


def measured_decoding(c: Comparison, figure: data.MeasuredFigure) -> Decoding:
    """A measured rate, with the share and the energy of the same record."""

    def same(name: str) -> float | None:
        what = ("system", "stack", "precision", "skip", "masked", "kv")
        others = c.measured_figures(name)
        return next((f.value for f in others if all(getattr(f, k) == getattr(figure, k) for k in what)), None)

    joule, copied = same("energy_per_token_j"), same("bandwidth_efficiency")
    return Decoding(
        system=figure.system,
        how=figure.stack
        + (f", {figure.kv} KV" if figure.skip and figure.kv else "")
        + (f", {figure.masked:.0%} of channels masked" if figure.masked is not None else ""),
        weights=figure.precision,
        skipped=figure.skip,
        tokens_per_s=figure.value,
        share=None,
        other="" if copied is None else f"{copied:.1%}: of a copy's bandwidth, as the record says",
        joules="" if joule is None else f"{joule:.2g} J",
        kind="measured",
        source=figure.source,
    )


def decodings(c: Comparison) -> list[Decoding]:
    """This machine's rows, GPUs' and other FPGAs' of the same model; fastest first."""
    rows = [own_decoding(c, c.skipping, c.skipped), own_decoding(c, c.dense, 0.0)]
    rows += [own_decoding(c, part, skipped) for part, skipped in c.masked_runs]
    rows += [gpu_decoding(c, row) for row in c.gpu_rows]
    rows += [measured_decoding(c, figure) for figure in c.measured_figures("decode_tokens_per_s")]
    same_model = [row for row in data.fpgas().rows if row.model == c.model]
    rows += [fpga_decoding(c, row, row.tokens_per_s) for row in same_model if row.tokens_per_s is not None]
    return sorted(rows, key=lambda row: -row.tokens_per_s)
