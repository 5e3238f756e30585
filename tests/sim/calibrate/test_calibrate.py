"""Thresholds on what the reference shows, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import skipopu as sk
from compiler.frontend import masks
from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.calibrate.observe import SEEN_BY
from sim.calibrate.place import How, choose, subject_of, weight_bytes
from sim.calibrate.rules import RULES
from sim.evaluation import evaluate
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.masks import FFN_INNER, channels
from skipopu.policy import KvPolicy
from skipopu.text import Passage
from tests.support import random_checkpoint, said, small_config
from tests.variants import VARIANTS

MASKING = Machine.load("tiny-masks")
IDS = np.random.default_rng(3).integers(0, 70, (4, 32))
TEXT = Passage(IDS.reshape(-1), None)


@pytest.mark.parametrize("kv", KvPolicy)
def test_each_input_leaves_out_its_ratio_of_what_executes(kv: KvPolicy) -> None:
    """With all masks on, of the tokens that were calibrated on; the same ones as the compiled program's."""
    checkpoint = random_checkpoint(small_config(), 3)
    subject = subject_of(checkpoint, How("teal", kv))
    ratios = {place: 0.2 + 0.1 * number for number, place in enumerate(subject.places[:-1])}  # the last is not masked
    choose(subject, IDS, ratios)
    loss = subject.loss(TEXT, 32)
    for (layer, own), ratio in ratios.items():
        active, read, every = subject.model.counts[layer, SEEN_BY[own]]
        assert active / read == pytest.approx(1 - ratio, abs=0.02)
        assert read < every or (own, kv) == ("self_attn.input", KvPolicy.DENSE) or layer == 0
    held = subject.masks()
    assert not held[FFN_INNER][1].any()
    program = compile_checkpoint(dataclasses.replace(checkpoint, masks=held), MASKING, kv, context=32, mask_prompt=True)
    theirs = evaluate(program, TEXT, "reference", 32, False)
    assert theirs.nats == pytest.approx(loss.nats, rel=5e-3)
    ours = np.array([n for (layer, p), n in subject.model.counts.items() if (layer, p) != (1, "down")]).sum(0)
    last = subject.model.counts[1, "down"]
    assert theirs.channels[0] - last[0] == pytest.approx(ours[0], rel=0.01)
    assert theirs.channels[1] - last[1] == pytest.approx(ours[1], rel=0.01)


def test_bytes_of_weights() -> None:
    """Scales always, codes of active channels, of products that execute."""
    subject = subject_of(random_checkpoint(small_config(), 3), How(dense=True))
    subject.loss(TEXT, 32)
    plain, same = weight_bytes(subject)
    assert plain == same
    choose(subject, IDS, dict.fromkeys(subject.places, 0.5))
    subject.loss(TEXT, 32)
    before, after = weight_bytes(subject)
    assert before == plain
    codes = sum(subject.bytes(p, layer)[0] for layer, own in subject.places for p in subject.readers((layer, own)))
    thresholds = 2 * 2 * (96 + 96 + 128 + 96 + 200)  # of q, k and v, o, gate and up, down
    assert after == pytest.approx(plain - 0.5 * codes + thresholds, rel=0.01)
    assert codes == 2 * (96 * 256 + 128 * 96 + 3 * 96 * 200) / 2


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_form(rule: str, name: str) -> None:
    """Files of every family's form are read back, and leave out what was asked for."""
    checkpoint = random_checkpoint(small_config(**VARIANTS[name]), 3)
    subject = subject_of(checkpoint, How(rule))
    choose(subject, IDS, dict.fromkeys(subject.places, 0.4))
    subject.loss(TEXT, 32)
    counts = np.array(list(subject.model.counts.values())).sum(0)
    assert 0.5 < counts[0] / counts[1] < 0.63, "what ReLU makes zeros is left out beyond the ratio"
    held = subject.masks()
    assert {own: rows.shape for own, rows in held.items()} == {own: (2, n) for own, n in channels(checkpoint.config).items()}
    compile_checkpoint(dataclasses.replace(checkpoint, masks=held), MASKING, context=32, weights="int8")


@pytest.mark.slow
def test_the_command(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    text, figures = tmp_path / "text", tmp_path / "figures.json"
    text.write_bytes(Path(__file__).read_bytes()[:2000])
    asked = ["calibrate", model, "--samples", 9, "--window", 32, "--text", __file__, "--held-out", text, "--json", figures]
    saved = {}
    for ratios in ("uniform", "greedy"):
        assert said([*asked, "--mask", 0.4, "--ratios", ratios, "--force"], capsysbinary)[0] == 0
        first = (model / "masks.safetensors").read_bytes()
        assert said([*asked, "--mask", 0.4, "--ratios", ratios, "--force"], capsysbinary)[0] == 0
        assert (model / "masks.safetensors").read_bytes() == first
        told = json.loads(figures.read_text())
        read = {r["system"]: r["value"] for r in told["records"] if r["name"] == "weight_bytes_read"}
        saved[ratios] = 1 - read["with masks"] / read["without masks"]
        shares = [r["value"] for r in told["records"] if r["name"] == "active_channels_share" and "context" in r]
        assert len(shares) == len(told["outputs"]["ratios"]) == 8
        assert np.ptp(list(told["outputs"]["ratios"].values())) == 0 or ratios == "greedy"
    assert saved["greedy"] == pytest.approx(saved["uniform"], rel=0.1)
    assert load(model).masks is not None
    assert "masks.safetensors is there already; --force writes it anew" in said([*asked, "--mask", 0.4], capsysbinary)[1]


def test_nothing_is_written_when_something_is_wrong(
    model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    out, short = tmp_path / "out", tmp_path / "short"
    short.write_text("short")
    for options, sentence in (
        (["--mask", "0"], "'0' is not accepted; a share above 0, up to 0.95 is needed"),
        (["--mask", "0.4", "--text", short], "short: it has 5 tokens; a window of 64 is needed"),
        (["--mask", "0.4", "--text", short, "--held-out", short], "short, the held-out text; losses on it would say nothing"),
        (
            ["--mask", "0.4", "--text", __file__, "--held-out", tmp_path / "none"],
            "none: cannot be read (No such file or directory)",
        ),
    ):
        code, error = said(["calibrate", model, "-o", out, *options], capsysbinary)
        assert code == 2
        assert sentence in error
        assert not out.exists()
    code, error = said(["calibrate", "pybyte-300k", "--mask", "0.4"], capsysbinary)
    assert (code, "pybyte-300k comes with the package; -o FILE is needed" in error) == (2, True)
    for wrong in ({"rule": "x"}, {"ratios": "x"}, {"kv": "x"}, {"samples": 0}, {"window": 1}):
        with pytest.raises(ProgramError, match=next(iter(wrong))):
            sk.calibrate(model, 0.4, out, **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes of one core, more beside other work
def test_the_shipped_model_loses_less_by_ratios_of_its_own(shipped: Path, tmp_path: Path) -> None:
    """Under the same bytes; the functional engine runs it."""
    text = tmp_path / "text"
    text.write_bytes((shipped / "heldout.txt").read_bytes()[:8192])
    done = {
        ratios: sk.calibrate(shipped, 0.4, tmp_path / ratios, ratios=ratios, samples=16, held_out=text)
        for ratios in ("uniform", "greedy")
    }
    bits = {name: one.after.loss.bits_per_byte or 0 for name, one in done.items()}
    assert bits["greedy"] < bits["uniform"] - 0.03
    assert done["greedy"].after.bytes == pytest.approx(done["uniform"].after.bytes, rel=0.02)
    masked = load(shipped, mask_file=tmp_path / "greedy")
    program = compile_checkpoint(masked, MASKING.with_chunk(64), context=64, mask_prompt=True)
    passage = program.text.passage(text.read_bytes()[:512])
    functional, reference = (evaluate(program, passage, engine, 64, False) for engine in ("functional", "reference"))
    assert functional.nats == pytest.approx(reference.nats, rel=0.01)
    assert masks.read(tmp_path / "greedy", masked.config).keys() == channels(masked.config).keys()
