"""Weight formats in hardware: what a MATMUL's format code says about nibbles and their pairs, on a machine with these ``formats``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

from skipopu.isa.spec import MATMUL
from skipopu.numerics.formats import SIGNED, UNSIGNED, Format
from skipopu.numerics.packing import WEIGHT_BITS

FORMAT_BITS = MATMUL.by_name["format"].width


def one_of(code: Value, formats: Iterable[Format]) -> Value:
    """Whether ``code`` is one of these formats'."""
    found = [code == form.code for form in formats]
    return Cat(found).any() if found else Const(0)


def two_digits(code: Value, formats: Sequence[Format]) -> Value:
    """Whether a pair is the two digits of one row, not two rows."""
    return one_of(code, (form for form in formats if form.two_digits))


def zero_points(code: Value, formats: Sequence[Format]) -> Value:
    """Whether groups have zero points."""
    return one_of(code, (form for form in formats if form.zero_points))


def integer(
    m: Module, nibble: Value, code: Value, member: int, name: str, formats: Sequence[Format], centred: bool = False
) -> Value:
    """What ``nibble`` stands for as a pair's ``member`` (0 or 1) in format ``code``: signed, WEIGHT_BITS, combinational.

    A format whose nibbles are plain numbers costs a sign bit, or, ``centred``, is less 8, a bit shorter where no format has a table; one
    with a table costs it per multiplier.
    """
    tables = [form for form in formats if form.digits[member] not in (SIGNED, UNSIGNED)]
    plain = [form for form in formats if form.digits[member] == UNSIGNED]
    sign: Value = nibble[3]
    if plain:
        sign = sign ^ one_of(code, plain) if centred else sign & ~one_of(code, plain)
    result = Signal(signed(WEIGHT_BITS if tables or not centred else WEIGHT_BITS - 1), name=name)
    m.d.comb += result.eq(Cat(nibble[:3] if centred else nibble, sign).as_signed())
    for form in tables:
        with m.If(code == form.code):
            with m.Switch(nibble):
                for k, value in enumerate(form.digits[member]):
                    with m.Case(k):
                        m.d.comb += result.eq(value)
    return result
