"""``skipopu hdl``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hw.emit import overlay_verilog
from skipopu.isa.registers import HOST_REGISTERS
from skipopu.machine.config import Machine
from skipopu.report import Record, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="tiny", help="target name or machine description (.yaml)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory to write overlay.v and registers.csv to")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as records")


def main(args: argparse.Namespace) -> int:
    machine = Machine.load(args.target)
    start = time.perf_counter()
    text = overlay_verilog(machine)
    seconds = time.perf_counter() - start
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "overlay.v").write_text(text)
    rows = ["address,name,access,meaning", *(f'{r.address:#04x},{r.name},{r.access},"{r.meaning}"' for r in HOST_REGISTERS)]
    (args.output / "registers.csv").write_text("\n".join(rows) + "\n")
    print(
        f"{args.output / 'overlay.v'}: {len(text)} bytes in {seconds:.1f} s, top module overlay, machine {machine.fingerprint}"
    )
    if args.json:
        source = "skipopu hdl"
        records = [
            Record("verilog_bytes", len(text), "byte", "measured", source, target=machine.name),
            Record("wall_s", round(seconds, 2), "s", "measured", source, target=machine.name),
        ]
        write_json(args.json, "hdl", {"target": args.target}, records)
    return 0
