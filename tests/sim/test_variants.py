"""Models that are no plain Llama: the functional engine against the reference, and the reference against the checkpoint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.reference import engine as reference
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from sim.result import logits_of
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config
from tests.variants import VARIANTS

PROMPT = tuple(range(3, 14))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kv"), [*((n, "reuse") for n in VARIANTS), *((n, "dense") for n in [*VARIANTS][1::4])])
def test_engines_agree_on_what_the_checkpoint_holds(name: str, kv: str) -> None:
    """Within the derived bounds on the image's weights; on the checkpoint's own, as far as eight bits carry."""
    config = small_config(**VARIANTS[name])
    checkpoint = random_checkpoint(config, 5, routers=kv == "reuse" or config.parallel)
    machine = Machine.load("tiny")
    program = compile_checkpoint(checkpoint, machine, kv, logits=True, context=16, weights="int8", group=32)
    options = Run(PROMPT, 4)
    result = functional.run(program, options)
    sequence = [*PROMPT, *result.tokens]
    count = len(sequence) - 1
    logits, routing = logits_of(program, result, count), result.routing[None, ..., :count]
    seen = reference.agreement(program, options, [sequence], len(PROMPT), routing, logits[None])
    assert seen.ok
    assert not seen.undecided
    assert seen.max_logit_error is not None
    assert 0 < seen.max_logit_error < seen.logit_bound
    model = load_hf_state_dict(SkipLlama(config), {n: torch.from_numpy(t) for n, t in checkpoint.tensors.items()}, {})
    with torch.no_grad():
        own = model(torch.tensor([sequence[:count]]), program.kv, torch.from_numpy(routing)).logits[0].numpy()
    assert np.linalg.norm(logits - own) < 0.04 * np.linalg.norm(own)


@pytest.mark.parametrize(
    "name",
    [
        "biases in front of norms",
        "parallel, biases",
        "bias of the norm before a gate",
        "bias of the norm before a gate, parallel",
    ],
)
def test_no_result_depends_on_chunk_or_schedule(name: str) -> None:
    """Not even where the residual is aligned by passes of their own."""
    config = small_config(**VARIANTS[name])
    found = []
    for tokens, level in ((4, Schedule.RUN_AHEAD), (1, Schedule.REDUCTIONS), (7, Schedule.UNFUSED)):
        machine = dataclasses.replace(Machine.load("tiny"), tokens=tokens, buffer=1 << 14)
        program = compile_checkpoint(random_checkpoint(config, 5), machine, logits=True, context=16, level=level)
        found.append(logits_of(program, functional.run(program, Run(PROMPT, 2)), len(PROMPT)).view(np.uint32))
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
