"""``skipopu host``."""

from __future__ import annotations

import argparse
import io
import sys
import time
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from boards.host.device import Device
from boards.host.line import Line, LinkError
from boards.host.transport import SerialTransport, Transport
from sim.command.common import (
    Typed,
    add_model_arguments,
    add_run_arguments,
    console,
    inputs_of,
    load_program,
    outputs_of,
    run_of,
    warn,
)
from sim.functional import engine as functional
from sim.result import SATURATED, Counted
from skipopu.arguments import natural, positive, refuse, seconds
from skipopu.errors import SkipopuError
from skipopu.link import BAUD
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.report import Record, write_json

SIMULATED_CYCLES_PER_BIT = 5  # a simulated line has no reason to be slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.set_defaults(target="ulx3s")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--port", metavar="DEVICE", help="serial port of an ULX3S, as in /dev/ttyUSB0 or COM3")
    way.add_argument("--simulate", action="store_true", help="the ULX3S' own top level under Verilator instead, bit by bit")
    way.add_argument("--xclbin", metavar="FILE", help="Alveo: the linked kernel, through XRT")
    way.add_argument("--overlay", metavar="FILE", help="KV260, ZCU104: the bitstream, through PYNQ on the board")
    parser.add_argument("--device", type=natural, default=0, metavar="N", help="of several Alveo boards; default 0")
    parser.add_argument(
        "--baud", type=positive, metavar="N", help=f"rate after the first words, which go at {BAUD}; default {BAUD}"
    )
    parser.add_argument("--no-load", action="store_true", help="the program is on the board already; it is read back there")
    parser.add_argument("--interactive", action="store_true", help="prompts from standard input, a line each")
    parser.add_argument(
        "--check", action="store_true", help="run the functional engine too; non-zero exit unless tokens are equal"
    )
    parser.add_argument("--seconds", type=seconds, default=600.0, help="longest wait for a run; default 600")
    add_run_arguments(parser, "def read(self, ", 64)


def open_transport(args: argparse.Namespace, program: Program) -> tuple[Transport, SerialTransport | None]:
    """The board that the options name; a second time when it is a serial line."""
    if args.xclbin is not None or args.overlay is not None:
        if args.xclbin is not None:
            from boards.host.xrt import XrtTransport

            return XrtTransport(args.xclbin, args.device), None
        from boards.host.zynq import PynqTransport

        return PynqTransport(args.overlay), None
    if args.simulate:
        from boards.open.flow import project
        from sim.ulx3s.build import simulate_project
        from sim.ulx3s.port import SimulatedPort

        with console.status("building the board's simulation (a minute, then cached)"):
            executable = simulate_project(project(program.machine))
        clock = program.machine.clock_mhz * 1e6
        port, name = SimulatedPort(executable, clock, BAUD), "simulated ULX3S"
        baud = round(clock / SIMULATED_CYCLES_PER_BIT) if args.baud is None else args.baud
    else:
        import serial

        try:
            opened: Any = serial.Serial(args.port, BAUD, timeout=0.5)  # pyserial's properties have no types
        except serial.SerialException as error:
            raise LinkError(f"{args.port}: cannot be opened ({error})") from None
        port, name = opened, args.port
        baud = BAUD if args.baud is None else args.baud
    transport = SerialTransport(Line(port, name))
    if baud != BAUD:
        transport.line.set_rate(baud)
    return transport, transport


def load(device: Device, program: Program) -> None:
    """Loads with a progress bar."""
    with Progress("loading", BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("load", total=None)
        device.load(
            program,
            lambda count: progress.advance(task, count),
            lambda total: progress.update(task, total=total),
        )


def once(device: Device, program: Program, options: Run, args: argparse.Namespace) -> tuple[Counted, list[Record], bool]:
    """One prompt: its result, its figures, whether the functional engine agrees."""
    text = Typed(program)
    text.prompt(options)
    begin = time.perf_counter()
    result = device.run(program, options, text, args.seconds)
    seconds = time.perf_counter() - begin
    text.end()
    cycles = result.counters["CYCLES"]
    rate = len(result.tokens) / (cycles / (program.machine.clock_mhz * 1e6)) if cycles else 0.0
    console.print(
        f"{len(options.prompt)} prompt + {len(result.tokens)} new tokens, {cycles:,} cycles: {rate:.1f} tokens/s at"
        f" {program.machine.clock_mhz:g} MHz, prompt included; {seconds:.2f} s with the link"
    )
    kind = "simulated" if args.simulate else "measured"
    keys = {"target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    source = f"skipopu host, {device.transport.name}"
    records = [
        Record("cycles", cycles, "cycle", kind, source, **keys),
        Record("wall_s", round(seconds, 3), "s", "measured", source, **keys),
    ]
    if result.saturated:
        warn(SATURATED)
    agrees = True
    if args.check:
        agrees = functional.run(program, options).tokens == result.tokens
        console.print("tokens equal to the functional engine's" if agrees else "tokens differ from the functional engine's")
        records.append(Record("tokens_equal", int(agrees), "ratio", kind, source, **keys))
    return result, records, agrees


def main(args: argparse.Namespace) -> int:
    if args.xclbin is None:
        refuse(args, ["--device"], "is of --xclbin")
    if args.port is None and not args.simulate:
        refuse(args, ["--baud"], "is of a serial line")
    if args.interactive:
        refuse(args, ["--prompt", "--tokens"], "has no effect: --interactive reads prompts from standard input")
    program = load_program(args)
    prompt: tuple[int, ...] = ()
    if not args.interactive:
        prompt = run_of(args, program).prompt  # what cannot run is said before anything is loaded
    transport, serial_line = open_transport(args, program)
    records: list[Record] = []
    tokens: list[int] = []
    saturated = False
    code = 0
    try:
        device = Device(transport)
        if args.no_load:
            device.require(program)
            device.verify(program)
        else:
            load(device, program)
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes reach a byte-level model as they are
        lines = (line.rstrip("\n") for line in sys.stdin) if args.interactive else iter([args.prompt])
        for line in lines:
            if args.interactive and not line:
                continue
            args.prompt = line
            try:
                result, more, agrees = once(device, program, run_of(args, program), args)
            except SkipopuError as error:
                if not args.interactive or isinstance(error, LinkError):
                    raise
                console.print(str(error))
                continue
            records += more
            tokens += result.tokens
            saturated |= result.saturated
            code = max(code, int(not agrees))
        if serial_line is not None and serial_line.line.repeated:
            console.print(f"{serial_line.line.repeated} requests had to be repeated: the line loses bytes")
    finally:
        if serial_line is not None:
            serial_line.line.port.close()
    if args.json:
        write_json(args.json, "host", inputs_of(args, program), records, outputs_of(program, prompt, tokens, saturated))
    return code
