"""Machine descriptions: shipped ones load, wrong ones name the key."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from skipopu.errors import ConfigError, ProgramError
from skipopu.machine import doc
from skipopu.machine.clock import at_clock
from skipopu.machine.config import Machine
from skipopu.machine.files import TARGETS, describe
from skipopu.machine.memory import MemoryTiming
from tests.support import ANYTHING, random_checkpoint, small_config


@pytest.mark.parametrize("path", sorted(TARGETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_targets_load(path: Path) -> None:
    machine = Machine.load(path.stem)
    assert machine.name == path.stem
    assert Machine.from_dict(machine.to_dict()) == machine


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ports", 0, "ports is 0; accepted: 1..64"),
        ("port_bits", 96, "port_bits is 96"),
        ("ports", "two", "machine.yaml: ports is 'two'; accepted: an integer"),
        ("ports", True, "ports is True; accepted: an integer"),
        ("ports", 2.0, "ports is 2.0; accepted: an integer"),
        ("ports", None, "ports is None; accepted: an integer"),
        ("ports", {"a": [1]}, r"ports is {'a': \[1\]}; accepted: an integer"),
        ("clock_mhz", float("nan"), "clock_mhz is nan; accepted: a finite number"),
        ("clock_mhz", 1e308, "machine.yaml: machine tiny: clock_mhz is 1e\\+308; accepted: 1 to 10000"),
        ("name", 4, "name is 4; accepted: printable text"),
        ("base", ["tiny"], r"base is \['tiny'\]; accepted: 'kv260' or"),
        ("base", "../targets/tiny", "base is '../targets/tiny'; accepted: 'kv260' or"),
        ("vector_lanes", 3, "vector_lanes is 3"),
        ("wieght_fifo", 4, "unknown key 'wieght_fifo'"),
        ("weight_fifo", 4, "weight_fifo is 4; accepted: at least two bursts"),
        ("numerics", ["exact17"], "numerics is"),
        ("numerics", "exact18", r"numerics is 'exact18'; accepted: a list \(of printable text\)"),
        ("numerics", [["exact18"]], "numerics is"),
        ("formats", "int4", "formats is 'int4'; accepted: a list"),
        ("formats", ["int8"], r"formats is \('int8',\); accepted: int4 and some of int8, int4z, fp4, each once"),
        ("formats", ["int4", "int2"], "formats is .*; accepted: int4 and some of"),
        ("formats", ["int4", "fp4", "fp4"], "formats is .*each once"),
        ("memory", {"delay": 3}, "memory: unknown key 'delay'; known: latency, beats_per_256_cycles"),
        ("memory", [24], r"memory is \[24\]; accepted: printable text or a mapping of names"),
        ("memory", {"latency": True}, "memory: latency is True; accepted: an integer"),
        ("memory", {"latency": 0}, "memory latency is 0; accepted: 1 to 1000"),
        ("memory", {"device": "hbm2", "path": 1.5}, "memory: path is 1.5; accepted: an integer from 0 to 1000"),
        ("memory", {"path": 3}, "memory: path is 3 without a device; accepted with device: hbm2, ddr4-2400"),
        ("memory", {24: 24}, "memory is {24: 24}; accepted: printable text or a mapping of names"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, key: str, value: object, message: str) -> None:
    data = yaml.safe_load((TARGETS / "tiny.yaml").read_text()) | {key: value}
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=message):
        Machine.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "the content is None; accepted: a mapping of names"),
        (b"- tiny", r"the content is \['tiny'\]; accepted"),
        (b"ports: [", "not valid YAML"),
        (b"ports: !!bool maybe", "not valid YAML"),
        (b"ports: 2001-99-99", "not valid YAML"),
        (b"1: 2", "the content is {1: 2}; accepted"),
        (b"ports: 0x" + b"f" * 5000, "ports is an integer of thousands of digits; accepted: an integer"),
        (b"[" * 10_000, "not valid YAML"),
    ],
)
def test_files_that_are_no_descriptions(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "machine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Machine.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        Machine.load(tmp_path / "other.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        Machine.load(tmp_path / "folder.yaml")


KEYS = [field.name for field in dataclasses.fields(Machine)]
INNER = [field.name for field in dataclasses.fields(MemoryTiming)]


@given(
    st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3), st.dictionaries(st.sampled_from(INNER), ANYTHING, max_size=2)
)
def test_any_value_is_taken_or_refused(changes: dict, memory: dict) -> None:
    tiny = describe("tiny")
    for data in (tiny | changes, tiny | {"memory": memory} | changes):
        with contextlib.suppress(ConfigError):
            assert Machine.from_dict(json.loads(json.dumps(Machine.from_dict(data).to_dict()))).fingerprint


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="accepted: kv260, mono, tiny, tiny-masks, trio"):
        Machine.load("huge")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"intermediate_size": 5000}, {}, "residual and inner vector is 5248; accepted: up to activation, 1024"),
        ({"num_heads": 12, "num_kv_heads": 2}, {}, "query heads per key-value head is 6; accepted: 1 to 4"),
        ({}, {"context": 100}, "context is 100; accepted: 1 to 64"),
        ({}, {"weights": "int2"}, "machine tiny: weight format is 'int2'; accepted: int4, int8, int4z, fp4"),
        ({}, {"group": 48}, "weight group is 48; accepted: 8, 16 or a multiple of 32 from 32 to 512"),
        ({"head_dim": 300}, {}, "head_dim is 300; accepted: a multiple of 4 from 8 to 256"),
        ({"vocab_size": 4000}, {"logits": True}, "machine tiny has buffer 8192"),
    ],
)
def test_models_that_do_not_fit_are_refused_with_both_numbers(changes: dict, options: dict, message: str) -> None:
    checkpoint = random_checkpoint(small_config(**changes))
    with pytest.raises(ProgramError, match=message):
        compile_checkpoint(checkpoint, Machine.load("tiny"), **options)


def test_another_clock_keeps_the_device_and_the_path() -> None:
    u280 = Machine.load("u280")
    slower = at_clock(u280, 100)
    assert slower is not None
    assert (u280.memory.latency, slower.memory.latency) == (34 + 16, 15 + 16), "152 ns of the device and 16 cycles"
    assert slower.memory.refresh_interval == 390
    assert slower.fingerprint == u280.fingerprint
    assert at_clock(slower, 225) == u280
    assert at_clock(Machine.load("tiny"), 50) is None
    masks = Machine.load("u280-masks")
    slower = at_clock(masks, 100)
    assert slower is not None
    assert (slower.memory.outstanding, slower.memory.latency) == (masks.memory.outstanding, 15 + 16)
    assert at_clock(dataclasses.replace(masks, memory=dataclasses.replace(masks.memory, issue=3)), 100) is None


def test_groups_shorter_than_a_beat() -> None:
    """A half and a quarter, of 8 weights or more; no trace where there are none."""
    tiny = Machine.load("tiny")
    assert (tiny.weight_lanes, tiny.groups_in_beats) == (32, (8, 16))
    plain = dataclasses.replace(tiny, short_groups=False)
    assert plain.groups_in_beats == ()
    assert "short_groups" not in plain.hardware_parameters
    assert dataclasses.replace(Machine.load("mono"), short_groups=True).groups_in_beats == (8,)
    assert dataclasses.replace(Machine.load("u280"), short_groups=True).groups_in_beats == (32, 64)
    checkpoint = random_checkpoint(small_config())
    assert compile_checkpoint(checkpoint, tiny, context=8, group=8).matrices["q"]["group"] == 8
    with pytest.raises(ProgramError, match="weight group is 8; accepted: a multiple of 32 from 32 to 512"):
        compile_checkpoint(checkpoint, plain, context=8, group=8)
    wide = dataclasses.replace(tiny, activation=32768, buffer=1 << 19)
    with pytest.raises(ProgramError, match="in groups of 8, is 9000; accepted: up to 8184"):
        compile_checkpoint(outline("llama-2-7b", config=small_config(intermediate_size=9000)), wide, context=8, group=8)


def test_formats_that_are_usual_leave_no_trace() -> None:
    mono = Machine.load("mono")
    assert mono.formats == ("int4", "int8")
    assert "formats" not in mono.hardware_parameters
    more = dataclasses.replace(mono, formats=("int4", "fp4", "int8"))
    assert more.hardware_parameters["formats"] == ("int4", "int8", "fp4")
    assert more.fingerprint == dataclasses.replace(mono, formats=("int4", "int8", "fp4")).fingerprint != mono.fingerprint
    known = mono.numerics_fingerprint("exact18")
    assert dataclasses.replace(mono, formats=("int4",)).numerics_fingerprint("exact18") != known
    assert dataclasses.replace(mono, formats=("int8", "int4")).numerics_fingerprint("exact18") == known
    with pytest.raises(ProgramError, match="machine mono: weight format is 'fp4'; accepted: int4, int8"):
        compile_checkpoint(random_checkpoint(small_config()), mono, weights="fp4")


def test_the_documented_example_is_a_machine(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(doc.EXAMPLE)
    machine = Machine.load(tmp_path / "mine.yaml")
    assert (machine.name, machine.ports, machine.memory.latency) == ("mine", 4, 40)


def test_devices_are_known_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: u280\nmemory: {device: hbm3}\n")
    with pytest.raises(ConfigError, match="memory: device is 'hbm3'; accepted: hbm2, ddr4-2400, or no device at all"):
        Machine.load(tmp_path / "mine.yaml")
