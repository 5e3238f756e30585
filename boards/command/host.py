"""``skipopu host``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from boards.command.figures import Figures
from boards.command.talk import add_talk_arguments, converse, talk_asked
from boards.host.device import Device
from boards.host.instance import Instance
from boards.host.line import Line, LinkError
from boards.host.transport import SerialTransport, Transport
from sim.command.chat import conversation, turns_of
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
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.report import Record, write_json
from skipopu.sampling import Sampling
from skipopu.terminal import doing

OF_ABORT = {"--abort", "--port", "--baud", "--xclbin", "--device", "--overlay"}
SIMULATED_CYCLES_PER_BIT = 5  # a simulated line has no reason to be slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, optional=True)
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
    parser.add_argument(
        "--abort",
        action="store_true",
        help="without a model: end the run that is under way, whoever began it, and reset the machine; nothing is loaded",
    )
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="a conversation: messages from the terminal or from standard input, a line each, as skipopu chat takes them",
    )
    parser.add_argument(
        "--check", action="store_true", help="run the functional engine too; non-zero exit unless tokens are equal"
    )
    parser.add_argument("--seconds", type=seconds, default=600.0, help="longest wait for a run; default 600")
    add_run_arguments(parser, "def read(self, ", 64, seed="of random routing, or of what is drawn")
    add_talk_arguments(parser)


def open_transport(args: argparse.Namespace, machine: Machine | None = None) -> tuple[Transport, SerialTransport | None]:
    """The board that the options name; a second time when it is a serial line. A simulation is of ``machine``."""
    if args.xclbin is not None or args.overlay is not None:
        if args.xclbin is not None:
            from boards.host.xrt import XrtTransport

            return XrtTransport(args.xclbin, args.device), None
        from boards.host.zynq import PynqTransport

        return PynqTransport(args.overlay), None
    if args.simulate:
        assert machine is not None
        from boards.open.flow import project
        from sim.ulx3s.build import simulate_project
        from sim.ulx3s.port import SimulatedPort

        with doing("building the board's simulation (a minute, then cached)"):
            executable = simulate_project(project(machine))
        clock = machine.clock_mhz * 1e6
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


def once(
    device: Device, program: Program, run: Run, figures: Figures, args: argparse.Namespace
) -> tuple[Counted, list[Record], bool]:
    """One prompt: its result, its figures, whether the functional engine agrees."""
    text = Typed(program)
    text.prompt(run)
    begin = time.perf_counter()
    result = device.run(program, run, text, args.seconds)
    seconds = time.perf_counter() - begin
    text.end()
    records = figures.took(f"{len(run.prompt)} prompt", len(result.tokens), result.counters["CYCLES"], seconds)
    if result.saturated:
        warn(SATURATED)
    agrees = True
    if args.check:
        agrees = functional.run(program, run).tokens == result.tokens
        records += figures.compared(agrees)
    return result, records, agrees


@contextmanager
def opened(args: argparse.Namespace, machine: Machine | None = None) -> Iterator[Device]:
    """The board, reset; its line is closed behind it."""
    transport, serial_line = open_transport(args, machine)
    try:
        yield Device(transport)
        if serial_line is not None and serial_line.line.repeated:
            console.print(f"{serial_line.line.repeated} requests had to be repeated: the line loses bytes")
    finally:
        if serial_line is not None:
            serial_line.line.port.close()


@contextmanager
def loaded(args: argparse.Namespace, program: Program) -> Iterator[Device]:
    """The board with the program."""
    with opened(args, program.machine) as device:
        if args.no_load:
            device.require(program)
            device.verify(program)
        else:
            load(device, program)
        yield device


def abort(args: argparse.Namespace) -> int:
    """Ends what the board executes, and leaves it ready."""
    if args.model is not None:
        raise SkipopuError(f"--abort takes no model; {args.model} was given")
    refuse(args, sorted(args.given - OF_ABORT), "has no effect: --abort only ends a run")
    with opened(args) as device:
        said = "the run was ended" if device.aborted else "no run was under way"
        print(f"{device.transport.name}: {said}; the machine is reset")
    return 0


def main(args: argparse.Namespace) -> int:
    if args.xclbin is None:
        refuse(args, ["--device"], "is of --xclbin")
    if args.port is None and not args.simulate:
        refuse(args, ["--baud"], "is of a serial line")
    if args.abort:
        return abort(args)
    if args.model is None:
        raise SkipopuError("a model is needed: a checkpoint's directory, a compiled program's, or a shipped model's name")
    sampling = talk_asked(args)
    if sampling is not None:
        return interact(args, sampling)
    program = load_program(args)
    run = run_of(args, program)  # what cannot run is said before anything is loaded
    with loaded(args, program) as device:
        figures = Figures(program, device.transport.name, args.simulate)
        result, records, agrees = once(device, program, run, figures, args)
    if args.json:
        outputs = outputs_of(program, run.prompt, result.tokens, result.saturated)
        write_json(args.json, "host", inputs_of(args, program), records, outputs)
    return int(not agrees)


def interact(args: argparse.Namespace, sampling: Sampling) -> int:
    """A conversation; a board samples from the logits that its program stores."""
    program = load_program(args, logits=not sampling.greedy)
    conversation(args, program, sampling, "functional")  # what cannot be said is told before anything is loaded
    records: list[Record] = []
    with loaded(args, program) as device:
        figures = Figures(program, device.transport.name, args.simulate)
        talk = conversation(args, program, sampling, Instance(device, program, args.seconds))
        try:
            agree = converse(talk, figures, args.max_new, args.check, records.extend)
        finally:
            talk.close()
            if args.json:
                args.prompt = None
                write_json(args.json, "host", inputs_of(args, program), records, {"turns": turns_of(talk)})
    return int(not agree)
