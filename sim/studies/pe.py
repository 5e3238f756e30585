"""The study of array variants: resources, error, and what the shipped model loses, of each way to multiply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from hw.emit import elaboratable_verilog
from hw.pe.variants import AlignedDot, HalfDot, HalfMultiplyAdd
from hw.pe.variants.variant import Variant
from hw.synthesis import Design, Resources
from sim.baselines import data
from sim.evaluation import CHUNK, evaluate
from sim.functional import engine as functional
from sim.studies import channels
from skipopu.machine.config import Machine
from skipopu.numerics import fp16
from skipopu.numerics.formats import INT4, dequantise
from skipopu.numerics.fp32 import F32, F64
from skipopu.numerics.profile import EXACT18, PROFILES, Profile
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.report import Cell, Plot, Record, Report, Table, shown

LANES = 64  # multipliers of a synthesised unit
DOTS = 4000  # random dot products per figure
SEED = 1
TERMS = (64, 128)
DISTRIBUTIONS = ("normal", "heavy-tailed")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One variant. Resources are per product and cycle; errors sum(|error|) / sum(|reference|)."""

    profile: Profile
    depth: int  # cycles from operands to a rounded sum (multiply-add: to its own sum)
    levels: int
    int4: Resources | None  # per INT4 product
    half: Resources  # per FP16 product
    errors: dict[tuple[str, str, int], float]  # (weights, distribution, terms)
    bits_per_byte: float


def unit_of(profile: Profile) -> tuple[Variant, int, int]:
    """(circuit, INT4 products per cycle or 0, FP16 products per cycle)."""
    if profile.bits is not None:
        return AlignedDot(LANES, profile.bits), 2 * LANES, LANES
    if profile.name == "fp16-mac":
        return HalfMultiplyAdd(), 0, 1
    return HalfDot(LANES, profile.name == "truncated"), 0, 2 * LANES


def synthesised(profile: Profile) -> tuple[int, int, Resources | None, Resources]:
    """(pipeline depth, LUT levels, resources per INT4 product, per FP16 product) on UltraScale+."""
    unit, integers, halves = unit_of(profile)
    ports = [*unit.inputs.values(), *unit.outputs.values()]
    whole = Design(elaboratable_verilog(unit, "unit", ports)).synthesise("unit", "ultrascale+")
    return unit.latency, whole.levels, whole.times(1 / integers) if integers else None, whole.times(1 / halves)


def sample(distribution: str, rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Activations: standard normal, or Student t with 4 degrees of freedom and 4 channels 30 times as large."""
    if distribution == "normal":
        return rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_t(4, shape)
    x[:, rng.choice(shape[1], 4, replace=False)] *= 30
    return x.astype(np.float32)


def relative(seen: F32, exact: F64) -> float:
    return float(np.abs(seen.astype(np.float64) - exact).sum() / np.abs(exact).sum())


def error_int4(profile: Profile, x: F32, weights: F32) -> float:
    """Of dot products of x (dots, n) with INT4 weights (rows, n), one group, against exact sums of the unrounded x."""
    n = x.shape[1]
    codes, scale = INT4.quantise(weights, n)
    m, exponent = profile.align(x, n)
    seen = profile.group_products(m[:, 0], exponent[:, 0], codes[:, 0], scale[:, 0])
    return relative(seen, x.astype(np.float64) @ dequantise(codes, scale, n).T.astype(np.float64))


def error_half(profile: Profile, x: F32, y: F32) -> float:
    """Of dot products of x (dots, n) with FP16 y (dots, n), against exact sums of the unrounded x."""
    other = fp16.from_fp32(y)
    return relative(profile.dot(x, other), (x.astype(np.float64) * other.astype(np.float64)).sum(-1))


def errors_of(profile: Profile, real: Real) -> dict[tuple[str, str, int], float]:
    out = {}
    for terms in TERMS:
        for distribution in DISTRIBUTIONS:
            rng = np.random.default_rng(SEED)
            x = sample(distribution, rng, (DOTS, terms))
            weights = rng.standard_normal((16, terms)).astype(np.float32)
            out["int4", distribution, terms] = error_int4(profile, x[: DOTS // 16], weights)
            out["fp16", distribution, terms] = error_half(profile, x, sample(distribution, rng, (DOTS, terms)))
        rng = np.random.default_rng(SEED)
        vectors = real.activations[:, :terms]
        out["int4", "model", terms] = error_int4(profile, vectors, rng.standard_normal((16, terms)).astype(np.float32))
    n = real.queries.shape[1]
    out["fp16", "model", n] = error_half(profile, real.queries, real.keys)
    return out


@dataclass
class Real:
    """Vectors of the shipped model: activations (count, 128), queries and keys of the same length (count, head_dim)."""

    activations: F32
    queries: F32
    keys: F32


def recorded(program: Program, text: bytes) -> Real:
    """What the functional engine aligns while it reads ``text``."""
    seen: dict[str, list[NDArray]] = {"activations": [], "queries": [], "keys": []}
    dim = program.model.head_dim

    class Recorder(Profile):
        def align(self, x: F32, group: int) -> tuple[F64, NDArray[np.int64]]:
            if group == dim:
                seen["queries"].append(x.reshape(-1, dim))
            else:
                seen["activations"].append(x[:, : x.shape[1] // 128 * 128].reshape(-1, 128))
            return super().align(x, group)

        def align_half(self, x: NDArray[np.float16], exponent: NDArray[np.int64]) -> F64:
            seen["keys"].append(x[:, 0].reshape(-1, dim).astype(np.float32))
            return super().align_half(x, exponent)

    exact = PROFILES[EXACT18]
    recorder = Recorder(exact.name, exact.summary, exact.bits)
    functional.run(program, Run(tuple(text), 0), functional.Options(profile=recorder))
    rng = np.random.default_rng(SEED)
    activations, queries, keys = (np.concatenate(seen[n]) for n in ("activations", "queries", "keys"))
    activations = activations[np.abs(activations).max(1) > 0]
    return Real(
        rng.permutation(activations)[: DOTS // 16],
        rng.permutation(queries)[:DOTS],
        keys[rng.integers(0, len(keys), min(DOTS, len(queries)))],
    )


def study(model: Path, size: int, say: Say = lambda text: None) -> list[Row]:
    """All variants, on the first ``size`` bytes of the model's held-out text."""
    text = (model / "heldout.txt").read_bytes()[:size]
    program = compile_checkpoint(load(model, mask_file=False), Machine.load("tiny").with_chunk(CHUNK))
    real = recorded(program, text[: program.context])
    rows = []
    for profile in PROFILES.values():
        say(f"{profile.name}: synthesis")
        depth, levels, integers, halves = synthesised(profile)
        say(f"{profile.name}: errors")
        errors = errors_of(profile, real)
        say(f"{profile.name}: bits per byte")
        bits = evaluate(program, program.text.passage(text), "functional", 256, False, profile).bits_per_byte
        assert bits is not None
        rows.append(Row(profile, depth, levels, integers, halves, errors, bits))
    return rows


RESOURCES = ("profile", "LUT / INT4", "FF / INT4", "DSP / INT4", "LUT / FP16", "FF / FP16", "DSP / FP16", "LUT levels", "depth")
ERRORS = (
    "profile",
    *("INT4 normal", "INT4 heavy-tailed", "INT4 model", "FP16 normal", "FP16 heavy-tailed", "FP16 model"),
    "bits / byte",
)
CELLS = {"lut": "{:.0f}", "ff": "{:.0f}", "dsp": "{:.2g}"}


def report(model: Path, size: int, say: Say = lambda text: None) -> Report:
    """Per product and cycle LUTs, flip-flops and multipliers, with the pipeline; errors in per cent, with bits per byte."""
    rows = study(model, size, say)
    source = f"skipopu study pe, seed {SEED}"
    listed: list[Record] = []
    resources: list[list[Cell]] = []
    errors: list[list[Cell]] = []

    def put(
        name: str, value: float, unit: str, kind: str, source: str = source, model: str | None = None, digits: str = ""
    ) -> Record:
        listed.append(Record(name, value, unit, kind, source, model=model, digits=digits))
        return listed[-1]

    for row in rows:
        name = row.profile.name
        cells: list[Cell] = [name]
        for kind, r in (("int4", row.int4), ("fp16", row.half)):
            for key, form in CELLS.items():
                if r is None:
                    cells.append("-")
                    continue
                record = put(f"{name}.{kind}.{key}", getattr(r, key), f"{key}/product", "synthesised", digits=".3f")
                cells.append(shown(form, record))
        depth = put(f"{name}.pipeline_depth", row.depth, "cycle", "derived")
        levels = put(f"{name}.lut_levels", row.levels, "LUT", "synthesised")
        resources.append([*cells, shown("{}", levels), shown("{}", depth)])
        of: dict[tuple[str, str], list[Record]] = {}
        for (kind, distribution, terms), value in row.errors.items():
            record = put(f"{name}.{kind}.{distribution}.{terms}.relative_error", value, "ratio", "simulated")
            of.setdefault((kind, distribution), []).append(record)
        text = f"{source}, first {size} bytes of heldout.txt"
        bits = put(f"{name}.bits_per_byte", row.bits_per_byte, "bit/byte", "simulated", text, model=model.name)
        kinds = [(kind, distribution) for kind in ("int4", "fp16") for distribution in (*DISTRIBUTIONS, "model")]
        worst = [shown(lambda *values: f"{100 * max(values):.4f}", *of[kind]) for kind in kinds]
        errors.append([name, *worst, shown("{:.4f}", bits)])
    chosen = [k for k, row in enumerate(rows) if row.profile.name == EXACT18]
    tables = [
        Table("Resources per product and cycle, UltraScale+", RESOURCES, resources, marked=chosen),
        Table("Errors in %", ERRORS, errors, marked=chosen),
        channels.table(say),
    ]
    return Report(tables, [Plot("pe-array", lambda figure: draw(figure, rows), (11, 4.4))], listed=listed)


def draw(figure: Figure, rows: list[Row]) -> None:
    """LUTs per FP16 product against error, and the same for INT4 products."""
    published = 100 * data.fpgas().paper.dot_error
    axes = figure.subplots(1, 2)
    for axis, kind, title in zip(axes, ("int4", "fp16"), ("float x INT4", "float x FP16"), strict=True):
        for row in rows:
            r = row.int4 if kind == "int4" else row.half
            if r is None:
                continue
            error = 100 * max(v for (k, d, _), v in row.errors.items() if (k, d) == (kind, "heavy-tailed"))
            chosen = row.profile.name == EXACT18
            axis.scatter(r.lut, error, s=70 if chosen else 35, color="tab:red" if chosen else "tab:blue", zorder=3)
            axis.annotate(row.profile.name, (r.lut, error), xytext=(5, 4), textcoords="offset points", fontsize=8)
        if kind == "fp16":
            axis.axhline(published, color="gray", linestyle="--", linewidth=1)
            axis.text(0.5, 0.12, f"{published:.3f} % published", transform=axis.get_yaxis_transform(), ha="center", fontsize=8)
        axis.set(
            title=title,
            xlabel="LUT per product and cycle (synthesised)",
            ylabel="relative error, %, heavy-tailed",
            yscale="log",
        )
        axis.grid(alpha=0.3)
        axis.margins(x=0.2)
