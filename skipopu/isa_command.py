"""``skipopu isa``."""

from __future__ import annotations

import argparse
from pathlib import Path

from skipopu.arguments import add_json
from skipopu.errors import ProgramError
from skipopu.isa.asm import assemble, disassemble
from skipopu.isa.doc import markdown, table
from skipopu.isa.spec import INSTRUCTIONS
from skipopu.program.file import FILE_NAME
from skipopu.program.listing import listing
from skipopu.program.program import Program
from skipopu.report import Record, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="the full reference, as in docs/isa.md")
    what.add_argument("--assemble", type=Path, metavar="FILE", help="print the hexadecimal words of a listing")
    what.add_argument("--disassemble", type=Path, metavar="FILE", help="listing of a compiled program or of hexadecimal words")
    add_json(parser, "write instructions, registers and error codes")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProgramError(f"{path}: cannot be read as text ({error})") from None


def main(args: argparse.Namespace) -> int:
    if args.assemble:
        for word in assemble(_text(args.assemble)):
            print(f"{word:032x}")
    elif args.disassemble:
        if args.disassemble.is_dir() or args.disassemble.name == FILE_NAME:
            print(listing(Program.load(args.disassemble)), end="")
        else:
            for number, line in enumerate(_text(args.disassemble).split(), 1):
                try:
                    print(disassemble(int(line, 16)))
                except ValueError:
                    raise ProgramError(f"{args.disassemble}: word {number} is {line!r}; hexadecimal is needed") from None
    elif args.markdown:
        print(markdown(), end="")
    else:
        for instruction in INSTRUCTIONS:
            opcode, used = instruction.opcode, instruction.used_bits
            print(f"{opcode:2} {instruction.name:8} {instruction.unit:9} {used:3} bits  {instruction.semantics}")
    if args.json:
        records = [Record(f"{i.name}.bits", i.used_bits, "bit", "derived", "skipopu/isa/spec.py") for i in INSTRUCTIONS]
        write_json(args.json, "isa", {}, records, table())
    return 0
