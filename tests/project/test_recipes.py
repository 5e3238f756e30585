"""What docs/recipes.md shows is run: declared where it says, then used as it says."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipopu as sk
from boards import board
from boards.vendor import project
from skipopu import cli, policy
from skipopu.isa import asm, doc, spec
from skipopu.isa.fields import check_opcodes
from skipopu.numerics import formats

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
HEADINGS = re.findall(r"^## (.+)$", PAGE.read_text(), re.M)


def blocks(heading: str, language: str = "python") -> list[str]:
    """The fenced blocks of one recipe."""
    (recipe,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return re.findall(rf"^```{language}\n(.*?)^```", recipe, re.M | re.S)


def declared(block: str) -> dict[str, Any]:
    """What a block leaves behind in a copy of the module that its first line names."""
    path = Path(block.splitlines()[0].removeprefix("# "))
    names = dict(vars(importlib.import_module(".".join(path.with_suffix("").parts))))
    exec(compile(block, str(path), "exec"), names)
    return names


def used(block: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(block, PAGE.name, "exec"), names)
    return names


def test_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, use = blocks("An instruction")
    names = declared(declaration)
    scale = names["SCALE"]
    check_opcodes(names["INSTRUCTIONS"])
    monkeypatch.setattr(spec, "INSTRUCTIONS", names["INSTRUCTIONS"])
    monkeypatch.setitem(spec.BY_OPCODE, scale.opcode, scale)
    monkeypatch.setitem(spec.BY_NAME, scale.name, scale)
    word = used(use, names | {"assemble": asm.assemble, "disassemble": asm.disassemble})["word"]
    program = sk.compile("pybyte-300k", target="ulx3s")
    program.instructions.append(word)
    program.notes.append("last: scaled")
    assert re.search(r"42: SCALE list=3 .* ; last: scaled\n$", sk.listing(program))
    assert "## SCALE (opcode 17, vector)" in doc.markdown()


def test_hardware_unit() -> None:
    unit, test = blocks("A hardware unit")
    names = used(unit, {"__name__": "recipe"})
    assert names["Clamp"](8, 3).declared.meanings == {"numbers": "numbers", "limited": "the same, limited"}
    used(test, names)
    with pytest.raises(AssertionError):
        used(test, names | {"max": min})  # another model


def test_weight_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, use = blocks("A weight format")
    names = declared(declaration)
    ternary = names["TERNARY"]
    monkeypatch.setattr(formats, "FORMATS", names["FORMATS"])
    monkeypatch.setitem(formats.BY_CODE, ternary.code, ternary)
    monkeypatch.setitem(formats.BY_NAME, ternary.name, ternary)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ternary.yaml").write_text(blocks("A weight format", "yaml")[0])
    names = used(use, names | {"sk": sk, "np": np})
    codes = ternary.nibbles(names["q"])
    assert (ternary.integers(codes, ternary.zeros(names["q"])) == names["q"]).all()
    ternary_run = sk.run(names["program"], "def ", max_new=8)
    int4 = sk.run(sk.compile("pybyte-300k", target="ulx3s"), "def ", max_new=8)
    assert (ternary_run.memory[0] != int4.memory[0]).any()


def test_skip_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, use = blocks("A skip policy")
    names = declared(declaration)
    sinks = names["SINKS"]
    monkeypatch.setattr(policy, "SKIP_POLICIES", names["SKIP_POLICIES"])
    monkeypatch.setitem(policy.BY_CODE, sinks.code, sinks)
    monkeypatch.setitem(policy.WHOLE_RUN, sinks.name, sinks)
    used(use, {"sk": sk})


def test_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (description,) = blocks("A board", "yaml")
    shutil.copytree(board.DESCRIPTIONS, tmp_path / "descriptions")
    monkeypatch.setattr(board, "DESCRIPTIONS", tmp_path / "descriptions")
    (tmp_path / "descriptions" / "kr260.yaml").write_text(description)
    resources = json.loads((board.COMMITTED / "kv260.json").read_text())["inputs"]
    monkeypatch.setattr(board, "structure_of", lambda machine: resources["structure"])  # ten seconds; another test's
    monkeypatch.setattr(project, "shell_verilog", lambda machine, gearbox: "module")  # seconds; any machine's
    assert "kr260" in board.names()
    assert cli.main(["build", "--board", "kr260", "-o", str(tmp_path / "kr260")]) == 0
    assert "kr260_som" in (tmp_path / "kr260" / "build.tcl").read_text()
    assert (tmp_path / "kr260" / "registers.csv").exists()


def test_every_recipe_is_run() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {re.sub(r"^an? ", "", heading.lower()).replace(" ", "_") for heading in HEADINGS} <= tests
