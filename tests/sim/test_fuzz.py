from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hw.emit import overlay_verilog
from sim.command import fuzz as command
from sim.fuzz.case import Case, case, from_dict, to_dict
from sim.fuzz.run import attempt, compiled, cycles_of, is_fault, replay
from sim.fuzz.shrink import shrink
from skipopu import cli
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.machine.files import describe
from skipopu.machine.memory import MemoryTiming

SEEDS = range(200)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case(seed) for seed in SEEDS]


def smallest() -> Case:
    """A case of the smallest machine, as a file of one would hold it."""
    machine = Machine.load("mono").to_dict() | {"name": "fuzz-test"}
    model = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 16,
    }
    program = {
        "model": model,
        "weights": {"seed": 0, "scale": 1.0, "routers": True},
        "compile": {"kv": "reuse", "group": 16, "context": 6},
        "run": {"prompt": [1, 2], "max_new": 1, "dial": 0.0, "check": True, "routing": "always"},
        "memory": {"stall": 0, "reorder": False, "seed": 1},
    }
    return Case(0, machine, (program,))


def with_a_run_behind(given: Case) -> Case:
    """``given`` with a longer run and one that keeps all but the last of the tokens that it computed."""
    again = {"kept": 3, "prompt": [3], "max_new": 2, "generated": False, "predict": True}
    program = given.programs[0]
    return dataclasses.replace(given, programs=({**program, "run": program["run"] | {"max_new": 3, "again": again}},))


def test_the_same_seed_gives_the_same_case_in_plain_data(cases: list[Case]) -> None:
    assert [case(seed) for seed in SEEDS[:20]] == cases[:20]
    assert len({json.dumps(to_dict(given), sort_keys=True) for given in cases}) == len(cases)
    for given in cases[:20]:
        assert json.dumps(to_dict(from_dict(json.loads(json.dumps(to_dict(given)))))) == json.dumps(to_dict(given))


def test_routers_of_two_layers_are_drawn_where_the_machine_has_what_they_take(cases: list[Case]) -> None:
    kinds = [(given.machine.get("adjust"), p["weights"].get("routers")) for given in cases for p in given.programs]
    two = [adjust for adjust, routers in kinds if routers == "two-layer"]
    assert len(two) > 30
    assert sum(adjust is True for adjust in two) > 0.9 * len(two)


def test_long_runs_reach_contexts_and_ports_that_others_do_not() -> None:
    long = [case(seed, long=True) for seed in SEEDS]
    assert (
        max(p["compile"]["context"] for given in long for p in given.programs if isinstance(p["compile"]["context"], int)) > 150
    )
    assert {given.machine.get("ports") for given in long} >= set(range(1, 17))
    again = from_dict(json.loads(json.dumps(to_dict(long[0]))))
    assert again.long
    hang = {"seed": 3, "long": True, "count": 4, "outcome": "hang", "number": 1, "message": ""}
    assert command.told(hang).endswith("--case 3 --long")
    assert command.told(hang | {"long": False, "count": 40}).endswith("--case 3 --programs 40")


def test_every_field_of_a_description_is_drawn(cases: list[Case]) -> None:
    drawn: dict[str, set[str]] = {}
    for given in cases:
        for name, value in given.machine.items():
            drawn.setdefault(name, set()).add(str(value))
        memory = given.machine.get("memory")
        for name, value in memory.items() if isinstance(memory, dict) else ():
            drawn.setdefault(f"memory.{name}", set()).add(str(value))
    fields = [f.name for f in dataclasses.fields(Machine)] + [f"memory.{f.name}" for f in dataclasses.fields(MemoryTiming)]
    assert {name for name in fields if len(drawn.get(name, ())) < 2} == set()


def test_runs_follow_others_from_a_position_that_is_kept(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [bool(program["run"].get("again")) for given in cases for program in given.programs]
    assert 0.3 < sum(drawn) / len(drawn) < 0.5
    (line,) = attempt(with_a_run_behind(smallest()), with_rtl=False)
    assert (line["outcome"], line["first"]) == ("agreed", 3)
    monkeypatch.setattr("sim.fuzz.run.following", lambda session, run, again: dataclasses.replace(run, first=4))
    (line,) = attempt(with_a_run_behind(smallest()), with_rtl=False)
    assert line["outcome"] == "difference"
    assert line["message"].startswith("the first position is 4; accepted")


@pytest.mark.slow
def test_about_a_third_is_refused_and_the_others_compile(cases: list[Case]) -> None:
    refused = 0
    for given in cases[:60]:
        try:
            for program in given.programs:
                compiled(given.machine, program)
        except SkipopuError:
            refused += 1
    assert 0.2 < refused / 60 < 0.6


def test_what_is_no_refusal_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    given = smallest()
    assert [line["outcome"] for line in attempt(given, with_rtl=False)] == ["agreed"]
    refused = dataclasses.replace(given, machine=given.machine | {"ports": 0})
    (line,) = attempt(refused, with_rtl=False)
    assert line["outcome"] == "refused"
    assert "ports is 0" in line["message"]
    monkeypatch.setattr("sim.fuzz.run.compile_checkpoint", lambda *a, **k: 1 // 0)
    (line,) = attempt(given, with_rtl=False)
    assert is_fault(line)
    assert "ZeroDivisionError" in line["message"]


def test_the_log_alone_gives_the_timing_again() -> None:
    (line,) = attempt(smallest(), with_rtl=False)
    again = json.loads(json.dumps(line))
    assert replay(again) == line["timing"]


def test_a_line_of_the_log_is_a_case_of_its_program_alone(cases: list[Case], tmp_path: Path) -> None:
    file = tmp_path / "line.json"
    for given in cases[:60]:
        program = {name: value for name, value in given.programs[-1].items() if name != "machine"}
        line = {"seed": given.seed, "outcome": "hang", **program, "machine": given.machine}
        file.write_text(json.dumps(line))
        assert command.read(str(file), False) == Case(given.seed, given.machine, (program,))
    assert any("masks" in given.programs[-1] for given in cases[:60])


def test_shrinking_keeps_the_fault_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(given: Case, keep: bool = False, verilog: str | None = None, with_rtl: bool = True) -> list[dict[str, Any]]:
        wrong = given.machine["ports"] > 2 and given.programs[0]["compile"]["kv"] == "dense"
        return [{"outcome": "difference" if wrong else "agreed", "stage": "rtl"}]

    monkeypatch.setattr("sim.fuzz.shrink.attempt", attempt)
    given = smallest()
    program = given.programs[0] | {"compile": given.programs[0]["compile"] | {"kv": "dense"}}
    machine = Machine.load("trio").to_dict() | {"ports": 5}
    line = {"seed": 0, "long": False, "number": 0, "machine": machine, "outcome": "difference", "stage": "rtl", **program}
    small = shrink(line, given)
    plain = Machine.load("mono").to_dict() | {"numerics": ["exact18"]}
    assert {name for name in plain if small["machine"][name] != plain[name]} == {"name", "ports"}
    assert small["programs"][0]["compile"]["kv"] == "dense"
    assert small["programs"][0]["run"]["prompt"] == [1]


def test_shrinking_keeps_the_programs_that_a_fault_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of four in front, on a machine with a memory of its own, leaves what the last one stumbles over."""

    def attempt(given: Case, keep: bool = False, verilog: str | None = None, with_rtl: bool = True) -> list[dict[str, Any]]:
        left = any(program["run"]["prompt"] == [1] and program["machine"]["clock_mhz"] == 7 for program in given.programs[:-1])
        agreed = [{"outcome": "agreed", "stage": "rtl"}] * (len(given.programs) - 1)
        return [*agreed, {"outcome": "hang" if left else "agreed", "stage": "rtl"}]

    monkeypatch.setattr("sim.fuzz.shrink.attempt", attempt)
    plain, given = smallest().programs[0], smallest()
    own = {**plain, "run": plain["run"] | {"prompt": [1]}, "machine": {"clock_mhz": 7}}
    given = dataclasses.replace(given, programs=(plain, own, plain, plain, plain))
    line = {"seed": 0, "long": False, "number": 4, "machine": given.machine, "outcome": "hang", "stage": "rtl", **plain}
    small = shrink(line, given)
    assert [program["run"]["prompt"] for program in small["programs"]] == [[1, 2], [1], [1, 2], [1, 2], [1]]
    assert attempt(from_dict(small))[-1]["outcome"] == "hang"


def test_a_fault_that_does_not_come_again_is_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def attempt(given: Case, keep: bool = False, verilog: str | None = None, with_rtl: bool = True) -> list[dict[str, Any]]:
        tried.append(len(given.programs))
        return [{"outcome": "agreed", "stage": "rtl"}] * len(given.programs)

    monkeypatch.setattr("sim.fuzz.shrink.attempt", attempt)
    plain = smallest().programs[0]
    given = dataclasses.replace(smallest(), programs=(plain,) * 6)
    line = {"seed": 0, "long": False, "number": 5, "machine": given.machine, "outcome": "hang", "stage": "rtl", **plain}
    assert shrink(line, given) is None
    assert tried == [1, 2, 3, 5, 6]  # with none, 1, 2, 4 and all five in front of it


def test_the_command_tells_counts_and_how_to_repeat(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, log, records = tmp_path / "case.json", tmp_path / "log.jsonl", tmp_path / "out.json"
    given = smallest()
    file.write_text(json.dumps(to_dict(given)))
    assert cli.main(["fuzz", "--case", str(file), "--no-rtl", "--log", str(log), "--json", str(records)]) == 0
    assert "1 descriptions: 1 agreed" in capfd.readouterr().out
    assert [json.loads(line)["outcome"] for line in log.read_text().splitlines()] == ["agreed"]
    assert {r["name"]: r["value"] for r in json.loads(records.read_text())["records"]}["faults"] == 0
    assert cli.main(["fuzz", "--case", "nothing.json"]) == 2


@pytest.mark.parametrize(("outcome", "code"), [("agreed", 0), ("hang", 1)])
def test_a_fault_decides_the_exit_code(monkeypatch: pytest.MonkeyPatch, outcome: str, code: int) -> None:
    line = {
        "seed": 3,
        "long": False,
        "count": 4,
        "number": 0,
        "machine": {},
        "outcome": outcome,
        "stage": "rtl",
        "message": "no end",
    }
    monkeypatch.setattr(command, "search", lambda args, cases: ([line], False))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--count", "1"])
    assert command.main(args) == code


def test_many_programs_are_shorter_ones_for_the_same_machine() -> None:
    few, many = [case(seed) for seed in SEEDS[:8]], [case(seed, count=24) for seed in SEEDS[:8]]
    assert {len(given.programs) for given in many} == {24}
    assert all(given.machine["ports"] * given.machine["port_bits"] <= 512 for given in many)
    longest = [max(len(p["run"]["prompt"]) for given in cases for p in given.programs[:4]) for cases in (few, many)]
    assert longest[1] < longest[0]


def test_overlays_begin_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    now = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    args = parser.parse_args(["--seconds", "2", "--programs", "1"])
    assert [given.seed for given in command.cases_of(args)] == [0, 1]


@pytest.mark.rtl
def test_programs_follow_each_other_without_a_reset() -> None:
    """What one leaves in the machine changes nothing in the next, nor in the same one again."""
    first = smallest()
    other = first.programs[0] | {"weights": first.programs[0]["weights"] | {"seed": 1}}
    slow = other | {"memory": {"stall": 60, "reorder": True, "seed": 5}}
    lines = attempt(dataclasses.replace(first, programs=(first.programs[0], slow, other, first.programs[0], slow)))
    assert [line["outcome"] for line in lines] == ["agreed"] * 5
    assert lines[0]["rtl"] == lines[3]["rtl"]
    assert lines[1]["rtl"] == lines[4]["rtl"]  # memory, too
    assert lines[1]["rtl"] != lines[2]["rtl"]


@pytest.mark.rtl
def test_verilog_that_cannot_be_built_is_a_fault_of_every_program() -> None:
    given = smallest()
    lines = attempt(dataclasses.replace(given, programs=2 * given.programs), verilog="module overlay(input clk);")
    assert [line["outcome"] for line in lines] == ["rtl", "rtl"]


@pytest.mark.rtl
def test_a_wrong_rtl_is_found() -> None:
    given = smallest()
    machine = Machine.from_dict(describe("mono") | {"name": "fuzz-test"})
    text, count = re.subn(r"= executed_ffn \+ [^;]*;", "= executed_ffn;", overlay_verilog(machine))
    assert count == 1
    (line,) = attempt(given, verilog=text)
    assert is_fault(line)
    assert line["message"].startswith("executed FFN: functional")
    assert line["rtl"]["CYCLES"] > 0
    assert len(cycles_of(line)) == 1


@pytest.mark.rtl
def test_a_wrong_run_behind_another_is_found() -> None:
    """Places that are given back are not counted."""
    text, count = re.subn(r"(= \$signed\(\{ 1'h0, used \}\)) - [^;]*;", r"\1;", overlay_verilog(Machine.load("mono")))
    assert count == 1
    given = with_a_run_behind(smallest())
    (line,) = attempt(given, verilog=text)
    assert line["outcome"] == "difference"
    assert re.fullmatch(r"the run behind it: KV entries: functional \d+, RTL \d+", line["message"])
    (line,) = attempt(given)
    assert line["outcome"] == "agreed"
    assert len(cycles_of(line)) == 2
