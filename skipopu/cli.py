"""The ``skipopu`` command: names of commands to modules, imported when asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipopu import __version__
from skipopu.errors import SkipopuError, not_known

# name -> (module with add_arguments(parser) and main(args), one line)
COMMANDS = {
    "demo": ("sim.command.demo", "the shipped model on all four engines, cross-checked, with and without skipping"),
    "compile": ("compiler.command", "a checkpoint directory to program, memory image, listing and report"),
    "quantise": (
        "sim.command.quantise",
        "a checkpoint's weights to INT4 or INT8, calibrated on text with skipping switched on",
    ),
    "calibrate": (
        "sim.command.calibrate",
        "thresholds that mask input channels, calibrated on text with skipping switched on",
    ),
    "run": ("sim.command.run", "one engine: streams text, prints tokens and cycles"),
    "chat": (
        "sim.command.chat",
        "a conversation: greedy or sampled answers, streamed; what was said before is not computed again",
    ),
    "eval": ("sim.command.eval", "loss of a text: nats per token, bits per byte"),
    "check": ("sim.command.check", "all engines on the same input; non-zero exit on any mismatch"),
    "compare": ("sim.command.compare", "a model on a machine against GPUs and FPGAs on the same work; Markdown, HTML, records"),
    "sweep": ("sim.command.sweep", "many machines and workloads on all cores; CSV, Parquet, Pareto plot"),
    "study": (
        "sim.command.study",
        "a documented study as table, plot and records: accuracy, clock, families, fusion, kv, masks, pe, speculation, timing",
    ),
    "fuzz": ("sim.command.fuzz", "random machines, models and programs: functional engine against RTL, bit for bit"),
    "hdl": ("hw.command", "Verilog of a target, its register map, resources by synthesis, checks"),
    "boards": ("boards.command.boards", "boards, whether machines fit them, expected tokens per second"),
    "build": ("boards.command.build", "bitstream on open tools, or a complete project for the vendor's"),
    "host": ("boards.command.host", "a board over its serial line, or its simulation: load, prompt, tokens"),
    "isa": ("skipopu.isa_command", "the instruction table; assemble, disassemble"),
    "cache": ("skipopu.cache_command", "builds kept between runs: where, how large, --clear"),
    "doctor": ("sim.command.doctor", "checks this machine's tools"),
}
ROOMS = ("skipopu", "compiler", "hw", "sim", "boards")
INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")  # microseconds and a model's text where the locale lacks a character
    who = f"skipopu {arguments[0]}" if arguments and arguments[0] in COMMANDS else "skipopu"
    try:
        with interruptible():
            return run(arguments)
    except SkipopuError as error:
        problem = str(error)
    except BrokenPipeError:
        # What is left to be written has no reader; the interpreter would try once more.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ROOMS:
            raise
        problem = (
            f"the package {error.name.partition('.')[0]} is not installed; pip install skipopu brings what this command needs"
        )
    except OSError as error:
        if error.filename is None:
            raise
        problem = f"{os.fsdecode(error.filename)}: {error.strerror}"
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"{who}: {problem}", file=sys.stderr)
    return 2


def run(arguments: list[str]) -> int:
    """Parses and executes; ``args.given`` are the long options that were written out."""
    from skipopu.arguments import Parser  # here, where an interrupt is caught already

    # Options are written out, so that a later one changes no script's meaning.
    parser = Parser(
        prog="skipopu",
        description="FPGA overlay processor for language models with dynamically allocated computation.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"skipopu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = arguments[0] if arguments else None
    if wanted is not None and not wanted.startswith("-") and wanted not in COMMANDS:
        raise SkipopuError(not_known("command", wanted, COMMANDS))
    module: Any = None
    for name, (path, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == wanted:
            module = importlib.import_module(path)
            module.add_arguments(sub)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise SkipopuError(f"unrecognized arguments: {' '.join(unknown)} (see skipopu{f' {wanted}' if module else ''} --help)")
    if wanted is None:
        parser.print_help()
        return 0
    if module is None:
        raise SkipopuError(f"a command is needed; accepted: {', '.join(COMMANDS)}")
    args.given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    if getattr(args, "json", None) != Path("-"):
        return module.main(args)
    from skipopu.report import alone_on_stdout

    with alone_on_stdout():
        return module.main(args)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Sees to it that an interrupt ends the command although a destructor, where no exception gets out of, may receive it."""

    def again(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # Amaranth's, about what is left behind
        raise
    finally:
        sys.unraisablehook = before


if __name__ == "__main__":
    sys.exit(main())
