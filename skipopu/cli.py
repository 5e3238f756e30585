"""The ``skipopu`` command: names of commands to modules, imported when asked for."""

from __future__ import annotations

import argparse
import importlib
import sys

from skipopu import __version__
from skipopu.errors import SkipopuError

# name -> (module with add_arguments(parser) and main(args), one line)
COMMANDS = {
    "demo": ("sim.command.demo", "the shipped model on all four engines, cross-checked, with and without skipping"),
    "compile": ("compiler.command", "a checkpoint directory to program, memory image, listing and report"),
    "run": ("sim.command.run", "one engine: streams text, prints tokens and cycles"),
    "eval": ("sim.command.eval", "bits per byte of a text"),
    "check": ("sim.command.check", "all engines on the same input; non-zero exit on any mismatch"),
    "compare": ("sim.command.compare", "a model on a machine against GPUs and FPGAs on the same work; Markdown, HTML, records"),
    "sweep": ("sim.command.sweep", "many machines and workloads on all cores; CSV, Parquet, Pareto plot"),
    "study": ("sim.command.study", "a documented study as table, plot and records: pe, fusion, kv, timing"),
    "hdl": ("hw.command", "Verilog of a target, its register map, resources by synthesis, checks"),
    "boards": ("boards.command.boards", "boards, whether machines fit them, expected tokens per second"),
    "build": ("boards.command.build", "bitstream on open tools, or a complete project for the vendor's"),
    "host": ("boards.command.host", "a board over its serial line, or its simulation: load, prompt, tokens"),
    "isa": ("skipopu.isa.command", "the instruction table; assemble, disassemble"),
    "cache": ("skipopu.cache_command", "builds kept between runs: where, how large, --clear"),
    "doctor": ("sim.command.doctor", "checks this machine's tools"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="skipopu", description="FPGA overlay processor for language models with dynamically allocated computation."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((a for a in arguments if a in COMMANDS), None)
    modules = {}
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == wanted:
            modules[name] = importlib.import_module(module)
            modules[name].add_arguments(sub)
    args = parser.parse_args(arguments)
    try:
        return modules[args.command].main(args)
    except SkipopuError as error:
        print(f"skipopu {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
