"""``skipopu hdl``."""

from __future__ import annotations

import argparse
import dataclasses
import time

from rich.progress import Progress
from rich.table import Table

from hw.emit import overlay_verilog
from hw.registers import c_header, register_table
from hw.report import FAMILIES, RULE, Unit, check_netlist, ecp5_fmax, lint, products_per_cycle, report, total
from hw.synthesis import FLOWS, Resources
from skipopu.arguments import add_json, output_directory, refuse
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.report import Record, write_json
from skipopu.terminal import console, out

SOURCE = "skipopu hdl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="tiny", help="target name or machine description (.yaml)")
    parser.add_argument("-o", "--output", type=output_directory, help="directory for overlay.v, registers.csv and skipopu.h")
    parser.add_argument("--report", action="store_true", help="resources of every unit, by synthesis (minutes; cached)")
    parser.add_argument("--family", choices=tuple(FLOWS), help="for --report; default by the target's multiplier")
    parser.add_argument("--fmax", action="store_true", help="clock rate of a tile, placed and routed on an ECP5-85F")
    parser.add_argument("--check", action="store_true", help="lint and netlist check of the Verilog")
    add_json(parser)


def resource_table(machine: Machine, family: str, units: list[Unit]) -> Table:
    table = Table(title=f"{machine.name}, {family}, synthesised", caption=RULE, caption_justify="left")
    table.add_column("unit")
    for name in ("count", "LUT", "FF", "DSP", "BRAM36" if family != "ecp5" else "BRAM18", "URAM", "LUT levels"):
        table.add_column(name, justify="right")

    def row(name: str, count: str, r: Resources, style: str | None = None) -> None:
        table.add_row(
            *(name, count, f"{r.lut:,.0f}", f"{r.ff:,.0f}", f"{r.dsp:,.0f}", f"{r.bram:g}", f"{r.uram:g}", str(r.levels)),
            style=style,
        )

    for unit in units:
        row(unit.name, str(unit.count), unit.all)
    row("total", "", total(units), style="bold")
    return table


def resource_records(machine: Machine, family: str, units: list[Unit]) -> list[Record]:
    source = f"{SOURCE} --report, {family}"
    records = []
    for name, resources in [("", total(units)), *((f"{unit.name}.", unit.all) for unit in units)]:
        for key, value in dataclasses.asdict(resources).items():
            unit = "LUT" if key == "levels" else key
            key = f"{name}{'lut_levels' if key == 'levels' else key}"
            records.append(Record(key, value, unit, "synthesised", source, target=machine.name))
    return records


def main(args: argparse.Namespace) -> int:
    if not (args.output or args.report or args.fmax or args.check):
        raise SkipopuError("nothing to do; give -o DIR, --report, --fmax or --check")
    if not args.report:
        refuse(args, ["--family"], "is of --report, which was not given")
    machine = Machine.load(args.target)
    start = time.perf_counter()
    with console.status(f"Verilog of {machine.name}"):
        text = overlay_verilog(machine)
    seconds = time.perf_counter() - start
    records = [
        Record("verilog_bytes", len(text), "byte", "measured", SOURCE, target=machine.name),
        Record("wall_s", round(seconds, 2), "s", "measured", SOURCE, target=machine.name),
    ]
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "overlay.v").write_text(text)
        (args.output / "registers.csv").write_text(register_table())
        (args.output / "skipopu.h").write_text(c_header())
        print(
            f"{args.output / 'overlay.v'}: {len(text)} bytes in {seconds:.1f} s, top module overlay, machine {machine.fingerprint}"
        )
    code = 0
    if args.check:
        warnings = lint(text)
        for line in warnings[:20]:
            print(line)
        check_netlist(text)
        print(f"lint: {len(warnings)} warnings beyond hw/lint.vlt; yosys check -assert, no latches: passed")
        records.append(Record("lint_warnings", len(warnings), "warning", "measured", SOURCE, target=machine.name))
        code = int(bool(warnings))
    if args.report:
        family = args.family or FAMILIES[machine.multiplier]
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("synthesis", total=None)
            units = report(machine, family, lambda name: progress.update(task, advance=1, description=f"synthesis: {name}"))
        out.print(resource_table(machine, family, units))
        products = products_per_cycle(machine)
        whole, tile = total(units).lut / products, next(u for u in units if u.name == "tile").all.lut / products
        print(f"{products} INT4 products per cycle: {tile:.1f} LUT each in the tiles, {whole:.1f} in the whole design")
        records += resource_records(machine, family, units)
        for name, value in (("tile.lut_per_product", tile), ("lut_per_product", whole)):
            records.append(
                Record(name, round(value, 2), "LUT", "synthesised", f"{SOURCE} --report, {family}", target=machine.name)
            )
    if args.fmax:
        with console.status("place and route"):
            mhz, cells = ecp5_fmax(machine)
        print(
            f"one tile on ECP5-85F: {mhz:.1f} MHz, {cells.lut:g} LUT4, {cells.ff:g} FF, {cells.dsp:g} multipliers (out of context, seed 1)"
        )
        records.append(
            Record(
                "fmax_mhz",
                round(mhz, 1),
                "MHz",
                "synthesised",
                "nextpnr-ecp5, one tile, out of context, seed 1",
                target=machine.name,
            )
        )
    if args.json:
        inputs = {"target": args.target, "fingerprint": machine.fingerprint}
        write_json(args.json, "hdl", inputs, records)
    return code
