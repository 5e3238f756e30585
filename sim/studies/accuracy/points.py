"""Losses and bytes of a model whose weights are held in one format: one job of the study."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.tensors import Codes, Held, Tensors
from compiler.quantise.choose import METHODS
from compiler.quantise.products import folded
from sim.quantise.calibrate import Asked, Quantised, quantise, router_tensors
from sim.quantise.loss import model_of
from sim.reference import engine as reference
from sim.reference.model import SkipLlama
from sim.studies.accuracy.case import Case
from sim.studies.accuracy.masks import masked
from sim.studies.accuracy.setting import FP32, Point, Policy, Subject
from skipopu.numerics.formats import BY_NAME, FORMATS
from skipopu.policy import KvPolicy

METHODS_OF_8_BITS = ("rtn", "gptq")  # what there is to gain is less than what other windows make


def as_held(checkpoint: Checkpoint, found: Quantised) -> Checkpoint:
    """The quantised model with the integers that were chosen, as a quantised file has them."""

    def codes(name: str, rows: slice) -> Held:
        if name not in found.choices:
            return None
        held = found.choices[name].rounded
        integers = held.codes.reshape(len(held.codes), -1)[rows, : held.n].astype(np.int16)
        return Codes(integers, held.scales[rows].astype(np.float32), held.codes.shape[-1], held.format)

    shapes = {name: tensor.shape for name, tensor in found.tensors.items()}
    tensors = Tensors(shapes, lambda name, rows: found.tensors[name][rows], codes)
    return dataclasses.replace(checkpoint, config=found.config, tensors=tensors)


def dials(subject: Subject) -> tuple[tuple[Policy, float], ...]:
    """Dials that execute the design's shares of modules, on the calibration text, with weights as they are."""
    case = Case(subject)
    if not case.checkpoint.routers:
        return ()
    model = as_it_is(case)
    ids = torch.from_numpy(case.texts.calibration[: max(1, subject.design.judged // 2)])

    def executed(kv: KvPolicy, dial: float) -> float:
        policy = Policy("routers", kv)
        return float(model(ids, kv=kv, rule=case.rule(policy, dial)).gates.mean())

    found = []
    for kv in KvPolicy:
        most = float(model(ids, kv=kv).differences.abs().max())
        for share in subject.design.shares:
            low, high = -most, most
            for _ in range(10):
                middle = (low + high) / 2
                low, high = (middle, high) if executed(kv, middle) > share else (low, middle)
            found.append((Policy("routers", kv, share), float(f"{(low + high) / 2:.3g}")))
    return tuple(found)


def as_it_is(case: Case) -> SkipLlama:
    """The model in FP32, nothing of it rounded."""
    checkpoint = case.checkpoint
    return model_of(checkpoint.config.untied, folded(checkpoint.config, checkpoint.tensors), router_tensors(checkpoint))


def bound(subject: Subject) -> list[Point]:
    """Points of weights as they are."""
    case, found = Case(subject), []
    model = as_it_is(case)
    for policy, dial in case.policies(chosen=True, random=False):
        bits, executed, _ = case.measure(model, policy, dial)
        found.append(Point(subject.form, FP32, "-", policy, bits, executed, None, dial, True))
    return found


def held(case: Case, format: str, method: str) -> Checkpoint:
    """The checkpoint as the method leaves it, to be rounded to nearest where it is compiled."""
    if method == "rtn":
        return case.checkpoint
    form = BY_NAME[format]
    asked = Asked(
        case.config.weight_group,
        method,
        dict.fromkeys((*"qkvo", "gate", "up", "down", "head"), form),
        dense=not case.checkpoint.routers,
    )
    return as_held(case.checkpoint, quantise(case.checkpoint, case.texts.calibration, asked))


def of_format(subject: Subject, format: str) -> list[Point]:
    """Points of one format: every method that applies, and the one that loses least on the calibration text more closely."""
    case, form = Case(subject), BY_NAME[format]
    methods = METHODS if form.bits < 8 else METHODS_OF_8_BITS
    weights = {method: held(case, format, method) for method in methods}
    programs = {method: case.programs(each, format) for method, each in weights.items()}
    models = {method: reference.model_of(by_kv[KvPolicy.REUSE]) for method, by_kv in programs.items()}
    best = min(methods, key=lambda method: case.judged(models[method]))
    found = []
    for method in methods:
        chosen = method == best
        for policy, dial in case.policies(chosen, chosen and format == FORMATS[0].name):
            bits, executed, traces = case.measure(models[method], policy, dial)
            read = case.bytes_per_token(programs[method][policy.kv], traces)
            found.append(Point(subject.form, format, method, policy, bits, executed, read, dial, chosen))
    return [*found, *masked(case, format, best, weights[best], programs[best], models[best])]
