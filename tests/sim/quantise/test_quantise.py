"""The command and what it rests on: what is counted, factors that change no function, losses that are the engines'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import skipopu as sk
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.pipeline import compile_checkpoint
from compiler.quantise.awq import share_inner, share_values
from compiler.quantise.products import folded
from sim.evaluation import Evaluation, evaluate
from sim.quantise import work
from sim.quantise.calibrate import Asked, Calibration, quantise, router_tensors
from sim.quantise.loss import loss_of, model_of, to_nearest
from sim.quantise.turned import turned
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4
from skipopu.policy import KvPolicy
from skipopu.text import Bytes, Passage
from tests.support import random_checkpoint, said, small_config
from tests.variants import VARIANTS

IDS = np.random.default_rng(3).integers(0, 70, (3, 24))


@pytest.mark.parametrize("kv", KvPolicy)
def test_moments_are_of_the_tokens_that_execute(kv: KvPolicy) -> None:
    """As a sum over single tokens whose gate is open; keys and values of the others are counted where they are computed."""
    checkpoint = random_checkpoint(small_config(), 3)
    calibration = Calibration(checkpoint, IDS, Asked(128, kv=kv))
    model, (stream,) = calibration.model, calibration.begin()
    stream = calibration.layer(0)(stream)
    moments = calibration.see(["q", "kv", "up"], calibration.layer(1), [stream])
    after, (attend, feed), _ = model.advance(1, stream, kv, rule=model.decide)
    assert 0 < attend.mean() < 1
    inputs = stream.h.double().numpy()
    inputs /= np.sqrt((inputs**2).mean(-1, keepdims=True) + checkpoint.config.rms_norm_eps)
    for name, gate in (("q", attend), ("kv", attend if kv is KvPolicy.REUSE else torch.ones_like(attend))):
        expected = sum(np.outer(x, x) for x, open in zip(inputs.reshape(-1, 96), gate.reshape(-1), strict=True) if open)
        assert np.allclose(moments[name], expected, rtol=1e-5), name
    assert moments["up"].trace() == pytest.approx(96 * float(feed.sum()), rel=1e-4), "normalised, of the tokens that are fed"
    assert after.h.shape == stream.h.shape


@pytest.mark.parametrize("kv", KvPolicy)
@pytest.mark.parametrize("variant", ["plain", "bias of v", "no gate, biases", "parallel, biases"])
@pytest.mark.slow
def test_factors_change_no_function(kv: KvPolicy, variant: str) -> None:
    """Values that later layers reuse among them: under both policies."""
    checkpoint = random_checkpoint(small_config(num_layers=3, **VARIANTS[variant]), 3)
    config, routers, rng = checkpoint.config, router_tensors(checkpoint), np.random.default_rng(0)
    before = folded(config, checkpoint.tensors)
    after = {name: tensor.copy() for name, tensor in before.items()}

    def moments(n: int) -> np.ndarray:
        inputs = rng.standard_normal((9, n)) * np.exp(2 * rng.standard_normal(n))
        return inputs.T @ inputs

    share_values(config, after, [moments(128) for _ in range(3)], 128, INT4)
    assert (
        np.abs(after["model.layers.1.self_attn.v_proj.weight"] / before["model.layers.1.self_attn.v_proj.weight"] - 1).max()
        > 0.5
    )
    if config.gated:
        factors = share_inner(after, 1, moments(200), 128, INT4)
        assert factors.max() / factors.min() > 2
    original, same, moved = (
        model_of(config, tensors, routers)(torch.from_numpy(IDS), kv=kv).logits
        for tensors in (dict(checkpoint.tensors), before, after)
    )
    assert (same - original).abs().max() < 1e-4
    assert (moved - original).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "hidden"), [("linear", 96), ("two-layer", 72)])
def test_losses_are_the_reference_engines(tmp_path: Path, kind: str, hidden: int) -> None:
    """Of a written directory that is compiled: the plain values are the codes that were measured."""
    config = small_config(head_dim=16, vocab_size=256, byte_level=True, hidden_size=hidden)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(random_checkpoint(config, 5).tensors, source / "model.safetensors")
    save_file(router_tensors(random_checkpoint(config, 5, kind)), source / "routers.safetensors")
    checkpoint, asked = load(source), Asked(128, "gptq+awq")
    found = quantise(checkpoint, IDS, asked)
    passage = Bytes("").passage(Path(__file__).read_bytes()[:300])
    routers = router_tensors(checkpoint)
    original = folded(config.untied, checkpoint.tensors)
    for tensors in (found.tensors, to_nearest(config, original, asked)):
        ours = loss_of(model_of(config.untied, tensors, routers, 128), passage, 64, KvPolicy.REUSE, False)
        program = compile_checkpoint(Checkpoint(source, config, tensors, checkpoint.routers), Machine.load("tiny"), context=64)
        theirs = evaluate(program, passage, "reference", 64, False)
        # The compiler's scales of Q have the factor of the scores in them: 2^-11 of a scale.
        assert ours.nats == pytest.approx(theirs.nats, rel=1e-3)
        assert (ours.tokens, ours.bytes, ours.executed_share) == (
            theirs.tokens,
            theirs.bytes,
            pytest.approx(theirs.executed_share, abs=0.01),
        )
    with_head = Passage(passage.ids, passage.sizes, (7, 8))
    assert loss_of(model_of(config.untied, found.tensors, routers, 128), with_head, 64, KvPolicy.REUSE, False).tokens == 300


@pytest.mark.slow
def test_the_command(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    text = tmp_path / "text"
    text.write_bytes(Path(__file__).read_bytes()[:500])
    asked = ["--samples", 2, "--window", 16, "--group", 8, "--calibration", __file__, "--int8", "head,down"]
    files = []
    for place in ("a", "b"):
        options = ["--method", "gptq", "--text", text, "--json", tmp_path / "figures.json"]
        given = ["quantise", model, "-o", tmp_path / place, *asked, *options]
        assert said(given, capsysbinary)[0] == 0
        files.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()})
    assert files[0] == files[1], "the same bytes"
    assert set(files[0]) == {"config.json", "model.safetensors"}
    records = json.loads((tmp_path / "figures.json").read_text())["records"]
    assert {r["system"] for r in records if r["name"] == "bits_per_byte"} == {"as it is", "to nearest", "gptq"}
    errors = {(r["context"], r["system"]): r["value"] for r in records if r["name"] == "output_error"}
    assert len(errors) == 2 * (2 * 7 + 1)
    assert all(value <= errors[name, "to nearest"] for (name, _), value in errors.items())
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert tensors["lm_head.weight_packed"].shape == (256, 96 // 4)
    assert tensors["lm_head.weight_scale"].dtype == np.float16
    given = ["quantise", model, "-o", tmp_path / "c", *asked, "--method", "gptq", "--seed", 1]
    assert said(given, capsysbinary)[0] == 0
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != files[0]["model.safetensors"]


@pytest.mark.parametrize(("nats", "method"), [(3.0, "gptq"), (5.0, "rtn")])
@pytest.mark.slow
def test_the_method_that_loses_less_is_taken(
    nats: float,
    method: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    found = {name: Evaluation(value, 1, 1, 1.0) for name, value in (("as it is", 1), ("to nearest", 4.0), ("gptq", nats))}
    monkeypatch.setattr(work, "losses", lambda *given: dict(found))
    asked = ["quantise", model, "--samples", 2, "--window", 16, "--group", 8, "--calibration", __file__]
    assert said([*asked, "-o", tmp_path / "chosen", "--json", tmp_path / "figures.json"], capsysbinary)[0] == 0
    assert said([*asked, "-o", tmp_path / "asked", "--method", method], capsysbinary)[0] == 0
    assert json.loads((tmp_path / "figures.json").read_text())["outputs"] == {"method": method}
    files = [(tmp_path / place / "model.safetensors").read_bytes() for place in ("chosen", "asked")]
    assert files[0] == files[1]


def test_nothing_is_written_when_something_is_wrong(
    model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    out, short = tmp_path / "out", tmp_path / "short"
    short.write_text("short")
    for options, sentence in (
        (["--calibration", short, "--plain"], "short: it has 5 tokens; a window of 64 is needed"),
        (["--calibration", tmp_path / "none", "--plain"], "none: cannot be read (No such file or directory)"),
        (["--calibration", __file__], "hidden_size is 96, no multiple of 128 weights per scale"),
        (["--calibration", __file__, "--text", __file__, "--plain"], ", the calibration text; losses on it say nothing"),
        (["--int8", "head,bias"], "'bias' is no product; accepted: some of q,k,v,o,gate,up,down,head"),
    ):
        code, error = said(["quantise", model, "-o", out, *options], capsysbinary)
        assert code == 2
        assert sentence in error
        assert not out.exists()
    assert "another directory is needed" in said(["quantise", model, "-o", model], capsysbinary)[1]


@pytest.mark.slow
def test_a_budget_is_kept_and_compiled_as_it_was_written(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    config = small_config(hidden_size=64, intermediate_size=96, head_dim=16, vocab_size=256, byte_level=True)
    model, figures = tmp_path / "model", tmp_path / "figures.json"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(random_checkpoint(config).tensors, model / "model.safetensors")
    asked = ["--samples", 2, "--window", 16, "--group", 16, "--calibration", __file__, "--method", "rtn", "--json", figures]
    sizes, formats = {}, {}
    for ratio in ("1", "1.3", "2"):
        code, error = said(["quantise", model, "-o", tmp_path / ratio, *asked, "--budget", ratio], capsysbinary)
        assert code == 0, error
        told = json.loads(figures.read_text())
        sizes[ratio] = next(r["value"] for r in told["records"] if r["name"] == "weight_bytes")
        formats[ratio] = told["outputs"].get("formats", {})
    assert formats["1"] == {}
    assert 0 < len(formats["1.3"]) <= len(formats["2"])
    assert sizes["1"] < sizes["1.3"] <= min(1.3 * sizes["1"], sizes["2"])
    checkpoint = load(tmp_path / "1.3")
    program = compile_checkpoint(checkpoint, Machine.load("mono"), context=16)
    kept = {"kv": "k", "q": "q", "o": "o", "gate_up": "up", "down": "down", "head": "head"}
    for name, product in kept.items():
        assert program.matrices[name]["format"] == formats["1.3"].get(product, "int4"), name
    assert not [line for line in program.source["warnings"] if "rounded again" in line]
    assert said(["check", tmp_path / "1.3", "--target", "mono", "--no-rtl", "--max-new", 2], capsysbinary)[0] == 0
    everything = compile_checkpoint(checkpoint, Machine.load("mono"), context=16, weights="int8")
    assert {d["format"] for name, d in everything.matrices.items() if name != "router"} == {"int8"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bytes", 1000], r"--bytes is 1000; accepted: (\d+) or more, which codes and scales take in int4$"),
        (["--budget", 1, "--int8", "o"], r"--budget is 1.0; accepted: ([\d.]+) or more, .* take in int4, o in int8$"),
        (["--bytes", 1000, "--zero-points"], r"--bytes is 1000; accepted: (\d+) or more, .* take in int4z$"),
    ],
)
def test_a_budget_below_what_is_asked_for_is_refused_before_anything_is_done(
    model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], options: list, message: str
) -> None:
    asked = ["quantise", model, "--samples", 2, "--window", 16, "--group", 8, "--method", "rtn"]
    code, error = said([*asked, "-o", tmp_path / "none", *options, "--calibration", tmp_path / "none"], capsysbinary)
    assert code == 2
    least = re.search(message, error, re.M)
    assert least, error
    assert not (tmp_path / "none").exists()
    figures, kept = tmp_path / "figures.json", options[2:]
    asked += ["--calibration", __file__]
    size = ["--budget" if "budget" in message else "--bytes", least[1]]
    code, error = said([*asked, "-o", tmp_path / "some", *kept, *size, "--json", figures], capsysbinary)
    assert code == 0, error
    written = next(r["value"] for r in json.loads(figures.read_text())["records"] if r["name"] == "weight_bytes")
    assert "budget" in message or written == int(least[1]), "what is accepted is what is written"


@pytest.mark.slow
def test_gptq_more_than_halves_what_rounding_costs(shipped: Path) -> None:
    """The shipped model was trained with rounding, so that rounding costs it nothing; in another basis it does."""
    from models.train import corpus

    checkpoint = turned(load(shipped))
    config, routers = checkpoint.config, router_tensors(checkpoint)
    text = np.frombuffer(corpus()[0], np.uint8).astype(np.int64)
    places = np.random.default_rng(0).integers(0, len(text) - 256, 64)
    asked = Asked(config.weight_group, "gptq")
    found = quantise(checkpoint, text[places[:, None] + np.arange(256)], asked)
    original = folded(config, checkpoint.tensors)
    passage = Bytes("").passage((shipped / "heldout.txt").read_bytes()[:32768])
    bits = []
    for tensors, group in ((original, 0), (to_nearest(config, original, asked), 128), (found.tensors, 128)):
        bits.append(loss_of(model_of(config, tensors, routers, group), passage, 256, KvPolicy.REUSE, False).bits_per_byte)
    as_it_is, to_nearest_, ours = bits
    assert to_nearest_ - as_it_is > 0.03
    assert ours - as_it_is < 0.5 * (to_nearest_ - as_it_is)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kv": "x"}, "kv is 'x'"),
        ({"samples": 0}, "samples is 0"),
        ({"window": 1}, "window is 1"),
        ({"bytes": 10**6, "budget": 1.5}, "accepted: one of them"),
    ],
)
def test_functions_refuse_what_the_command_does(asked: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=sentence):
        sk.quantise("pybyte-300k", tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
