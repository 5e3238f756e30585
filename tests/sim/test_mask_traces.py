"""Masks that no engine computes: files of recorded ones, their share, what the timing engine makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import skipopu as sk
from compiler.frontend import masks
from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.estimate import Workload, estimate, layer_weights, workload_bytes
from sim.mask_traces import load_mask_trace, masked_share, save_mask_trace
from sim.masks import Active
from sim.routing import load_trace
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.masks import ATTENTION, FFN_INNER, channels, weights
from skipopu.numerics import mask
from skipopu.program.run import Run
from skipopu.shapes import SHAPES
from tests.support import said, small_config

TINY = Machine.load("tiny-masks")
CONFIG = small_config()


def every(value: bool, tokens: int = 11) -> Active:
    return {name: np.full((CONFIG.num_layers, tokens, size), value) for name, size in channels(CONFIG).items()}


@pytest.mark.slow
def test_a_run_s_masks_are_replayed_to_the_cycle(
    model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """From the command that writes them to the timing engine without weights."""
    routing, trace = tmp_path / "routing.npy", tmp_path / "deep" / "masks"
    config, rng = load(model).config, np.random.default_rng(0)
    sizes = {name: (config.num_layers, size) for name, size in channels(config).items()}
    drawn = {name: rng.integers(2 * mask.ONE - 512, 2 * mask.ONE + 128, size) for name, size in sizes.items()}
    masks.write(model / masks.MASKS_FILE, {name: rows.astype(np.uint16) for name, rows in drawn.items() if name != FFN_INNER})
    run = ["run", model, "--target", "tiny-masks", "--prompt", "abcde", "--max-new", "6", "--save-mask-trace", trace]
    assert said([*run, "--save-trace", routing, "--skip", "0.25"], capsysbinary)[0] == 0
    active, executed = load_mask_trace(trace, config, 10), load_trace(routing)
    assert set(active) == set(sizes) - {FFN_INNER}
    assert all(rows[:, :5].all() and 0.1 < rows[:, 5:].mean() < 0.9 for rows in active.values())
    program = compile_checkpoint(load(model), TINY, context=11)
    run_of = Run(tuple(b"abcde"), 6, routing=executed)
    own = timing.run(program, run_of)
    replayed = estimate(TINY, Workload("model", 5, 6, "trace", routers="none", masked=0.5), config, executed, active)
    for name in ("ARRAY_BUSY", "ARRAY_WEIGHTS", "ARRAY_EDGE"):  # the rest has the trace of bits to read
        assert [replayed.first[name], replayed.last[name]] == [own.at_token[0][name], own.at_token[-1][name]]
    same = timing.run(program, run_of, timing.Options(own, channels=Recorded(program, active)))
    assert same.at_token == own.at_token
    assert "--save-mask-trace needs --engine functional, not timing" in said([*run, "--engine", "timing"], capsysbinary)[1]
    assert "the program has no thresholds" in said([*run, "--no-masks"], capsysbinary)[1]


def test_drawn_and_replayed_are_counted_alike() -> None:
    """Where nothing or everything is left out; without thresholds nothing waits for them."""
    work = Workload("small", 8, 4, masked=0.0)
    assert estimate(TINY, work, CONFIG).last == estimate(TINY, work, CONFIG, active=every(True)).last
    none = estimate(TINY, replace(work, masked=1.0), CONFIG)
    assert none.last == estimate(TINY, work, CONFIG, active=every(False)).last
    plain = estimate(TINY, replace(work, masked=None), CONFIG)
    assert none.bytes_per_token < plain.bytes_per_token < estimate(TINY, work, CONFIG).bytes_per_token
    with pytest.raises(ProgramError, match="machine tiny: masks is False; accepted: true, to leave out input channels"):
        estimate(Machine.load("tiny"), work, CONFIG)


def test_a_shape_s_masks_in_python(tmp_path: Path) -> None:
    """Drawn or recorded, as the command has them; of inputs that have thresholds, and not said twice."""
    program = sk.compile(sk.shape("llama-3.2-1b", masks=[ATTENTION]), "u280-masks", context=8)
    file, rng = tmp_path / "masks", np.random.default_rng(0)
    save_mask_trace(file, {ATTENTION: rng.random((program.model.num_layers, 7, 2048)) < 0.5})
    drawn, fewer, recorded = (
        sk.run(program, 4, 4, "timing", **asked).counters["READ_BEATS"]
        for asked in ({"mask": 0.5}, {"mask": 0.9}, {"mask_trace": file})
    )
    assert drawn == pytest.approx(recorded, rel=0.01)
    assert fewer < 0.98 * drawn  # Q, K and V are a part of the weights
    shape, model = sk.compile(sk.shape("llama-3.2-1b", masks=True), "u280-masks", context=8), sk.compile("pybyte-300k", "mono")
    for compiled, prompt, asked, message in (
        (program, 4, {"mask": 1.5}, "mask is 1.5; accepted: a number from 0 to 1"),
        (program, 4, {"mask": 0.5, "mask_trace": file}, "what is masked is said twice, by mask and mask_trace"),
        (shape, 4, {"mask_trace": file}, "the recorded masks have none of mlp.inner, mlp.input, self_attn.output"),
        (sk.compile("llama-3.2-1b", "u280-masks", context=8), 4, {"mask": 0.5}, "a program without thresholds"),
        (model, "a", {"mask": 0.5}, "mask and mask_trace have no effect"),
    ):
        with pytest.raises(ProgramError, match=message):
            sk.run(compiled, prompt, 4, "timing", **asked)
    with pytest.raises(ProgramError, match=r"input is 'mlp.down'; accepted: 'self_attn.input' or"):
        sk.shape("llama-3.2-1b", masks=["mlp.down"])


def test_the_share_is_of_weights_that_would_have_been_read() -> None:
    assert sum(weights(CONFIG).values()) == layer_weights(CONFIG) == 96 * (2 * 128 + 2 * 64 + 3 * 200)
    executed, active = np.ones((2, 2, 11), bool), every(True)
    active[ATTENTION][:, 8:, :24] = False  # a quarter of Q, K and V of generated tokens
    assert masked_share(CONFIG, active, executed, 8) == pytest.approx(96 * 256 / 4 / layer_weights(CONFIG))
    executed[:, 1] = False
    assert masked_share(CONFIG, active, executed, 8) == pytest.approx(96 * 256 / 4 / (96 * 256 + 128 * 96))
    executed[:, 0, 8:10] = False
    active[ATTENTION][:, 10] = True
    assert masked_share(CONFIG, active, executed, 8) == 0
    assert masked_share(CONFIG, {}, executed, 8) == 0


def test_bytes_of_the_formula() -> None:
    """Codes of masked channels less; scales, head, keys and values stay."""
    config = SHAPES["llama-2-7b"]
    less = workload_bytes(config, 640, "int4", 0.25) - workload_bytes(config, 640, "int4", 0.25, 0.4)
    assert less == pytest.approx(32 * layer_weights(config) * 0.75 * 0.4 / 2)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("mlp.inner", np.ones((2, 11, 200), np.float32), "tensor mlp.inner holds F32; accepted: BOOL, U8"),
        ("mlp.inner", np.full((2, 11, 200), 2, np.uint8), "tensor mlp.inner holds 2; accepted: 0 and 1"),
        ("mlp.inner", np.ones((2, 10, 200), bool), r"shape \(2, 10, 200\); this run needs \(2, 11, 200\), more tokens"),
        ("mlp.inner", np.ones((3, 11, 200), bool), r"shape \(3, 11, 200\)"),
        ("mlp.inner", np.ones((2, 200), bool), r"shape \(2, 200\)"),
        ("mlp.down", np.ones((2, 11, 200), bool), "tensor mlp.down is not known; accepted: self_attn.input"),
    ],
)
def test_what_is_no_trace_is_refused(name: str, tensor: np.ndarray, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    save_file({name: tensor}, file)
    with pytest.raises(ProgramError, match=f"{file}.*{message}"):
        load_mask_trace(file, CONFIG, 11)


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    file, whole = tmp_path / "trace", every(False, 12)
    whole[ATTENTION][1, 3, 5] = True
    save_mask_trace(file, {name: rows[:, :11] for name, rows in whole.items()})
    found = load_mask_trace(file, CONFIG, 11)
    assert all(np.array_equal(found[name], rows[:, :11]) for name, rows in whole.items())
    save_file({ATTENTION: whole[ATTENTION].astype(np.uint8)}, file)
    assert load_mask_trace(file, CONFIG, 11)[ATTENTION].dtype == bool
    save_file({}, file)
    with pytest.raises(ProgramError, match="it holds no masks"):
        load_mask_trace(file, CONFIG, 11)
