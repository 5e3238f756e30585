"""Human-readable listing of a program."""

from __future__ import annotations

from skipopu.isa.asm import disassemble
from skipopu.program.program import Program


def listing(program: Program) -> str:
    """The memory map and every instruction with the layer and tensor behind it."""
    lines = [f"; {program.machine.name}, {program.numerics}, kv {program.kv}, context {program.context}"]
    for name, region in program.regions.items():
        lines.append(f"; {region.address:#010x} {region.size:>9} bytes per port  {name}")
    width = max(len(disassemble(word)) for word in program.instructions)
    for index, (word, note) in enumerate(zip(program.instructions, program.notes, strict=True)):
        lines.append(f"{index:3}: {disassemble(word):<{width}}  ; {note}")
    return "\n".join(lines) + "\n"
