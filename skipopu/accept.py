"""What a value read from a file may be: its test and the words of the error, declared together."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skipopu.errors import SkipopuError

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """``value`` in one line of an error, shortened where it is long."""
    try:
        return _short.repr(value)
    except ValueError:  # Python prints no integers of thousands of digits
        return "an integer of thousands of digits"


@dataclass(frozen=True)
class Accepted:
    """A kind of value; ``text`` completes "accepted: ...", ``holds`` never raises."""

    text: str
    holds: Callable[[Any], bool]

    def __or__(self, other: Accepted) -> Accepted:
        return Accepted(f"{self.text} or {other.text}", lambda value: self.holds(value) or other.holds(value))

    def check(self, value: Any, what: str, error: type[SkipopuError]) -> Any:
        """``value``; raises ``error`` naming ``what`` (file and key), the value and what is accepted."""
        if not self.holds(value):
            raise error(f"{what} is {shown(value)}; accepted: {self.text}")
        return value


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int, most: int) -> Accepted:
    return Accepted(f"an integer from {least} to {most}", lambda value: _integer(value) and least <= value <= most)


def number(least: float, most: float) -> Accepted:
    """A finite number, NaN being outside every range."""
    return Accepted(
        f"a number from {least:g} to {most:g}",
        lambda value: (_integer(value) or isinstance(value, float)) and least <= value <= most,
    )


def one_of(values: Iterable[Any]) -> Accepted:
    """One of ``values``, of the same type: 1 is not True."""
    known = tuple(values)
    text = " or ".join("null" if value is None else repr(value) for value in known)
    return Accepted(text, lambda value: any(type(value) is type(k) and value == k for k in known))


def list_of(kind: Accepted) -> Accepted:
    return Accepted(
        f"a list (of {kind.text})", lambda value: isinstance(value, list | tuple) and all(kind.holds(item) for item in value)
    )


INTEGER = Accepted("an integer", whole(-(1 << 63), (1 << 63) - 1).holds)
NUMBER = Accepted("a finite number", number(-sys.float_info.max, sys.float_info.max).holds)
BOOLEAN = Accepted("true or false", lambda value: isinstance(value, bool))
TEXT = Accepted("printable text", lambda value: isinstance(value, str) and value.isprintable())
NULL = one_of([None])
MAPPING = Accepted("a mapping of names", lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value))


def read_json(path: Path, error: type[SkipopuError]) -> dict[str, Any]:
    """The object in a JSON file; raises ``error`` naming the file when it cannot be read or holds something else."""
    return _read(path, "JSON", json.loads, error)


def read_yaml(path: Path, error: type[SkipopuError]) -> dict[str, Any]:
    """The mapping in a YAML file; raises ``error`` naming the file when it cannot be read or holds something else."""
    return _read(path, "YAML", yaml.safe_load, error)


def _read(path: Path, form: str, parse: Callable[[str], Any], error: type[SkipopuError]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from None
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not valid {form} ({reason})") from None
    try:
        data = parse(text)
    except (
        Exception
    ) as reason:  # PyYAML's constructors raise what they meet: KeyError, AttributeError, ValueError, RecursionError
        raise error(f"{path}: not valid {form} ({' '.join(str(reason).split())})") from None
    return MAPPING.check(data, f"{path}: the content", error)
