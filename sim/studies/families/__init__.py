"""Study ``families``: small models of every family, from transformers' files to the RTL's bits."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.shapes import random_routers
from compiler.pipeline import compile_checkpoint
from sim.check import Check, check
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from sim.studies.families.models import MODELS, logits, save
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy
from skipopu.program.run import Run
from skipopu.report import Keys, Record, Report, Table

TARGET = "tiny"
TOKENS = 40  # of the comparison with transformers, beyond every window
PROMPT, NEW = 14, 4  # on the engines, beyond every window too
SEED = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One program of a model: what the engines' comparison gave, or the sentence of a refusal."""

    routers: bool
    kv: KvPolicy
    outcome: Check | str


def logit_error(checkpoint: Checkpoint, theirs: torch.nn.Module) -> float:
    """The reference's largest difference from transformers' logits, as a share of their largest; FP32, dense."""
    base = {name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()}
    ours = load_hf_state_dict(SkipLlama(checkpoint.config), base, {}).requires_grad_(False)
    tokens = torch.randint(0, checkpoint.config.vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(SEED))
    expected = logits(theirs, tokens)
    return float((ours(tokens, dense=True).logits - expected).abs().max() / expected.abs().max())


def engines(checkpoint: Checkpoint, machine: Machine, kv: KvPolicy) -> Check | str:
    """All engines on one program, compared; or the sentence with which one refuses it."""
    prompt = np.random.default_rng(SEED).integers(0, checkpoint.config.vocab_size, PROMPT)
    try:
        return check(compile_checkpoint(checkpoint, machine, kv, context=PROMPT + NEW), Run(tuple(prompt.tolist()), NEW))
    except SkipopuError as refused:
        return str(refused)


def rows(checkpoint: Checkpoint, machine: Machine) -> list[Row]:
    """Dense and with routers, under both KV policies."""
    routed = dataclasses.replace(checkpoint, routers=random_routers(checkpoint.config, np.random.default_rng(SEED)))
    return [Row(of is routed, kv, engines(of, machine, kv)) for of in (checkpoint, routed) for kv in KvPolicy]


def cells(of: Sequence[Row]) -> list[str]:
    """Functional engine against reference, RTL against functional engine, cycles of the timing engine against the RTL's."""
    done = [row.outcome for row in of if isinstance(row.outcome, Check)]
    refused = dict.fromkeys(row.outcome for row in of if isinstance(row.outcome, str))
    if not done:
        return [f"not supported: {'; '.join(refused)}", "", ""]
    total = sum(one.agreement.routing_positions + one.agreement.token_positions for one in done)
    inside = sum(one.agreement.routing_inside + one.agreement.token_inside for one in done)
    wrong = sum(one.agreement.routing_differing + one.agreement.token_differing for one in done)
    equal = sum(one.rtl is not None and one.ok for one in done)
    errors = [one.cycle_error for one in done if one.cycle_error is not None]
    return [
        f"{total - inside} of {total} decide, {wrong} differ" + "".join(f"; not supported: {text}" for text in refused),
        f"{equal} of {len(done)} equal",
        f"{max(errors, key=abs):+.2%}" if errors else "",
    ]


def records(name: str, error: float, of: Sequence[Row]) -> list[Record]:
    result = [Record("logit_error", error, "ratio", "derived", "reference against transformers", model=name, digits=".1e")]
    for row in of:
        keys: Keys = {"model": name, "target": TARGET, "kv": row.kv, "system": "routers" if row.routers else "no routers"}
        if isinstance(row.outcome, str):
            result.append(Record("refusal", row.outcome, "", "derived", "skipopu compile", **keys))
            continue
        a = row.outcome.agreement
        differing = a.routing_differing + a.token_differing
        result.append(Record("differing_decisions", differing, "decision", "simulated", "functional, reference", **keys))
        if (bits := row.outcome.differing_bits) is not None:
            result.append(Record("differing_bits", bits, "bit", "simulated", "functional, rtl", **keys))
        if (off := row.outcome.cycle_error) is not None:
            result.append(Record("cycle_error", off, "ratio", "derived", "timing / rtl - 1", digits=".5f", **keys))
    return result


def report(say: Say = lambda text: None, names: Sequence[str] = tuple(MODELS)) -> Report:
    """Every model of ``names``; some minutes, and those of the RTL's build when there is none yet."""
    machine = Machine.load(TARGET)
    lines: list[list[str]] = []
    found: list[Record] = []
    for name in names:
        say(name)
        with tempfile.TemporaryDirectory() as directory:
            theirs = save(name, Path(directory))
            checkpoint = load(Path(directory))
            error, of = logit_error(checkpoint, theirs), rows(checkpoint, machine)
        lines.append([name, f"{MODELS[name][0]}ForCausalLM", f"{error:.1e}", *cells(of)])
        found += records(name, error, of)
    header = ["model", "transformers", "reference error", "functional against reference", f"RTL, {TARGET}", "timing error"]
    title = f"Models of every family: logits, decisions, bits and cycles; {PROMPT} + {NEW} tokens on the engines"
    return Report([Table(title, header, lines)], listed=found)
