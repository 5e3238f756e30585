"""The study of accuracy: fronts, random skipping, and the whole of it on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.pipeline import compile_checkpoint
from compiler.quantise.choose import objective
from sim.quantise.calibrate import Asked, quantise
from sim.quantise.work import PRODUCTS
from sim.reference.image import dequantised
from sim.studies.accuracy.case import random_rule
from sim.studies.accuracy.extra import correction, held
from sim.studies.accuracy.plot import front
from sim.studies.accuracy.points import as_held
from sim.studies.accuracy.setting import SHIPPED, Point, Policy
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4Z, INT8
from skipopu.policy import KvPolicy
from tests.support import random_checkpoint, said, small_config


def point(size: float | None, bits: float, chosen: bool = True) -> Point:
    return Point(SHIPPED, "int4", "rtn", Policy("always", KvPolicy.REUSE), bits, 1.0, size, chosen=chosen)


def test_a_front_is_what_no_other_point_beats() -> None:
    points = [point(5, 1.0), point(3, 1.5), point(4, 1.6), point(3, 1.7), point(6, 1.0), point(None, 0.5), point(2, 2.0)]
    points.append(point(1, 0.1, chosen=False))
    assert [(p.bytes, p.bits) for p in front(points)] == [(2, 2.0), (3, 1.5), (5, 1.0)]


def test_random_skipping_spares_what_is_forced_and_repeats() -> None:
    difference = torch.zeros(16, 256)
    rule, again = random_rule(0.25), random_rule(0.25)
    first = rule(difference, 0, 0)
    assert first.all()
    others = torch.stack([rule(difference, layer, 1) for layer in range(4)])
    assert float(others.mean()) == pytest.approx(0.75, abs=0.02)
    assert not torch.equal(others[0], others[1])
    again(difference, 0, 0)
    assert torch.equal(again(difference, 0, 1), others[0])


def test_corrections_take_the_most_of_their_rank() -> None:
    """Less of a product's error is left than by the error's own singular vectors, and nothing by all of them."""
    rng = np.random.default_rng(0)
    error, inputs = rng.standard_normal((12, 20)), rng.standard_normal((60, 20)) * np.exp(2 * rng.standard_normal(20))
    moments = inputs.T @ inputs
    left, sizes, right = np.linalg.svd(error, full_matrices=False)
    before = objective(error, moments).sum()
    for rank in (1, 4, 12):
        up, down = correction(error, moments, rank)
        assert (up.shape, down.shape) == ((12, rank), (rank, 20))
        ours = objective(error - up.astype(np.float64) @ down, moments).sum()
        plain = objective(error - (left[:, :rank] * sizes[:rank]) @ right[:rank], moments).sum()
        assert ours < 0.9 * plain or rank == 12
        assert ours < before
    assert ours < 1e-6 * before
    for form, size in (("fp16", 2 * 48), ("int8", 48 + 2 * 12)):
        values, count = held(up[:, :4], form, 128)
        assert count == size
        assert np.abs(values - up[:, :4]).max() < 0.005 * np.abs(up[:, :4]).max()


@pytest.mark.slow
def test_what_was_chosen_is_what_is_compiled() -> None:
    """In formats of their own: the machine's dequantised weights are the quantised model's, bit for bit."""
    checkpoint = random_checkpoint(small_config(), 3)
    windows = np.random.default_rng(0).integers(0, 70, (2, 16))
    for formats, weights in (({"down": INT8, "head": INT8}, None), (dict.fromkeys(PRODUCTS, INT4Z), "int4z")):
        found = quantise(checkpoint, windows, Asked(128, "gptq", formats))
        program = compile_checkpoint(as_held(checkpoint, found), Machine.load("tiny"), context=16, weights=weights)
        for name, product in (("o", "self_attn.o_proj"), ("down", "mlp.down_proj")):
            for layer in range(2):
                own = found.tensors[f"model.layers.{layer}.{product}.weight"]
                assert np.array_equal(dequantised(program, name, layer), own), name
        assert program.matrices["down"]["format"] == formats["down"].name


@pytest.mark.studies
def test_the_study(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Of a tiny piece of text: every format and policy is there, dials and random skipping execute what they are asked for."""
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n<!-- table: begin -->\n<!-- table: end -->\n")
    asked = ["study", "accuracy", "--model", "pybyte-300k", "--target", "ulx3s", "--bytes", 2048, "-o", tmp_path]
    assert said([*asked, "--update", page], capsysbinary)[0] == 0
    records = json.loads((tmp_path / "accuracy.json").read_text())["records"]
    bits = [r for r in records if r["name"] == "bits_per_byte"]
    assert {r["precision"] for r in bits} >= {"fp32", *Machine.load("ulx3s").formats}
    assert {(r["system"], r["kv"]) for r in bits} >= {(name, kv) for name in ("routers", "random") for kv in ("dense", "reuse")}
    assert all(1 < r["value"] < 10 for r in bits)
    routed: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for r in (r for r in records if r["name"] == "executed_share"):
        if r["system"] != "routers":
            assert r["value"] == pytest.approx(1 - r.get("skip", 0), abs=0.03), r
        elif "skip" in r and "masked" not in r:
            routed.setdefault((r["model"], r["kv"], r["precision"], r["stack"]), []).append((r["skip"], r["value"]))
    assert routed
    assert all(np.diff([share for _, share in sorted(shares)]).max() < 0 for shares in routed.values()), (
        "dials for less execute less"
    )
    plain = [r for r in records if "masked" not in r]
    read = [r for r in plain if r["name"] == "bytes_read" and r["system"] == "always"]
    (four,), (eight,) = ({r["value"] for r in read if r["precision"] == form} for form in ("int4", "int8"))
    assert four < eight < 2 * four
    masked = [r for r in records if "masked" in r]
    assert {(r["masked"], r["value"]) for r in masked if r["kind"] == "published"} >= {(0.5, 5.59)}
    for form in Machine.load("ulx3s").formats:
        (all_of_it,) = {r["value"] for r in read if r["precision"] == form}
        rates = {
            (r["stack"], r["masked"]): r["value"] / all_of_it
            for r in masked
            if r["name"] == "bytes_read" and (r["system"], r["precision"]) == ("always", form)
        }
        assert {share for _, share in rates} == {0.25, 0.4, 0.5}
        assert all(1 - share < rate < 1 for (_, share), rate in rates.items()), "scales, head and KV are read whole"
    for r in (r for r in masked if r["name"] == "active_channels_share" and "uniform" in r["stack"]):
        assert r["value"] == pytest.approx(1 - r["masked"], abs=0.03)
    text = page.read_text()
    assert "as trained: " in text
    assert text.count("| int4 |") > 8
    assert "\n- turned: " in text
    picture = (tmp_path / "accuracy.png").read_bytes()
    assert said(asked, capsysbinary)[0] == 0
    assert json.loads((tmp_path / "accuracy.json").read_text())["records"] == records
    assert (tmp_path / "accuracy.png").read_bytes() == picture
