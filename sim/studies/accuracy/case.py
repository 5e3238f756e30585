"""A model of the study, its texts, and what is measured of it: bits per byte, modules executed, bytes per token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.frontend.checkpoint import Checkpoint, load
from compiler.pipeline import compile_checkpoint
from sim.calibrate.observe import Masked
from sim.evaluation import measured_by_reference
from sim.quantise.text import calibration_text, drawn, seen
from sim.quantise.turned import turned
from sim.reference.model import GateRule, Output, SkipLlama, execute_when_positive
from sim.result import Routed
from sim.studies.accuracy.setting import SEED, SHIPPED, Design, Policy, Subject
from sim.timing import engine as timing
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy, Module
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.shipped import HELD_OUT
from skipopu.text import Passage, carried, text_of


class Texts(NamedTuple):
    """What weights are chosen by, and what they are measured on."""

    calibration: NDArray[np.int64]
    judged: Passage
    held_out: Passage


class Case:
    """A subject's model and texts."""

    def __init__(self, subject: Subject) -> None:
        torch.set_num_threads(1)  # jobs run side by side, and give the same sums wherever they run
        self.subject, self.design = subject, subject.design
        own = load(subject.model, mask_file=False)
        self.checkpoint = own if subject.form == SHIPPED else turned(own, SEED)
        self.config, self.window = own.config, window_of(own, subject.design)
        self.texts = texts(own, subject.design)
        # Wider formats need more memory than some targets have; the bytes read are the same.
        self.counted: dict[tuple[object, ...], float] = {}
        self.machine = dataclasses.replace(Machine.load(subject.design.target), memory_bytes=0)

    def policies(self, chosen: bool, random: bool) -> Iterator[tuple[Policy, float]]:
        """With their dials. The common ones first; those of the ``chosen`` method, and ``random`` skipping beside routers."""
        yield Policy("always", KvPolicy.REUSE), 0.0
        if self.checkpoint.routers:
            yield from ((Policy("routers", kv), 0.0) for kv in KvPolicy)
        if chosen:
            yield from self.subject.dials
        if random:
            yield from ((Policy("random", kv, share), 0.0) for kv in KvPolicy for share in self.design.shares)

    def rule(self, policy: Policy, dial: float) -> GateRule:
        if policy.name == "routers":
            return lambda difference, layer, module: execute_when_positive(difference - dial, layer, module)
        assert policy.share is not None
        modules, forced = 2 * self.config.num_layers, 1
        return random_rule((1 - policy.share) * modules / (modules - forced))

    def measure(self, model: SkipLlama, policy: Policy, dial: float) -> tuple[float, float, NDArray[np.bool_]]:
        """Bits per byte, executed share, and the routing (windows, layers, 2, tokens) of the first windows."""
        dense, traces = policy.name == "always", []
        rule = execute_when_positive if dense else self.rule(policy, dial)
        if isinstance(model, Masked):
            rule = model.noting(rule)

        def read(ids: Tensor) -> Output:
            out = model(ids, kv=policy.kv, dense=dense, rule=rule)
            if len(traces) < self.design.traces and ids.shape[1] == self.window:
                traces.extend(out.gates.bool().numpy())
            return out

        found = measured_by_reference(self.texts.held_out, self.window, read, self.config.vocab_size)
        assert found.bits_per_byte is not None
        if not traces:
            raise ProgramError(f"--bytes: the text has no window of {self.window} tokens; more bytes are needed")
        return found.bits_per_byte, found.executed_share, np.stack(traces[: self.design.traces])

    def judged(self, model: SkipLlama) -> float:
        """Loss of the calibration text that chooses between methods, in nats."""
        read = functools.partial(model, dense=not self.checkpoint.routers)
        return measured_by_reference(self.texts.judged, self.window, read, self.config.vocab_size).nats

    def bytes_per_token(self, program: Program, traces: NDArray[np.bool_]) -> float:
        """As :func:`bytes_per_token`, which the numbers of the weights have no part in."""
        key = (program.kv, *(matrix["format"] for matrix in program.matrices.values()), traces.tobytes())
        if key not in self.counted:
            self.counted[key] = bytes_per_token(program, traces)
        return self.counted[key]

    def programs(self, weights: Checkpoint, format: str | None) -> dict[KvPolicy, Program]:
        return {kv: compile_checkpoint(weights, self.machine, kv, context=self.window, weights=format) for kv in KvPolicy}


def texts(checkpoint: Checkpoint, design: Design) -> Texts:
    directory = checkpoint.directory
    text, window = text_of(checkpoint.config, carried(directory), directory.name), window_of(checkpoint, design)
    own = calibration_text(None, checkpoint.config, directory)
    windows = drawn(own, design.samples, window, SEED, "the standard library's source")
    own_text = directory / HELD_OUT.name
    held_out = text.passage((own_text if own_text.exists() else HELD_OUT).read_bytes()[: design.size])
    return Texts(windows, seen(windows[: design.judged], own), held_out)


def window_of(checkpoint: Checkpoint, design: Design) -> int:
    return min(design.window, checkpoint.config.max_positions)


def random_rule(ratio: float) -> GateRule:
    """Each module of each token skipped with the ratio, by itself; layer 0's attention executes."""
    generator = torch.Generator().manual_seed(SEED)

    def rule(difference: Tensor, layer: int, module: int) -> Tensor:
        drawn = torch.rand(difference.shape, generator=generator)
        return (drawn >= (0 if (layer, module) == (0, Module.ATTENTION) else ratio)).to(difference.dtype)

    return rule


def bytes_per_token(program: Program, traces: NDArray[np.bool_]) -> float:
    """Bytes of all beats that are read for a decoded token, by the timing engine, whose second half of a window is decoded."""
    found, count = [], traces.shape[-1]
    for routing in np.unique(traces, axis=0):
        new = count - count // 2
        routed = Routed(tokens=[0] * new, routing=routing)
        at = timing.run(program, Run((0,) * (count // 2), new), timing.Options(routed)).at_token
        found.append((at[-1]["READ_BEATS"] - at[0]["READ_BEATS"]) / (new - 1))
    return float(np.mean(found)) * program.machine.beat_bytes
