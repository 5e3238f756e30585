"""What more bytes buy: a low-rank correction of INT4's error (LoRC, Yao et al., 2023), or 8 bits for some products."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import Checkpoint
from compiler.quantise.budget import parts, within
from compiler.quantise.gptq import damped
from compiler.quantise.products import READ, products, tensor_of
from sim.quantise.budget import gains
from sim.quantise.calibrate import Asked, Calibration, Quantised, router_tensors
from sim.quantise.calibrate import quantise as quantised
from sim.quantise.loss import model_of
from sim.reference import engine as reference
from sim.studies.accuracy.case import Case
from sim.studies.accuracy.points import as_held
from sim.studies.accuracy.setting import PRODUCTS, Point, Policy, Subject
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import INT4, INT8, dequantise
from skipopu.numerics.fp32 import F32, F64
from skipopu.policy import KvPolicy, Module

BASES = ("rtn", "gptq")  # what is corrected
FACTORS = ("int8", "fp16")  # how the correction's two matrices are held
ROOM = (1.1, 1.25, 1.5, 1.75)  # times INT4's bytes, for some products in 8 bits


def correction(error: F64, moments: F64, rank: int) -> tuple[F32, F32]:
    """(rows, rank) and (rank, n), whose product takes the most from what an ``error`` (rows, n) of weights makes of their results.

    Of all corrections of the rank the best, X^T X of the inputs given: that of ``error`` times a root of it.
    """
    root = np.linalg.cholesky(damped(moments))
    left, sizes, right = np.linalg.svd(error @ root, full_matrices=False)
    half = np.sqrt(sizes[:rank])
    down = np.linalg.solve(root.T, (half[:, None] * right[:rank]).T).T
    return (left[:, :rank] * half).astype(np.float32), down.astype(np.float32)


def held(factor: F32, form: str, group: int) -> tuple[F32, int]:
    """A factor as the form holds it, and its bytes."""
    if form == "fp16":
        return factor.astype(np.float16).astype(np.float32), 2 * factor.size
    codes, scales = INT8.quantise(factor, min(group, factor.shape[1]))
    return dequantise(codes, scales, factor.shape[1]), factor.size + 2 * scales.size


class Kept(Calibration):
    """Keeps what each product reads: ``moments`` by its tensor."""

    def __init__(self, checkpoint: Checkpoint, windows: NDArray[np.int64], asked: Asked) -> None:
        super().__init__(checkpoint, windows, asked)
        self.moments: dict[str, F64] = {}

    def choose(self, product: str, layer: int, moments: F64) -> None:
        super().choose(product, layer, moments)
        self.moments[tensor_of(product, layer)] = moments


def asked_for(case: Case, method: str) -> Asked:
    return Asked(case.config.weight_group, method, dense=not case.checkpoint.routers, keep=True)


def policies(case: Case) -> list[Policy]:
    """All executed, and the routers as they were trained."""
    routed = [Policy("routers", KvPolicy.REUSE)] if case.checkpoint.routers else []
    return [Policy("always", KvPolicy.REUSE), *routed]


def shares(config: ModelConfig, traces: NDArray[np.bool_]) -> dict[tuple[str, int], float]:
    """How often a decoded token reads each product's weights, under ``reuse``."""
    executed = traces[..., traces.shape[-1] // 2 :].mean((0, 3))
    found = {}
    for product, layer in products(config):
        module = Module.ATTENTION if READ[product] in ("q", "kv", "o") else Module.FFN
        found[product, layer] = 1.0 if product == "head" else float(executed[layer, module])
    return found


def corrections(subject: Subject) -> list[Point]:
    """INT4 with corrections of every rank in every form, and without; bytes are those of INT4 and of what executes of the factors."""
    case, found = Case(subject), []
    config, group = case.config.untied, case.config.weight_group
    base = case.programs(case.checkpoint, INT4.name)[KvPolicy.REUSE]
    for method in BASES:
        calibration = Kept(case.checkpoint, case.texts.calibration, asked_for(case, method))
        done = calibration.carried_out()
        factors = dict(_factors(calibration, done, max(case.design.ranks, default=0)))
        for rank, form in [(0, ""), *((rank, form) for form in FACTORS for rank in case.design.ranks)]:
            tensors, sizes = dict(done.tensors), dict.fromkeys(factors, 0)
            for key, (up, down) in factors.items() if rank else ():
                own = [held(factor, form, group) for factor in (up[:, :rank], down[:rank])]
                tensors[tensor_of(*key)] = (tensors[tensor_of(*key)] + own[0][0] @ own[1][0]).astype(np.float32)
                sizes[key] = own[0][1] + own[1][1]
            model = model_of(config, tensors, router_tensors(case.checkpoint), group)
            for policy in policies(case):
                bits, executed, traces = case.measure(model, policy, 0.0)
                often = shares(config, traces)
                more = sum(size * often[key] for key, size in sizes.items())
                read = case.bytes_per_token(base, traces) + more
                name = f"{INT4.name}, rank {rank} in {form}" if rank else INT4.name
                found.append(Point(subject.form, name, method, policy, bits, executed, read, bought=form))
    return found


def _factors(calibration: Kept, done: Quantised, rank: int) -> Iterator[tuple[tuple[str, int], tuple[F32, F32]]]:
    for product, layer in products(done.config):
        name = tensor_of(product, layer)
        error = done.before[name].astype(np.float64) - done.tensors[name]
        yield (product, layer), correction(error, calibration.moments[name], rank)


def mixtures(subject: Subject) -> list[Point]:
    """GPTQ's INT4 with 8 bits for what gains the most, within several numbers of bytes."""
    case, found = Case(subject), []
    asked = asked_for(case, "gptq")
    narrow = quantised(case.checkpoint, case.texts.calibration, asked)
    seen = gains(case.checkpoint, narrow, asked, parts(case.config), case.texts.judged, case.window)
    costs, worth = {one.part: one.bytes for one in seen}, {one.part: one.nats for one in seen}
    several = [tuple(within(int((room - 1) * narrow.bytes), costs, worth)) for room in ROOM]
    for some in dict.fromkeys(filter(None, several)):
        wider = dataclasses.replace(asked, formats={product: INT8 for part in some for product in part})
        weights = as_held(case.checkpoint, quantised(case.checkpoint, case.texts.calibration, wider))
        program = case.programs(weights, None)[KvPolicy.REUSE]
        model = reference.model_of(program)
        for policy in policies(case):
            bits, executed, traces = case.measure(model, policy, 0.0)
            read = case.bytes_per_token(program, traces)
            names = ", ".join(product for part in some for product in part)
            name = f"{INT4.name}, {names} in {INT8.name}"
            found.append(Point(subject.form, name, "gptq", policy, bits, executed, read, bought=PRODUCTS))
    return found
