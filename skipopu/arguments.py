"""What commands accept on the command line: argparse types, each with one sentence about what it takes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from skipopu.errors import SkipopuError


class Parser(argparse.ArgumentParser):
    """One sentence instead of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """An integer from ``least`` up to ``most``."""
    accepted = f"an integer of {least} or more" if most is None else f"an integer in {least}..{most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
            if value < least or (most is not None and value > most):
                raise ValueError
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted; {accepted} is needed") from None
        return value

    return parse


natural, positive = integer(0), integer(1)


def real(least: float, most: float, accepted: str, open_at_least: bool = False) -> Callable[[str], float]:
    """A finite number in a range; ``accepted`` is how an error says so."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least < value if open_at_least else least <= value) or not value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted; {accepted} is needed")
        return value

    return parse


LARGEST = (2 - 2**-23) * 2.0**127  # of FP32
ratio = real(0, 1, "a ratio in 0..1")
finite = real(-LARGEST, LARGEST, "a finite FP32 number")
seconds = real(0, 1e9, "a positive number of seconds", open_at_least=True)


def _place(path: Path, wanted: str) -> Path:
    """``path`` if it can be made and written; looked at before anything runs for hours."""
    first = next(p for p in (path, *path.absolute().parents) if p.exists())
    if first != path and not first.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: {first} is a file; {wanted} is needed")
    if not os.access(first, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path}: {first} cannot be written; {wanted} is needed")
    return path


def output_file(text: str) -> Path:
    """A file to be written; its directory is made."""
    path = Path(text)
    if not text or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a directory; the name of a file to write is needed")
    return _place(path, "the name of a file to write")


def output_directory(text: str) -> Path:
    """A directory to be written to; it is made."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; a directory to write to is needed")
    return _place(path, "a directory to write to")


def add_json(parser: argparse.ArgumentParser, what: str = "write the figures as records") -> None:
    """``--json``, which every command has."""
    parser.add_argument(
        "--json", type=lambda text: Path("-") if text == "-" else output_file(text), metavar="FILE", help=f"{what}; - is stdout"
    )


def add_seed(parser: argparse._ActionsContainer, of: str = "of random routing", default: int = 0) -> None:
    parser.add_argument("--seed", type=natural, default=default, metavar="N", help=f"{of}; default {default}")


def refuse(args: argparse.Namespace, options: Iterable[str], why: str) -> None:
    """Raises SkipopuError when one of ``options`` was given, which would change nothing; ``why`` follows its name."""
    for option in options:
        if option in args.given:
            raise SkipopuError(f"{option} {why}")
