"""Figures that README and pages repeat: ``python -m sim.compare.pages`` takes them from the committed records.

A page holds each block between ``<!-- figures NAME: begin -->`` and ``<!-- figures: end -->``; a test compares.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from sim.baselines import data
from sim.compare.decoding import RULE, RULE_NOTE
from sim.compare.findings import estimated_clock
from sim.fuzz.case import SHORT_CYCLES
from sim.fuzz.run import BOUND, SHORT_BOUND
from skipopu.machine.config import Machine
from skipopu.report import Cell, Record, Table

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/pe-array.md", "docs/kv-memory.md", "docs/boards.md", "docs/clock.md", "docs/fuzz.md")
BLOCK = re.compile(r"(<!-- figures (\w+): begin -->\n).*?(<!-- figures: end -->\n)", re.S)
MODEL, TARGET, CONTEXT = "llama-2-7b", "u280", "128+1024"
DIES_MHZ = "dies_fmax_mhz"
CLOCKS_SHOWN = (75, 100, 125, 150, 175, 200, 225)  # at which the comparison has rates
GEARBOX_LUT = (
    1260  # of one of the shell's gearboxes between the core's and the memory's clock: Yosys, `hw/shell/gearbox.py` alone
)
DEVICE = {"lut": 1_303_680, "dsp": 9_024}  # U280
SHOWN = (
    "A100-80G, torchao autoquant-int4hqq",
    "RTX 4090, ExLlamaV2 EXL2 4.0 bpw",
    "RTX 4090, MLC [short prompt + 256]",
    "A100-80G, torchao",
    "SkipOPU, U280",
)


class Records:
    """The records of one committed file, by its path in the repository."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.all = [Record(**record) for record in json.loads(self.path.read_text())["records"]]

    def find(self, name: str, source: str = "", **keys: object) -> list[Record]:
        """Those of a name whose source contains ``source``, with the given keys."""
        return [
            r for r in self.all if r.name == name and source in r.source and all(getattr(r, k) == v for k, v in keys.items())
        ]

    def starting(self, name: str) -> list[Record]:
        """Those whose name begins so."""
        return [r for r in self.all if r.name.startswith(name)]

    def value(self, name: str, source: str = "", **keys: object) -> float:
        """Of the first such record; raises LookupError naming it when there is none."""
        if not (found := self.find(name, source, **keys)):
            raise LookupError(f"{self.path}: no record {name!r} of {source!r} {keys}")
        assert isinstance(found[0].value, int | float)
        return found[0].value


def skipping(record: Record) -> bool:
    return bool(record.skip)


def own_rates(records: Records, source: str = "; linear routers") -> tuple[float, float]:
    """(dense, skipping) tokens per second of the committed comparison's own machine."""
    found = records.find("decode_tokens_per_s", source, target=TARGET, model=MODEL, engine="timing")
    by = {skipping(record): record.value for record in found}
    return float(by[False] or 0), float(by[True] or 0)


def lut_sum(target: str = TARGET) -> str:
    """LUTs with what stands between the machine and the memory's ports."""
    lut, ports = Records(f"boards/resources/{target}.json").value("lut"), Machine.load(target).ports
    gears = ports * GEARBOX_LUT
    return (
        f"{lut:,.0f} LUTs are {lut / DEVICE['lut']:.1%} of the device; {ports} gearboxes of {GEARBOX_LUT:,} LUTs each make it"
        f" {lut + gears:,.0f}, {(lut + gears) / DEVICE['lut']:.1%}, before platform, memory controllers and routing"
    )


def array() -> str:
    used, errors = Records(f"boards/resources/{TARGET}.json"), Records("docs/pe.json")
    machine = Machine.load(TARGET)

    def error(kind: str) -> float:
        return 100 * max(errors.value(f"exact18.{kind}.heavy-tailed.{terms}.relative_error") for terms in (64, 128))

    return (
        f"The array at full size (`{TARGET}`: {machine.ports} tiles, {2 * machine.ports * machine.weight_lanes} INT4 products per cycle):"
        f" {used.value('tile.lut_per_product'):.1f} LUTs per product in the tiles, {used.value('lut_per_product'):.1f} in the whole design,"
        f" {used.value('dsp') / DEVICE['dsp']:.0%} of the device's DSPs. {lut_sum()}. A dot product's error with heavy-tailed activations"
        f" is {error('int4'):.3f} % with INT4 weights and {error('fp16'):.3f} % with FP16 operands."
        " [Why it looks as it does](docs/pe-array.md).\n"
    )


def own_clock(machine: Machine) -> tuple[float, float, float]:
    """(low, likely, high) MHz."""
    found = estimated_clock(machine)
    if found is None:
        raise LookupError(f"boards/resources: no record of {machine.name} as it is")
    return found


def clock() -> str:
    compared = Records("docs/comparison/comparison.json")
    machine = Machine.load(TARGET)
    low, likely, high = own_clock(machine)
    split = Records(f"boards/resources/{TARGET}.json")
    dies_low, dies, dies_high = (split.value(f"{DIES_MHZ}{delays}") for delays in (", high delays", "", ", low delays"))
    rates: list[str] = []
    for limit in (dies, dies_low):
        mhz = max((mhz for mhz in CLOCKS_SHOWN if mhz <= limit), default=min(CLOCKS_SHOWN))
        dense, skipping = own_rates(compared, *([] if mhz == machine.clock_mhz else [f"; at {mhz:g} MHz"]))
        rates.append(f"{skipping:.0f} tokens per second with skipping and {dense:.0f} without at {mhz:g} MHz")
    return (
        f"**The clock is estimated, not closed**: every rate of `{TARGET}` here is counted at {machine.clock_mhz:g} MHz, and no tool has placed"
        f" the design on an UltraScale+ device. The [static timing estimate](docs/clock.md) of its netlist gives {likely:.0f} MHz"
        f" ({low:.0f} to {high:.0f}) as if the device were one die, and {dies:.0f} ({dies_low:.0f} to {dies_high:.0f}) over its"
        f" {len(split.starting('ports_of_die.'))} dies: the same run gives {rates[0]}, {rates[1]}. The one full device that could be routed came"
        " out [below its low end](docs/clock.md#held-against-a-router).\n"
    )


def prefill() -> str:
    fused = Records("docs/fusion.json")
    machine = Machine.load(TARGET)
    step = "schedule run_ahead"
    shares = [float(record.value or 0) for record in fused.find("share_of_peak", step)]
    peak = 4 * machine.ports * machine.weight_lanes * machine.clock_mhz * 1e6 / 1e12
    exposed, cycles = (
        [float(r.value or 0) for r in fused.find(name, step, target=TARGET)] for name in ("exposed_cycles", "cycles")
    )
    worst = max(a / b for a, b in zip(exposed, cycles, strict=True))
    return (
        f"Llama-2-7B on it, counted by the timing engine at an assumed {machine.clock_mhz:g} MHz: {min(shares) * peak:.1f} to"
        f" {max(shares) * peak:.1f} TFLOP/s in prefill, {min(shares):.0%} to {max(shares):.0%} of the array's peak; at most {worst:.1%} of a"
        " prefill or of a decoded token is spent on anything but products and memory. [What each step of the fused dataflow"
        " saves](docs/fusion.md).\n"
    )


def kv() -> str:
    study, paper = Records("docs/kv.json"), data.fpgas().paper

    def at(point: str) -> tuple[float, float]:
        name = f"kv_bandwidth, {point}"
        here = {"context": "1016-1031"}
        return study.value(name, "by token, while", **here), study.value(name, "by token, whole", **here)

    dense, buffered = at("dense"), at("+ history buffer")
    return (
        f"Attention reads keys and values at {dense[0]:.0f} of {paper.peak_gb_s} GB/s around 1024 tokens of context, whatever was skipped, and at"
        f" {buffered[0]:.0f} with hits of the history buffer counted (25 % random skips, every layer attended); over whole instructions,"
        f" start and end included, at {dense[1]:.0f} and {buffered[1]:.0f}. [How, and what the buffer is worth](docs/kv-memory.md).\n"
    )


def points() -> str:
    """The paper's KV points under each mapping."""
    study = Records("docs/kv.json")
    off: dict[str, list[float]] = {}
    for mapping in ("per-layer counter", "by token"):
        for point in ("reuse, token in one port", "+ history buffer", "+ history buffer, every second layer"):
            name = f"kv_bandwidth, {point}"
            paper = study.value(name, kind="published")
            off.setdefault(mapping, []).append(study.value(name, f"{mapping}, while", context="1016-1031") / paper - 1)
    dense, buffered = (
        study.value(f"kv_bandwidth, {point}", "by token, whole", context="1016-1031") for point in ("dense", "+ history buffer")
    )
    tables = {mapping: ", ".join(f"{value:+.1%}" for value in values) for mapping, values in off.items()}
    return (
        "- **No one mapping gives the paper's points.** Token mapping, history buffer, every second layer: a counter per layer, which is"
        f" what the paper describes, is off by {tables['per-layer counter']}; the machine's own mapping by token by {tables['by token']}."
        " The last column names the nearer one of each row, chosen after seeing both: that is a reading of the paper, not a prediction of"
        " its figures. No constant is fitted to them.\n"
        "- **By whole instructions**, start and end included, dense reads are at"
        f" {dense:.0f} and the buffer's point at {buffered:.0f} GB/s. The paper does not say which time it divides by, nor at which"
        " context.\n"
    )


def worth() -> str:
    """What learned routing hits, and what the history buffer brings."""
    study, compared = Records("docs/kv.json"), Records("docs/comparison/comparison.json")
    real, layers, random = (
        study.value("kv_hit_rate", name)
        for name in ("the model's routers", "random, each layer's own ratio", "random, one ratio")
    )
    off, on = (study.value("decode_tokens_per_s", f"history buffer {name},") for name in ("off", "on"))
    net = compared.value("history_bytes_per_token", "net of what is read ahead", target=TARGET) / 1e9
    gross = compared.value("history_bytes_per_token", "hits", target=TARGET) / 1e9
    return (
        f"- **Learned routing and random routing** of the same ratio hit {real:.1%} and {random:.1%} of reads for the shipped model"
        f" ({layers:.1%} with each layer's own ratio): layers differ, and tokens skip together.\n"
        f"- **What it is worth:** with batch 1 and a few hundred tokens, KV is a tenth of a decoded token's bytes. Hits are {gross:.3f} GB per"
        f" token, of which {gross - net:.3f} were read ahead of use: {net:.3f} GB are spared. The buffer takes decoding from {off:.1f} to"
        f" {on:.1f} tokens per second at an assumed {Machine.load(TARGET).clock_mhz:g} MHz, for 480 URAMs and 5 % of the LUTs.\n"
    )


def gpus() -> str:
    """The table against GPUs, and what may be said of it."""
    compared = Records("docs/comparison/comparison.json")
    dense, ours = own_rates(compared)
    clock_mhz = Machine.load(TARGET).clock_mhz
    rows: list[tuple[float, list[str]]] = []
    for record in compared.find("decode_tokens_per_s", kind="published", model=MODEL):
        if record.system in SHOWN:
            same = {"system": record.system, "precision": record.precision}
            share = compared.value("weight_share", **same)
            skipped = f"{record.skip:.0%}" if record.skip else "none"
            rate = float(record.value or 0)
            name = f"{record.system}, {(record.precision or '').upper()}"
            rows.append((rate, [name, skipped, f"{rate:.1f}", f"{share:.1%}", "published"]))
    for rate, skip in ((dense, False), (ours, True)):
        found = [r for r in compared.find("weight_share", target=TARGET, engine="timing") if skipping(r) == skip]
        what = f"{found[0].skip:.0%}, random" if skip else "none"
        kind = f"simulated, {clock_mhz:g} MHz assumed"
        rows.append((rate, [f"`{TARGET}`, INT4", what, f"{rate:.1f}", f"{found[0].value:.1%}", kind]))
    fastest = max(float(r.value or 0) for r in compared.find("decode_tokens_per_s", kind="published", model=MODEL, skip=0.0))
    published, ported = data.fpgas().paper, compared.value("decode_tokens_per_s", "the paper's parameters", model=MODEL)
    physical = [
        float(r.value or 0) for r in compared.find("bandwidth_efficiency", "; linear routers", target=TARGET, model=MODEL)
    ]
    columns = ["System", "Skipped", "tokens/s", "of peak bandwidth", "Kind"]
    lines = [
        Table("", columns, [cells for _, cells in sorted(rows, reverse=True)]).markdown,
        "",
        f"Of peak bandwidth by one rule for all: {RULE} ({RULE_NOTE}). By all beats read and written `{TARGET}` is between"
        f" {min(physical):.1%} and {max(physical):.1%}. Dense to dense the fastest GPU stack is {fastest / dense:.2f} times"
        f" as fast, {fastest / ours:.2f} times our rate with skipping, at 2 to 4.4 times the bandwidth; no measurement of a GPU on the same"
        f" skipping is at hand ([add one](docs/gpu-baselines.md)). With the paper's parameters, its own measured {published.dense_read_gb_s} GB/s among them, the"
        f" timing engine gives {ported:.1f} tokens/s against its {published.tokens_per_s[MODEL]}: close to circular, a check of bytes and not of a bandwidth."
        " [The whole comparison](docs/comparison/comparison.md); [how cycles of full-size models are counted](docs/timing.md).",
    ]
    return "\n".join(lines) + "\n"


def clocks() -> str:
    """Estimated clocks of whole machines and of the full-size ones' units."""
    names = sorted(path.stem for path in (ROOT / "boards/resources").glob("*.json"))
    machines = [Machine.load(name) for name in names]
    rows = [[f"`{m.name}`", *(f"{mhz:.0f}" for mhz in own_clock(m)), f"{m.clock_mhz:g}"] for m in machines]
    tables = [Table("", ("machine", "low, MHz", "likely", "high", "assumed by rates"), rows).markdown]
    units = {name: Records(f"boards/resources/{name}.json") for name in (TARGET, f"{TARGET}-masks")}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, records in units.items():
        for record in records.all:
            if record.name.endswith(".fmax_mhz"):
                unit = record.name.removesuffix(".fmax_mhz")
                levels = records.value(f"{unit}.lut_levels")
                found.setdefault(unit.split("$")[0], {})[name] = float(record.value or 0), levels
    slow = sorted((min(mhz for mhz, _ in by.values()), unit) for unit, by in found.items())
    cells = [
        [f"`{unit}`", *(f"{found[unit][n][0]:.0f} ({found[unit][n][1]:.0f})" if n in found[unit] else "" for n in units)]
        for mhz, unit in slow
        if mhz < Machine.load(TARGET).clock_mhz
    ]
    if cells:
        tables.append(Table("", ("unit", *(f"`{name}`, MHz (LUT levels)" for name in units)), cells).markdown)
    tables.append(
        Table("", ("over dies", "ports on each", "signals between", "low, MHz", "likely", "high"), over_dies(names)).markdown
    )
    return "\n\n".join(tables) + "\n"


def over_dies(names: Iterable[str]) -> list[list[Cell]]:
    """Of machines that were counted over several dies: ports on each, signals over each border, clocks with what borders take."""
    rows: list[list[Cell]] = []
    for name in names:
        records = Records(f"boards/resources/{name}.json")
        if not records.find(DIES_MHZ):
            continue
        ports, lines = (
            [f"{record.value:,}" for record in records.starting(of)] for of in ("ports_of_die.", "lines_over_border.")
        )
        mhz = [f"{records.value(f'{DIES_MHZ}{delays}'):.0f}" for delays in (", high delays", "", ", low delays")]
        rows.append([f"`{name}`", ", ".join(ports), ", ".join(lines), *mhz])
    return rows


def stationary() -> str:
    target = f"{TARGET}-masks"
    used = Records(f"boards/resources/{target}.json")
    flip_flops, own = used.value("ff"), Records(f"boards/resources/{TARGET}.json").value("ff")
    return (
        f"The whole of `{target}`: {lut_sum(target)}. It has {flip_flops:,.0f} flip-flops, where `{TARGET}` has {own:,.0f}, and"
        f" {used.value('dsp'):,.0f} DSPs; its Verilog has {used.value('verilog_bytes') / 1e6:.2f} MB.\n"
    )


def sums() -> str:
    return f"For `{TARGET}`: {lut_sum()}.\n"


def fuzzed() -> str:
    """What the recorded search found."""
    found = Records("docs/fuzz.json")
    asked = json.loads(found.path.read_text())["inputs"]
    value = {record.name: float(record.value or 0) for record in found.all}
    head = (
        f"`skipopu fuzz --count {asked['count']} --programs {asked['programs']} --seed {asked['seed']} --json docs/fuzz.json`:"
        f" {value['programs']:,.0f} programs, of which {value['programs_agreed']:,.0f} agreed, on {value['overlays']:,.0f} generated overlays with"
        f" {value['agreed']:,.0f} memories and rings behind them, {value['rtl_cycles'] / 1e6:,.1f} million cycles of RTL;"
        f" **{value['faults']:,.0f} faults**. Timing engine, {value['timing_runs']:,.0f} runs whose memory does not pause at random, mostly of"
        f" fewer than {SHORT_CYCLES[1]:,} cycles: median error {value['timing_median_error']:.2%}, {value['timing_beyond_bound']:,.0f} beyond"
        f" {BOUND:.0%}, {value['timing_missed']:,.0f} of them by more than {SHORT_BOUND} cycles ([longer ones](timing.md))."
    )
    reasons = [[name.partition(": ")[2], f"{count:.0f}"] for name, count in value.items() if name.startswith("refused: ")][:10]
    return f"{head}\n\n{Table('', ('refused most often for', 'programs'), reasons).markdown}\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "array": array,
    "clock": clock,
    "prefill": prefill,
    "kv": kv,
    "points": points,
    "worth": worth,
    "gpus": gpus,
    "clocks": clocks,
    "stationary": stationary,
    "sums": sums,
    "fuzz": fuzzed,
}


def wrapped(text: str) -> str:
    """Paragraphs and list items in lines of a page's width; tables as they are."""
    lines = []
    for line in text.splitlines():
        indent = "  " if line.startswith("- ") else ""
        fits = line.startswith("|") or not line
        lines.append(
            line if fits else textwrap.fill(line, 132, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    return "\n".join(lines) + "\n"


def current(text: str) -> str:
    """A page with its blocks as the records have them."""
    return BLOCK.sub(lambda match: match[1] + wrapped(BLOCKS[match[2]]()) + match[3], text)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        path.write_text(new := current(old), encoding="utf-8")
        print(f"{page}: {len(BLOCK.findall(new))} blocks, {'unchanged' if new == old else 'written'}")
