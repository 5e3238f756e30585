"""Pairs of results against the numerics: plain, rotated, gated by every activation, added to a residual; saturation."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.finish import ONE, Finish
from skipopu.isa.spec import Epilogue
from skipopu.numerics import activation, fp32
from skipopu.numerics.activation import Activation
from tests.hw.bench import pipeline

COUNT = 120
PARAMETER = np.float32(1.702)


def operands(names: str, seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: np.float32(scale) * (rng.standard_normal(COUNT) * 10.0 ** rng.integers(-4, 3, COUNT)).astype(np.float32)
        for name in names.split()
    }


NAMES = "even odd scale cos sin residual_even residual_odd"
CASES = [(kind, Activation.SWISH) for kind in Epilogue if kind is not Epilogue.GATED]
CASES += [(Epilogue.GATED, function) for function in Activation]


@pytest.mark.parametrize(("kind", "function"), CASES)
def test_results(kind: Epilogue, function: Activation) -> None:
    x = operands(NAMES, int(kind) + 8 * int(function))
    x["scale"][::2] = 1
    even, odd = fp32.multiply(x["even"], x["scale"]), fp32.multiply(x["odd"], x["scale"])
    rotate = np.zeros(COUNT, bool)
    results = even, odd
    if kind is Epilogue.ROPE:
        rotate[::3] = True
        turned = (
            fp32.add(fp32.multiply(even, x["cos"]), -fp32.multiply(odd, x["sin"])),
            fp32.add(fp32.multiply(odd, x["cos"]), fp32.multiply(even, x["sin"])),
        )
        results = tuple(np.where(rotate, new, old) for new, old in zip(turned, results, strict=True))
    elif kind is Epilogue.RESIDUAL:
        results = fp32.add(x["residual_even"], even), fp32.add(x["residual_odd"], odd)
    elif kind is Epilogue.GATED:
        results = (activation.gated(function, even, odd, PARAMETER),)
    dut = Finish(tanh=function is Activation.GELU_TANH)
    steady = [
        (dut.kind, [int(kind)]),
        (dut.activation, [int(function)]),
        (dut.parameter, [int(fp32.bits(PARAMETER))]),
        (dut.valid, [1]),
        (dut.rotate, rotate),
    ]
    expected = [(port, fp32.bits(values)) for port, values in zip((dut.result_even, dut.result_odd), results, strict=False)]
    expected.append((dut.saturated, np.zeros(COUNT, int)))
    pipeline(dut, [*steady, *((getattr(dut, name), fp32.bits(x[name])) for name in NAMES.split())], expected, Finish.LATENCY)


def test_only_valid_pairs_saturate() -> None:
    valid = np.arange(COUNT) % 3 == 0
    huge = np.full(COUNT, 0x7F000000)
    dut = Finish()
    fed = [(dut.valid, valid), (dut.even, huge), (dut.odd, huge), (dut.scale, np.full(COUNT, ONE + (2 << 23)))]
    expected = np.full(COUNT, 0x7F7FFFFF)
    # The bit comes as soon as the step saturates: with the scaled result.
    pipeline(dut, fed, [(dut.saturated, valid)], 2)
    pipeline(dut, fed, [(dut.result_even, expected), (dut.result_odd, expected)], Finish.LATENCY)
