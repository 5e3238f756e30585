"""compressed-tensors files are dequantised as their layout says, and as the package does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.frontend.quantised.packed import ACT_ORDER, FLOATING
from compiler.frontend.tensors import Codes, NoCodes
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4, INT8
from tests.compiler.frontend.quantised import drawn, opened, parts

ROWS, N, BASE = 21, 192, "model.layers.0.mlp.up_proj."
NAME = f"{BASE}weight"


def config(form: str = "pack-quantized", targets: tuple[str, ...] = ("Linear",), **weights: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64} | weights
    groups = {"group_0": {"targets": list(targets), "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, -1])
@pytest.mark.parametrize("kind", ["sym", "asym", "act order"])
def test_packed_integers(tmp_path: Path, bits: int, group: int, kind: str) -> None:
    given = drawn(ROWS, N, bits, group, kind != "asym", seed=bits + group)
    if kind == "act order":
        given = given.permuted(np.random.default_rng(1))
    asked: dict[str, Any] = {"strategy": "channel"} if group == -1 else {"group_size": group}
    asked |= {"actorder": "group"} if kind == "act order" else {}
    tensors = given.compressed(BASE, kind != "asym")
    found = opened(tmp_path, tensors, config(num_bits=bits, symmetric=kind != "asym", **asked))
    for rows in parts(ROWS):
        assert np.array_equal(found.read(NAME, rows), given.values()[rows])
    codes = found.codes(NAME, slice(3, 20))
    if kind == "act order" and group != -1:
        assert codes == NoCodes(ACT_ORDER, INT8 if bits == 8 else INT4)
        return
    assert isinstance(codes, Codes)
    assert np.array_equal(codes.integers, (given.fields - given.zeros[:, given.order])[3:20])


STRATEGIES: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, ...]]] = {
    "tensor": ({"strategy": "tensor"}, (ROWS, N), (1,)),
    "channel": ({"strategy": "channel"}, (1, N), (ROWS, 1)),
    "group": ({"strategy": "group", "group_size": 64}, (1, 64), (ROWS, 3)),
    "block": ({"strategy": "block", "block_structure": [8, 128]}, (8, 128), (3, 2)),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("form", ["int-quantized", "naive-quantized", "float-quantized"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_numbers_in_bytes(tmp_path: Path, strategy: str, form: str, symmetric: bool) -> None:
    asked, (rows, columns), shape = STRATEGIES[strategy]
    random = torch.Generator().manual_seed(3)
    scale = torch.rand(shape, generator=random).add(0.1).bfloat16()
    floating = form == "float-quantized"
    if floating:
        weight = torch.randn(ROWS, N, generator=random).mul(40).to(torch.float8_e4m3fn)
    else:
        weight = torch.randint(-128, 128, (ROWS, N), generator=random, dtype=torch.int8)
    tensors = {f"{BASE}weight": weight, f"{BASE}weight_scale": scale}
    zeros = torch.zeros(shape) if symmetric or floating else torch.randint(-9, 9, shape, generator=random)
    if not symmetric:
        tensors[f"{BASE}weight_zero_point"] = zeros.to(weight.dtype)
    kind = {"type": "float" if floating else "int", "num_bits": 8, "symmetric": symmetric}
    found = opened(tmp_path, tensors, config(form, **kind, **asked))
    expected = np.zeros((ROWS, N), np.float32)
    for row in range(ROWS):
        for column in range(N):
            place = (row // rows, column // columns)
            of = [float(t.float().reshape(-(-ROWS // rows), -1)[place]) for t in (zeros, scale)]
            expected[row, column] = (np.float32(weight[row, column].float()) - np.float32(of[0])) * np.float32(of[1])
    for part in parts(ROWS):
        assert np.array_equal(found.read(NAME, part), expected[part])
    codes = found.codes(NAME, slice(0, 9))
    assert codes == NoCodes(FLOATING) if floating else isinstance(codes, Codes)
    if floating and strategy == "group":  # act-order takes nothing from that
        tensors[f"{BASE}weight_g_idx"] = torch.arange(N).flip(0) // 64
        assert opened(tmp_path, tensors, config(form, **kind, **asked, actorder="group")).codes(NAME, slice(0, 9)) == NoCodes(
            FLOATING
        )


def test_the_most_special_target_says_what_a_module_is(tmp_path: Path) -> None:
    """A module's own name before patterns, patterns before classes."""
    asked = config(num_bits=8)
    for targets, bits in ((["re:.*up_proj"], 8), ([BASE[:-1]], 4)):
        more = config(targets=tuple(targets), num_bits=bits)["config_groups"]["group_0"]
        asked["config_groups"][f"{targets}"] = more
    given = drawn(ROWS, N, 4, 64, True)
    assert np.array_equal(opened(tmp_path, given.compressed(BASE, True), asked)[NAME], given.values())
    del asked["config_groups"][f"{[BASE[:-1]]}"]
    with pytest.raises(CheckpointError, match="weight_packed has shape"):
        opened(tmp_path, given.compressed(BASE, True), asked)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("weight_scale", None, "up_proj.weight_scale is missing; .*weight_packed needs it"),
        ("weight_shape", None, "up_proj.weight_shape is missing; .*weight_packed needs it"),
        ("weight_zero_point", None, "up_proj.weight_zero_point is missing; .*weight_packed needs it"),
        ("weight_packed", lambda t: t[:, :-1], r"weight_packed has shape \(21, 23\); .*weight_shape .* ask for \(21, 24\)"),
        ("weight_packed", lambda t: t.long(), "weight_packed holds I64; accepted: I32"),
        ("weight_shape", lambda t: t - 64, r"weight_packed has shape \(21, 24\); .* ask for \(-43, 16\)"),
        ("weight_scale", lambda t: t[:, :-1], r"weight_scale has shape \(21, 2\); .* ask for \(21, 3\)"),
        ("weight_zero_point", lambda t: t[:-1], r"weight_zero_point has shape \(2, 3\); .* ask for \(3, 3\)"),
        ("weight_g_idx", lambda t: torch.arange(N, dtype=torch.int32), "weight_g_idx is no order of 3 groups of 64 columns"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(tmp_path: Path, part: str, change: Any, message: str) -> None:
    tensors = drawn(ROWS, N, 4, 64, False).compressed(BASE, False)
    if change is None:
        del tensors[BASE + part]
    else:
        tensors[BASE + part] = change(tensors.get(BASE + part))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor .*" + message):
        opened(tmp_path, tensors, config(symmetric=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "nvfp4-pack-quantized"}, "format is 'nvfp4-pack-quantized'; accepted: 'pack-quantized' or"),
        ({"config_groups": [1]}, r"config_groups is \[1\]; accepted: a mapping"),
        ({"config_groups": {"W4A16": ["Linear"]}}, r"config_groups.W4A16 is \['Linear'\]; accepted: a mapping"),
        (
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config.format is 'sparse-24-bitmask'; accepted: 'dense'",
        ),
        (config(num_bits=3), "weights.num_bits is 3; accepted: 4 or 8"),
        (config(num_bits=4, type="float"), "weights.num_bits is 4; accepted: 8"),
        (config(strategy="token"), "weights.strategy is 'token'; accepted: 'tensor' or"),
        (config(group_size=None), "weights.group_size is None; accepted: an integer"),
        (config(group_size=80), "weight_packed has 192 columns; accepted: a multiple of the group of 80"),
        (config(targets=("re:(",)), r"targets holds 're:\(', which is no pattern"),
        (config(targets=("re:.*down",)), "weight_packed is quantised; quantization_config has no target for it"),
    ],
)
def test_configurations_are_refused_by_their_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, drawn(ROWS, N, 4, 64, True).compressed(BASE, True), config() | change)


@pytest.mark.parametrize("order", [None, False, "weight", "static"])
def test_an_order_that_nothing_asks_for_is_refused(tmp_path: Path, order: object) -> None:
    given = drawn(ROWS, N, 4, 64, True).permuted(np.random.default_rng(1)).compressed(BASE, True)
    with pytest.raises(
        CheckpointError, match=rf"weight_g_idx reorders columns and actorder of config.json is {order!r}; accep"
    ):
        opened(tmp_path, given, config(actorder=order))


WRITTEN = [
    (form, bits, symmetric) for form in ("pack-quantized", "int-quantized") for bits in (4, 8) for symmetric in (True, False)
]


@pytest.mark.parametrize(("form", "bits", "symmetric"), [*WRITTEN, ("float-quantized", 8, True)])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
def test_the_package_reads_the_same(tmp_path: Path, bits: int, symmetric: bool, form: str, strategy: str) -> None:
    """What compressed-tensors compresses it decompresses to our numbers, bit for bit."""
    package = pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor  # pyright: ignore[reportMissingImports]
    from compressed_tensors.quantization import QuantizationScheme  # pyright: ignore[reportMissingImports]
    from compressed_tensors.quantization.utils import calculate_qparams  # pyright: ignore[reportMissingImports]

    assert package
    floating = form == "float-quantized"
    asked = config(
        form,
        num_bits=bits,
        symmetric=symmetric,
        strategy=strategy,
        group_size=64 if strategy == "group" else None,
        type="float" if floating else "int",
    )
    scheme = QuantizationScheme.model_validate(asked["config_groups"]["group_0"])
    weight = torch.randn(24, N, generator=torch.Generator().manual_seed(bits))
    split = {"tensor": weight.reshape(1, -1), "channel": weight[:, None], "group": weight.reshape(24, 3, 64)}[strategy]
    scale, zero = calculate_qparams(split.amin(-1), split.amax(-1), scheme.weights)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress({"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, scheme)
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    found = opened(tmp_path, {BASE + part: tensor for part, tensor in stored.items()}, asked)
    assert np.array_equal(found[NAME], expected.numpy())
