"""``skipopu hdl``."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from hw.changes import changes, earlier, figures_of
from hw.emit import overlay_verilog
from hw.registers import c_header, register_table
from hw.report import FAMILIES, RULE, Clock, Report, Split, check_netlist, ecp5_fmax, lint, products_per_cycle, report, total
from hw.structure import structure
from hw.synthesis import FLOWS, Resources
from skipopu.arguments import add_json, integer, output_directory, refuse
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.report import Cell, Record, Table, shown, write_json
from skipopu.terminal import Following, doing, show

SOURCE = "skipopu hdl"
FORMS = {"lut": "{:,.0f}", "ff": "{:,.0f}", "dsp": "{:,.0f}", "bram": "{:g}", "uram": "{:g}", "levels": "{}", "mhz": "{:.0f}"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="tiny", help="target name or machine description (.yaml)")
    parser.add_argument("-o", "--output", type=output_directory, help="directory for overlay.v, registers.csv and skipopu.h")
    parser.add_argument("--report", action="store_true", help="resources of every unit, by synthesis (minutes; cached)")
    parser.add_argument("--family", choices=tuple(FLOWS), help="for --report; default by the target's multiplier")
    parser.add_argument(
        "--dies",
        type=integer(1, 4),
        default=1,
        metavar="N",
        help="with --report: of the device; more than 1: where ports stand, signals between, the clock with that",
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="with --report: what differs from an earlier one's --json")
    parser.add_argument("--fmax", action="store_true", help="clock rate of a tile, placed and routed on an ECP5-85F")
    parser.add_argument("--check", action="store_true", help="lint and netlist check of the Verilog")
    add_json(parser)


def resource_table(machine: Machine, family: str, whole: Report) -> Table:
    """A row per unit, all its instances together and its clock alone, and the whole."""
    units = whole.units
    columns = ["unit", "count", "LUT", "FF", "DSP", "BRAM36" if family != "ecp5" else "BRAM18", "URAM", "LUT levels", "MHz"]
    rows: list[list[Cell]] = []
    each = [(unit.name, str(unit.count), unit.all, unit.clock) for unit in units]
    for name, count, resources, clock in [*each, ("whole", "", total(units), whole.clock)]:
        prefix = "" if name == "whole" else f"{name}."
        records = resource_records(machine, family, prefix, resources)
        records["mhz"] = clock_record(machine, family, f"{prefix}fmax_mhz", clock.likely)
        rows.append([name, count, *(shown(FORMS[key], record) for key, record in records.items())])
    return Table(f"{machine.name}, {family}, synthesised", columns, rows, RULE, marked=[len(units)])


def resource_records(machine: Machine, family: str, prefix: str, resources: Resources) -> dict[str, Record]:
    """One unit's, or with no prefix the whole design's."""
    records = {}
    for key, value in dataclasses.asdict(resources).items():
        name, unit = ("lut_levels", "LUT") if key == "levels" else (key, key)
        source = f"{SOURCE} --report, {family}"
        records[key] = Record(f"{prefix}{name}", value, unit, "synthesised", source, target=machine.name)
    return records


def clock_record(machine: Machine, family: str, name: str, mhz: float) -> Record:
    source = f"{SOURCE} --report, {family}: slowest path of the netlist (docs/clock.md)"
    return Record(name, round(mhz, 1), "MHz", "estimated", source, target=machine.name)


def path_table(clock: Clock) -> Table:
    """The slowest path, from cell to cell."""
    rows: list[list[Cell]] = [[f"{step.at:.2f}", step.kind, str(step.loads), step.net] for step in clock.path.steps]
    rows.append([f"{clock.path.ns:.2f}", clock.path.end, "", ""])
    return Table("slowest path, likely delays", ["ns", "through", "loads", "net"], rows)


def records_of_split(machine: Machine, family: str, split: Split) -> list[Record]:
    source = f"{SOURCE} --report --dies {split.plan.dies}, {family}"
    found = [
        Record(f"ports_of_die.{die}", count, "port", "synthesised", source, target=machine.name)
        for die, count in enumerate(split.plan.counts)
    ]
    found += [
        Record(f"lines_over_border.{k}", lines, "signal", "synthesised", source, target=machine.name)
        for k, lines in enumerate(split.lines)
    ]
    for delays, name in (
        ("likely", "dies_fmax_mhz"),
        ("high", "dies_fmax_mhz, high delays"),
        ("low", "dies_fmax_mhz, low delays"),
    ):
        found.append(Record(name, round(split.clock.mhz[delays], 1), "MHz", "estimated", source, target=machine.name))
    return found


def print_split(split: Split) -> None:
    low, likely, high = (split.clock.mhz[name] for name in ("high", "likely", "low"))  # delays
    ports = ", ".join(map(str, split.plan.counts))
    print(f"{split.plan.dies} dies with {ports} ports; signals over their borders: {', '.join(f'{n:,}' for n in split.lines)}")
    print(f"clock with these borders, estimated: {likely:.0f} MHz ({low:.0f} to {high:.0f})")
    show(path_table(split.clock))


def main(args: argparse.Namespace) -> int:
    if not args.report:
        refuse(args, ["--family", "--against", "--dies"], "is of --report, which was not given")
    if not (args.output or args.report or args.fmax or args.check):
        raise SkipopuError("nothing to do; give -o DIR, --report, --fmax or --check")
    machine = Machine.load(args.target)
    family = args.family or FAMILIES[machine.multiplier]
    before = earlier(args.against, machine, family) if args.against else None
    start = time.perf_counter()
    with doing(f"Verilog of {machine.name}"):
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
        with doing("lint"):
            warnings = lint(text)
        for line in warnings[:20]:
            print(line)
        with doing("netlist check"):
            check_netlist(text)
        print(f"lint: {len(warnings)} warnings beyond hw/lint.vlt; yosys check -assert, no latches: passed")
        records.append(Record("lint_warnings", len(warnings), "warning", "measured", SOURCE, target=machine.name))
        code = int(bool(warnings))
    if args.report:
        with Following() as progress:
            task = progress.add_task("synthesis", total=None)
            found = report(
                machine, family, lambda name: progress.update(task, advance=1, description=f"synthesis: {name}"), args.dies
            )
        table, units, clock = resource_table(machine, family, found), found.units, found.clock
        show(table)
        show(path_table(clock))
        low, likely, high = (clock.mhz[name] for name in ("high", "likely", "low"))  # delays
        print(f"clock, estimated: {likely:.0f} MHz ({low:.0f} to {high:.0f}); {machine.clock_mhz:g} MHz is what rates assume")
        products = products_per_cycle(machine)
        whole, tile = total(units).lut / products, next(u for u in units if u.name == "tile").all.lut / products
        print(f"{products} INT4 products per cycle: {tile:.1f} LUT each in the tiles, {whole:.1f} in the whole design")
        every = list(table.records)
        whole_design = every[-len(FORMS) :]
        records += [*whole_design, *every[: -len(FORMS)]]
        records += [clock_record(machine, family, f"fmax_mhz, {delay} delays", clock.mhz[delay]) for delay in ("high", "low")]
        port_lut = found.luts.tile + found.luts.write
        print(f"units of each port: {port_lut:,.0f} LUT")
        if found.split is not None:
            print_split(found.split)
            records += records_of_split(machine, family, found.split)
        for name, value, unit in (
            ("tile.lut_per_product", round(tile, 2), "LUT"),
            ("lut_per_product", round(whole, 2), "LUT"),
            ("lut_per_port", round(port_lut, 1), "LUT"),
        ):
            records.append(Record(name, value, unit, "synthesised", f"{SOURCE} --report, {family}", target=machine.name))
        if before is not None:
            differs = changes(before, figures_of(records))
            show(differs) if differs.rows else print(f"no unit differs from {args.against}")
    if args.fmax:
        with doing("place and route"):
            mhz, cells = ecp5_fmax(machine)
        print(
            f"one tile on ECP5-85F: {mhz:.1f} MHz, {cells.lut:g} LUT4, {cells.ff:g} FF, {cells.dsp:g} multipliers (out of context, seed 1)"
        )
        records.append(
            Record(
                "tile.routed_fmax_mhz",
                round(mhz, 1),
                "MHz",
                "synthesised",
                "nextpnr-ecp5, one tile, out of context, seed 1",
                target=machine.name,
            )
        )
    if args.json:
        inputs = {
            "target": args.target,
            "family": family,
            "dies": args.dies,
            "fingerprint": machine.fingerprint,
            "structure": structure(text),
        }
        write_json(args.json, "hdl", inputs, records)
    return code
