"""The register map as a table and as a C header."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from hw.registers import c_header, register_table
from skipopu import shell
from skipopu.isa.registers import HOST, HOST_REGISTERS, MAGIC, Error


def test_table_is_csv_with_every_register() -> None:
    rows = list(csv.DictReader(io.StringIO(register_table())))
    assert {row["name"]: int(row["address"], 16) for row in rows} == {r.name: r.address for r in HOST_REGISTERS}
    with_shell = {row["name"]: int(row["address"], 16) for row in csv.DictReader(io.StringIO(register_table(2)))}
    assert with_shell["BASE_01_HIGH"] == shell.base_register(1) + 4
    assert with_shell["RESET"] == shell.RESET > max(r.address for r in HOST_REGISTERS)
    assert len(set(with_shell.values())) == len(with_shell)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C compiler")
def test_header_compiles_and_has_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "skipopu.h").write_text(c_header(2))
    checks = [f"SKIPOPU_STATUS == {HOST['STATUS'].address}", f"SKIPOPU_MAGIC_VALUE == {MAGIC}"]
    checks += [f"SKIPOPU_ERROR_{code.name} == {code.value}" for code in Error]
    checks += [f"SKIPOPU_BASE_01_LOW == {shell.base_register(1)}"]
    lines = ['#include "skipopu.h"', '#include "skipopu.h"', *(f'_Static_assert({check}, "");' for check in checks)]
    (tmp_path / "use.c").write_text("\n".join(lines) + "\n")
    command = ["g++", "-x", "c", "-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "use.c"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
