"""Who decodes the same model how fast: this machine, GPUs, other FPGA systems."""

from __future__ import annotations

from dataclasses import dataclass

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.estimate import Estimate
from sim.timing import energy
from skipopu.report import unit_of

PHYSICAL = "beats read and written x tok/s / peak"


@dataclass(frozen=True)
class Decoding:
    """One system's decoding, and how it is known.

    ``tokens_per_s`` and ``share`` (of its peak bandwidth, by ``formula``) have a ``high`` end where the source gives a range.
    """

    system: str
    how: str
    weights: str
    skipped: float
    tokens_per_s: float
    share: float | None
    formula: str
    joules: str
    kind: str
    source: str
    high: float | None = None
    share_high: float | None = None
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
    per, unit = unit_of(value.likely, "J")
    text = f"{value.likely / per:.2g} ({value.low / per:.2g} to {value.high / per:.2g})"
    return text if unit == "J" else f"{text} {unit}"


def own_decoding(c: Comparison, part: Estimate, skipped: float) -> Decoding:
    return Decoding(
        system=c.machine.name,
        how="timing engine",
        weights="int4",
        skipped=skipped,
        tokens_per_s=part.tokens_per_s,
        share=part.efficiency,
        formula=PHYSICAL,
        joules=span(energy.total(part.energy())),
        kind="simulated",
        source=f"timing engine, {c.machine.clock_mhz:g} MHz assumed; energy estimated",
        own=True,
    )


def gpu_decoding(row: data.GpuRow) -> Decoding:
    most = data.gpus().gpus[row.gpu].power_w / row.tokens_per_s
    return Decoding(
        system=row.gpu,
        how=row.stack + (f" [{row.context}]" if row.context else ""),
        weights=row.precision,
        skipped=0.0,
        tokens_per_s=row.tokens_per_s,
        high=row.tokens_per_s_high,
        share=row.share,
        share_high=row.share_high,
        formula=row.formula,
        joules=f"at most {most:.2g}",
        kind="published",
        source=row.source,
    )


def fpga_decoding(row: data.FpgaRow, tokens_per_s: float) -> Decoding:
    joule = row.power_w / tokens_per_s if row.power_w else 1 / row.tokens_per_j if row.tokens_per_j else None
    return Decoding(
        system=row.system,
        how=row.device or "",
        weights=row.format,
        skipped=row.skip,
        tokens_per_s=tokens_per_s,
        high=row.tokens_per_s_high,
        share=row.share,
        share_high=row.share_high,
        formula="its own",
        joules="" if joule is None else f"{joule:.2g}",
        kind="published",
        source=row.source,
    )


def measured_decoding(c: Comparison, figure: data.MeasuredFigure) -> Decoding:
    """A measured rate, with the share and the energy of the same record."""

    def same(name: str) -> float | None:
        what = ("system", "stack", "precision", "skip", "kv")
        others = c.measured_figures(name)
        return next((f.value for f in others if all(getattr(f, k) == getattr(figure, k) for k in what)), None)

    joule = same("energy_per_token_j")
    return Decoding(
        system=figure.system,
        how=figure.stack + (f", {figure.kv} KV" if figure.skip and figure.kv else ""),
        weights=figure.precision,
        skipped=figure.skip,
        tokens_per_s=figure.value,
        share=same("bandwidth_efficiency"),
        formula="as the record says",
        joules="" if joule is None else f"{joule:.2g}",
        kind="measured",
        source=figure.source,
    )


def decodings(c: Comparison) -> list[Decoding]:
    """This machine's rows, GPUs' and other FPGAs' of the same model; fastest first."""
    rows = [own_decoding(c, c.skipping, c.skipped), own_decoding(c, c.dense, 0.0)]
    rows += [gpu_decoding(row) for row in c.gpu_rows]
    rows += [measured_decoding(c, figure) for figure in c.measured_figures("decode_tokens_per_s")]
    same_model = [row for row in data.fpgas().rows if row.model == c.model]
    rows += [fpga_decoding(row, row.tokens_per_s) for row in same_model if row.tokens_per_s is not None]
    return sorted(rows, key=lambda row: -row.tokens_per_s)
