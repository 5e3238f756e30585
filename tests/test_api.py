"""``import skipopu as sk``: what it offers, what it costs, what it refuses."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import skipopu as sk
from sim import api, api_masks, api_runs
from sim.compare import subject
from skipopu.cli import COMMANDS
from skipopu.shipped import HELD_OUT
from tests.support import Followed

PROMPT = "def read(self"
FUNCTIONS = tuple(name for home in ("sim.api", "sim.api_masks", "sim.api_runs") for name in sk.OFFERED[home])


@pytest.fixture(scope="module")
def program() -> sk.Program:
    return sk.compile("pybyte-300k", target="ulx3s")


# Seconds; the first of a machine that those tests generate anyway.
SLOW = {"verilog": [pytest.mark.agreement], "quantise": [pytest.mark.slow], "calibrate": [pytest.mark.slow]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in FUNCTIONS])
def test_examples(name: str) -> None:
    """What the docstrings show is what happens; each has an example and says what is raised."""
    function = getattr(sk, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"sk": sk})
    assert test.examples
    assert "Raises:" in test.docstring
    assert doctest.DocTestRunner().run(test).failed == 0


def test_importing_it_is_free() -> None:
    """Nothing but the standard library until a name is asked for, and every name is there."""
    code = "import sys, skipopu; print(*(m for m in sys.modules if m.split('.')[0] in sys.argv)); print(*dir(skipopu))"
    packages = ["numpy", "torch", "amaranth", "matplotlib", "sim", "compiler", "hw", "yaml"]
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True)
    loaded, offered = (line.split() for line in done.stdout.splitlines())
    assert loaded == []
    assert {name for names in sk.OFFERED.values() for name in names} <= set(offered)
    code = "import sys, skipopu as sk; sk.run, sk.Machine; print(*(m for m in sys.modules if m in sys.argv))"
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True)
    assert not {"torch", "amaranth", "matplotlib"} & set(done.stdout.split())


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(sk.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {(line.module, alias.asname) for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert told == {(module, name) for module, names in sk.OFFERED.items() for name in names}


def test_names_shadow_no_module() -> None:
    """Python would put the module of that name in the place of what is offered."""
    modules = {path.stem for path in Path(sk.__file__).parent.iterdir()}
    assert not modules & {name for names in sk.OFFERED.values() for name in names}
    with pytest.raises(AttributeError, match="no attribute 'tensor'"):
        _ = sk.tensor  # type: ignore[attr-defined]


def test_every_way_to_name_model_and_machine(program: sk.Program, tmp_path: Path) -> None:
    same = sk.compile(sk.checkpoint("models/pybyte-300k"), sk.target("ulx3s"))
    assert same.instructions == program.instructions
    assert (same.memory[0] == program.memory[0]).all()
    description = tmp_path / "mine.yaml"
    description.write_text("base: ulx3s\nclock_mhz: 20\n")
    assert sk.target(description).clock_mhz == 20
    assert sk.Program.load(program.save(tmp_path)).instructions == program.instructions


@pytest.mark.slow
def test_prompts_and_routing(program: sk.Program) -> None:
    watch = Followed()
    routed = sk.run(program, PROMPT, 3, watch=watch)
    assert watch.tokens == routed.tokens
    for prompt in (PROMPT.encode(), list(PROMPT.encode()), np.frombuffer(PROMPT.encode(), np.uint8)):
        assert sk.run(program, prompt, 3).tokens == routed.tokens
    every = sk.run(program, PROMPT, 3, skip=0)
    assert every.executed_share == 1 > routed.executed_share
    half = sk.run(program, PROMPT, 3, skip="attn=0.5,ffn=0.5", seed=3)
    assert (sk.run(program, PROMPT, 3, trace=half.routing).routing == half.routing).all()
    assert (sk.run(program, PROMPT, 3, skip=0.5, seed=3).routing == half.routing).all()
    assert sk.run(program, PROMPT, 3, dial=1000).executed_share < routed.executed_share


def test_a_shape_is_timed(program: sk.Program) -> None:
    small = sk.compile("llama-3.2-1b", target="u280", context=12)
    dense = sk.run(small, 8, max_new=2, engine="timing")
    assert sk.run(small, 8, max_new=2, engine="timing", skip=0.5).counters["CYCLES"] < dense.counters["CYCLES"]
    for prompt, engine in ((8, "functional"), ([1, 2], "timing")):
        with pytest.raises(sk.ProgramError, match="has no weights"):
            sk.run(small, prompt, 2, engine)
    with pytest.raises(sk.ProgramError, match="has no weights"):
        sk.check(small, "def", 2)
    with pytest.raises(sk.ProgramError, match="no effect on shape"):
        sk.run(small, 8, max_new=2, engine="timing", dial=1.0)
    with pytest.raises(sk.ProgramError, match="prompt is 8"):
        sk.run(program, 8)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"skip": 1.5}, "skip is '1.5'; accepted: a ratio"),
        ({"skip": 0.5, "trace": np.ones((4, 2, 20), bool)}, "by skip and trace; accepted: one of skip, trace, policy"),
        ({"trace": np.ones((4, 2, 2), bool)}, "routing trace has shape"),
        ({"skip": 0.5, "dial": 1.0}, "dial is 1.0"),
        (
            {"policy": "sometimes"},
            "routing is 'sometimes'; accepted: 'program' or 'router' or 'always' or 'never' or 'exit' or 'norm' or 'top1'",
        ),
        ({"policy": "always", "dial": 1.0}, "dial is 1.0; it has no effect: no policy of this run looks at it"),
        ({"max_new": -1}, "-1 new tokens"),
        ({"max_new": 1000}, "exceeds the program's context"),
        ({"engine": "rlt"}, "did you mean 'rtl'"),
        ({"span": []}, "option of the functional engine 'span' is not known"),
        ({"engine": "timing", "span": []}, "did you mean 'spans'"),
    ],
)
def test_what_is_refused(program: sk.Program, asked: dict, message: str) -> None:
    with pytest.raises(sk.ProgramError, match=message):
        sk.run(program, PROMPT, **{"max_new": 2, **asked})


def test_a_comparison_is_of_a_shape_or_of_what_routers_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "compare", lambda machine, workload, config, routing, *rest: (workload, config, routing))
    workload, config, routing = sk.compare("llama-2-7b", "u280")  # type: ignore[misc]
    assert (workload.model, workload.context, workload.skip, config, routing) == ("llama-2-7b", "128+1024", "0.25", None, None)
    workload, config, routing = sk.compare("pybyte-300k", "ulx3s", 16, 8, text=HELD_OUT)  # type: ignore[misc]
    assert (workload.model, workload.skip, config.num_layers, routing.shape) == ("pybyte-300k", "trace", 4, (4, 2, 24))
    assert 0.2 < routing.mean() < 0.9


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mask": 0.4}, "machine u280: masks is False; accepted: true, to leave out input channels"),
        ({"mask": float("nan")}, "mask is nan; accepted: a share in 0..1"),
        ({"mask": 0.4, "mask_trace": "x"}, "what is masked is said twice, by mask and mask_trace"),
        ({"masks": "x"}, "masks is 'x'; it has no effect where no checkpoint's routers decide on a text"),
    ],
)
def test_masks_of_a_comparison_are_looked_at_first(asked: dict, message: str) -> None:
    with pytest.raises(sk.ProgramError, match=message):
        sk.compare("llama-2-7b", "u280", **asked)


def test_timeline_shows_one_token(program: sk.Program) -> None:
    spans: list[sk.Span] = []
    timed = sk.run(program, PROMPT, 3, engine="timing", spans=spans)
    at = len(PROMPT) + 1
    figure = sk.timeline({"a token": spans, "the whole run": spans}, position=at)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a token", "the whole run"]
    assert 0 < figure.axes[0].get_xlim()[1] < timed.counters["CYCLES"] / 4
    with pytest.raises(sk.ProgramError, match="no spans"):
        sk.timeline({"nothing": spans}, position=100)


def test_functions_are_named_like_their_commands() -> None:
    assert {"compile", "quantise", "calibrate", "run", "check", "compare"} <= set(COMMANDS) & set(FUNCTIONS)
    assert all(
        getattr(home, name) is getattr(sk, name) for home in (api, api_masks, api_runs) for name in sk.OFFERED[home.__name__]
    )


def test_a_shape_takes_no_adapter() -> None:
    with pytest.raises(sk.ProgramError, match="no effect on shape llama-2-7b"):
        sk.compare("llama-2-7b", lora=Path("adapter"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sk.run(p, 3.5), "prompt is 3.5; accepted: text, or token ids"),
        (lambda p: sk.run(p, None), "prompt is None; accepted: text, or token ids"),
        (lambda p: sk.run(p, PROMPT, max_new="3"), "max_new is '3'; accepted: an integer"),
        (lambda p: sk.compile("pybyte-1m", target="tiny-masks", masks=0.4), "masks is 0.4; accepted: a file of thresholds"),
    ],
)
def test_values_of_another_type(program: sk.Program, call: Callable[[sk.Program], object], message: str) -> None:
    with pytest.raises(sk.ProgramError, match=message):
        call(program)
