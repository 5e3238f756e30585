"""Masks of input channels: thresholds for every share, and what they cost and spare under each way to skip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import Checkpoint
from compiler.pipeline import compile_checkpoint
from compiler.quantise.products import in_layer
from sim.calibrate.budget import allocate, curves, sizes
from sim.calibrate.observe import Masked
from sim.calibrate.place import ALIKE, How, choose, subject_of
from sim.calibrate.work import TRIED, UNIFORM
from sim.reference.masks import COUNTED, thresholds_of
from sim.reference.model import SkipLlama
from sim.studies.accuracy.case import Case
from sim.studies.accuracy.setting import SHIPPED, WAYS, Chosen, Point, Policy, Subject
from skipopu.masks import INPUT_OF, THRESHOLD_BYTES
from skipopu.numerics.formats import BY_NAME, FORMATS
from skipopu.policy import KvPolicy, Module
from skipopu.program.program import Program


def calibrated(subject: Subject, dense: bool) -> tuple[Chosen, ...]:
    """Thresholds of the subject's model in its first format, everything executed or with the routers under ``reuse``.

    One set serves all formats and both KV policies.
    """
    case, found = Case(subject), []
    windows = case.texts.calibration
    for way in WAYS if case.design.masked else ():
        rule, ratios = way
        model = subject_of(case.checkpoint, How(rule, dense=dense))
        tried = curves(model, windows[:TRIED]) if ratios != UNIFORM else {}
        own = sizes(model, case.texts.judged, case.window)
        for share in case.design.masked:
            choose(model, windows, allocate(tried, own, share) if tried else dict.fromkeys(model.places, share))
            found.append(Chosen(dense, way, share, model.masks()))
    return tuple(found)


def masked(
    case: Case, format: str, method: str, weights: Checkpoint, programs: Mapping[KvPolicy, Program], model: SkipLlama
) -> Iterator[Point]:
    """Points of the shipped model in one format, its chosen ``weights``: everything executed and the routers as trained, under both KV
    policies, in the first format also their mildest dial with the last way."""
    subject, first = case.subject, format == FORMATS[0].name
    policies = [(Policy("always", KvPolicy.REUSE), 0.0)]
    if case.checkpoint.routers:
        policies += [(Policy("routers", kv), 0.0) for kv in KvPolicy]
        most = max(case.design.shares)
        policies += [(policy, dial) for policy, dial in subject.dials if first and policy.share == most]
    machine = dataclasses.replace(case.machine, stationary=True, masks=True)
    for chosen in subject.masks if subject.form == SHIPPED else ():
        last = chosen.way == WAYS[-1]
        if not (first or last):
            continue
        # The compiler puts thresholds where heads are padded.
        own = dataclasses.replace(weights, masks=chosen.thresholds)
        held = thresholds_of(compile_checkpoint(own, machine, context=case.window, weights=format))
        for policy, dial in policies:
            if (policy.name == "always") is not chosen.dense or (policy.share is not None and not last):
                continue
            watched = Masked.of(model, policy.kv)
            watched.thresholds = held
            bits, executed, traces = case.measure(watched, policy, dial)
            active, every, _ = np.array(list(watched.counts.values())).sum(0)
            read = case.bytes_per_token(programs[policy.kv], traces) - spared(watched, traces, BY_NAME[format].bits)
            way = ", ".join(chosen.way)
            yield Point(
                *(subject.form, format, method, policy, bits, executed, read, dial, True),
                masked=chosen.share,
                masks=way,
                active=float(active / every),
            )


def spared(model: Masked, traces: NDArray[np.bool_], bits: int) -> float:
    """Bytes that a decoded token reads less for its masks: codes of channels that are left out, without the thresholds that are read.

    By channels, of the text that was measured, and by the modules that ``traces`` (windows, layers, 2, tokens) execute. What whole
    beats add is not in it.
    """
    executed = traces[..., traces.shape[-1] // 2 :].mean((0, 3))
    total = 0.0
    for index, layer in enumerate(model.layers):
        for product in in_layer(model.config):
            own = INPUT_OF[product]
            if own not in model.thresholds:
                continue
            active, every, _ = model.counts[index, ALIKE.get(product, product)]
            module = Module.ATTENTION if own.startswith("self_attn") else Module.FFN
            often = 1.0 if product in "kv" and model.kv is KvPolicy.DENSE else float(executed[index, module])
            rows, channels = getattr(layer, f"{product}_proj").weight.shape
            total += often * rows * channels * bits / 8 * (1 - active / every if every else 0)
            total -= often * THRESHOLD_BYTES * channels if product in COUNTED else 0
    return total
