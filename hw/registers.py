"""The register map for people and for C."""

from __future__ import annotations

from skipopu import shell
from skipopu.isa.registers import (
    HOST_REGISTERS,
    ISA_VERSION,
    MAGIC,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_OWED,
    STATUS_RUNNING,
    STATUS_SATURATED,
    Error,
)


def _registers(ports: int) -> list[tuple[int, str, str, str]]:
    """(address, name, access, meaning); with ``ports`` those of a vendor shell too."""
    rows = [(r.address, r.name, r.access, r.meaning) for r in HOST_REGISTERS]
    if ports:
        rows.append((shell.RESET, "RESET", "w", "a write resets the overlay (shell)"))
    for p in range(ports):
        base = shell.base_register(p)
        rows.append((base, f"BASE_{p:02}_LOW", "rw", f"where port {p}'s memory starts, bytes, a multiple of 4096 (shell)"))
        rows.append((base + 4, f"BASE_{p:02}_HIGH", "rw", "its upper half"))
    return rows


def register_table(ports: int = 0) -> str:
    """CSV of the registers; those of a vendor shell with ``ports`` memory ports behind the overlay's."""
    rows = [f'{address:#05x},{name},{access},"{meaning}"' for address, name, access, meaning in _registers(ports)]
    return "\n".join(["address,name,access,meaning", *rows]) + "\n"


def c_header(ports: int = 0) -> str:
    """A C header with addresses, status bits and error codes."""
    lines = ["/* Registers of the skipopu overlay: byte addresses on its AXI4-Lite port, 32 bits each. Generated. */"]
    lines += ["#ifndef SKIPOPU_H", "#define SKIPOPU_H", ""]
    for address, name, access, meaning in _registers(ports):
        lines.append(f"#define SKIPOPU_{name} {address:#05x}u /* {access}: {meaning} */")
    lines += ["", f"#define SKIPOPU_MAGIC_VALUE {MAGIC:#010x}u", f"#define SKIPOPU_ISA_VERSION {ISA_VERSION}u", ""]
    status = {"RUNNING": STATUS_RUNNING, "DONE": STATUS_DONE, "ERROR": STATUS_ERROR, "SATURATED": STATUS_SATURATED}
    status["OWED"] = STATUS_OWED
    lines += [f"#define SKIPOPU_STATUS_{name} {value}u" for name, value in status.items()]
    lines += ["", "enum skipopu_error {", *(f"    SKIPOPU_ERROR_{code.name} = {code.value}," for code in Error), "};", ""]
    return "\n".join([*lines, "#endif"]) + "\n"
