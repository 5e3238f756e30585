"""``skipopu build``."""

from __future__ import annotations

import argparse
import time
from functools import partial

from boards.board import Board, check, names, outdated, resources_of
from sim.command.common import console, inputs_of, out, warn
from skipopu.arguments import add_json, add_seed, output_directory
from skipopu.machine.config import Machine
from skipopu.report import Cell, Record, Table, shown, write_json
from skipopu.terminal import doing, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, choices=names(), help="the board")
    parser.add_argument("--target", help="machine to build, name or .yaml; default the board's own")
    parser.add_argument(
        "-o",
        "--output",
        type=output_directory,
        required=True,
        help="directory for bitstream and reports, or the vendor project",
    )
    add_seed(parser, "of place and route", 1)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    board = Board.load(args.board)
    machine = Machine.load(args.target or board.target)
    with doing(f"does {machine.name} fit {board.title}?"):
        check(board, machine, resources_of(machine))
        old = outdated(machine)
    if old:
        warn(old)
    records = build_open(board, machine, args) if board.flow == "open" else write_vendor(board, machine, args)
    if args.json:
        inputs = inputs_of(args) | {"target": machine.name, "fingerprint": machine.fingerprint}
        write_json(args.json, "build", inputs, records)
    return 0


def build_open(board: Board, machine: Machine, args: argparse.Namespace) -> list[Record]:
    """The bitstream."""
    from boards.open.flow import build

    begin = time.perf_counter()
    ran = False
    with doing("Verilog") as tell:

        def say(step: str) -> None:
            nonlocal ran
            ran = True
            tell(step)
            if not console.is_terminal and ":" not in step:
                console.print(step)

        result = build(machine, args.output, args.seed, say)
    seconds = time.perf_counter() - begin
    rows: list[list[Cell]] = []
    source = f"nextpnr-ecp5, seed {args.seed}"
    record = partial(Record, target=machine.name, system=board.name)
    records = [
        record("fmax_mhz", round(result.fmax_mhz, 2), "MHz", "synthesised", source),
        record("clock_mhz", result.clock_mhz, "MHz", "synthesised", source),
        record("bitstream_bytes", result.path.stat().st_size, "byte", "synthesised", "ecppack"),
        record("wall_s", round(seconds, 1), "s", "measured", "skipopu build"),
    ]
    for name, (used, available) in result.utilisation.items():
        one = record(name.lower(), used, name, "synthesised", source)
        records.append(one)
        share = shown(lambda used, available=available: f"{used / available:.0%}", one)
        rows.append([name, shown("{:,}", one), f"{available:,}", share])
    show(Table(f"{machine.name} on {board.title}", ["cells", "used", "available", "share"], rows))
    out.print(
        f"{result.path}: {result.path.stat().st_size:,} bytes; {result.fmax_mhz:.2f} MHz reached, {result.clock_mhz:g} asked for;"
        f" {f'{seconds:.0f} s' if ran else 'kept from an earlier build'}"
    )
    return records


def write_vendor(board: Board, machine: Machine, args: argparse.Namespace) -> list[Record]:
    """The project for the vendor's tools, which are not run."""
    from boards.vendor.project import project

    begin = time.perf_counter()
    with doing("Verilog"):
        files = project(board, machine)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (args.output / name).write_text(text)
    out.print(f"{args.output}: {', '.join(files)}")
    out.print(f"Next: README.md there. {'Vitis' if board.flow == 'vitis' else 'Vivado'} was not run.")
    size = sum(len(text) for text in files.values())
    record = partial(Record, target=machine.name, system=board.name)
    return [
        record("project_bytes", size, "byte", "measured", "skipopu build"),
        record("wall_s", round(time.perf_counter() - begin, 1), "s", "measured", "skipopu build"),
    ]
