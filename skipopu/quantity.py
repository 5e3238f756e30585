"""Numbers with a unit that fits their size."""

from __future__ import annotations

PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def prefix(value: float) -> tuple[float, str]:
    """(factor, prefix) that bring ``value`` between 1 and 1000."""
    return next((p for p in PREFIXES if abs(value) >= 0.9995 * p[0]), PREFIXES[-1] if value else (1.0, ""))


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """``value`` with a prefix before ``unit`` and at least ``digits`` digits: 0.0034 s is 3.40 ms."""
    factor, name = prefix(value)
    scaled = value / factor
    whole = len(str(int(abs(scaled) * 1.0005)))
    return f"{scaled:.{max(0, digits - whole)}f} {name}{unit}"


def seconds(value: float) -> str:
    return quantity(value, "s")


def size(value: float) -> str:
    """Bytes."""
    return quantity(value, "B", 4)
