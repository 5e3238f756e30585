"""The table of faults fits the hardware, its page shows it, and tests notice a sample of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from skipopu.errors import SkipopuError
from tests.mutations import __main__ as command
from tests.mutations.faults import FAULTS, Fault, changed
from tests.mutations.page import PAGE, markdown
from tests.mutations.run import ROOT, Outcome

UNITS = {file.parent for file in (ROOT / "hw").glob("*/**/*.py")} - {
    ROOT / "hw" / room for room in ("clock", "wiring", "pe/variants")
}


def applies(fault: Fault) -> str:
    """What is wrong with a fault's file and line, "" if they are there."""
    file = ROOT / fault.file
    if not file.is_file():
        return f"{fault.file}: there is no such file"
    try:
        changed(fault, file.read_text(encoding="utf-8"))
    except SkipopuError as error:
        return str(error)
    return ""


def test_every_line_stands_once_in_its_file() -> None:
    """Where a line was changed, its fault is to follow, or to go."""
    assert [problem for fault in FAULTS if (problem := applies(fault))] == []


def test_a_fault_changes_its_line_and_is_none_of_the_others() -> None:
    assert [fault for fault in FAULTS if fault.before == fault.after] == []
    assert len({(fault.file, fault.before, fault.after) for fault in FAULTS}) == len(FAULTS)


def test_every_folder_of_units_has_faults() -> None:
    assert {(ROOT / fault.file).parent for fault in FAULTS} == UNITS


@pytest.mark.parametrize("count", [0, 2])
def test_a_line_that_does_not_stand_once_is_an_error(count: int) -> None:
    with pytest.raises(SkipopuError, match=rf"f.py: line `a` occurs {count} times; a fault needs exactly one"):
        changed(Fault("f.py", "a", "b", "", ""), "  a\n" * count + "ab\n")


def test_a_change_keeps_its_indentation() -> None:
    assert changed(Fault("f.py", "a", "b", "", ""), "if a:\n    a\nc\n") == "if a:\n    b\nc\n"


def test_every_test_is_defined() -> None:
    for name in {fault.test for fault in FAULTS}:
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert function.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_the_page_shows_every_fault() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == markdown(), f"run `python -m tests.mutations -o {PAGE}`"


@pytest.mark.parametrize(
    ("plain", "faulty", "why"),
    [
        (Outcome(True, False, "", 1), Outcome(False, True, "assert 1 == 2", 1), ""),
        (Outcome(False, True, "assert 1 == 2", 1), Outcome(False, True, "assert 1 == 2", 1), "does not pass without the fault"),
        (Outcome(True, False, "", 1), Outcome(True, False, "", 1), "passes with"),
        (Outcome(True, False, "", 1), Outcome(False, False, "TypeError: no", 1), "but in no assertion: TypeError: no"),
    ],
)
def test_what_counts_as_noticed(plain: Outcome, faulty: Outcome, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "attempt", lambda test, fault=None: faulty if fault else plain)
    problem = command.missed(FAULTS[0])
    assert why in problem
    assert bool(problem) == bool(why)
    assert command.main(["--only", FAULTS[0].before]) == (1 if why else 0)


def test_a_page_of_some_faults_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--sample", "1", "-o", str(tmp_path / "page.md")]) == 2
    assert "-o writes a page of all faults" in capsys.readouterr().err
    assert command.main(["--only", "what no fault has"]) == 2
    assert "--only is 'what no fault has'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_test_is_collected() -> None:
    names = sorted({fault.test for fault in FAULTS})
    options = ["-p", "no:cacheprovider", "-q", "--collect-only", "-m", ""]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


@pytest.mark.slow
def test_a_sample_is_noticed() -> None:
    assert command.main(["--sample", "10", "--seed", "1"]) == 0
