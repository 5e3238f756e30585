"""Makes a fault small: one field after another goes back to a plain value while the fault stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sim.fuzz.case import Case, from_dict, program_of
from sim.fuzz.run import Line, attempt
from skipopu.errors import ConfigError, SkipopuError
from skipopu.machine.config import Machine
from skipopu.machine.files import describe
from skipopu.model_config import OWN

BASE = "mono"
PLAIN: dict[str, dict[str, Any]] = {
    "memory": {"stall": 0, "reorder": False, "seed": 1},
    "run": {"max_new": 1, "dial": 0.0, "check": True, "routing": "always", "after": 0, "predict_from": None, "again": None},
    "compile": {
        "kv": "reuse",
        "logits": False,
        "weights": "int4",
        "history": None,
        "prefetch": True,
        "level": 4,
        "policies": None,
    },
    "weights": {"seed": 0, "scale": 1.0, "routers": False},
    "model": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        OWN: {},
    },
}
Path = tuple[str, ...]


def shrink(
    line: Line, given: Case, say: Callable[[str], None] = lambda text: None, with_rtl: bool = True, most: int = 60
) -> dict[str, Any] | None:
    """A case (as :func:`sim.fuzz.case.to_dict`) of the same kind of fault as ``line``, a program of ``given``, with as few fields as
    ``most`` trials find that differ from machine ``mono`` and a plain program.

    A program that does nothing wrong alone has those in front of it that it takes, the nearest ones. None: the fault does not come again,
    with all of them.
    """
    case: dict[str, Any] = {
        "seed": line["seed"],
        "long": line["long"],
        "machine": copy.deepcopy(line["machine"]),
        "programs": [copy.deepcopy(program_of(line))],
    }
    trials = 0

    def faulty(candidate: dict[str, Any]) -> bool:
        nonlocal trials
        trials += 1
        found = attempt(from_dict(candidate), with_rtl=with_rtl)
        last = found[-1]
        return len(found) == len(candidate["programs"]) and (last["outcome"], last["stage"]) == (line["outcome"], line["stage"])

    before, own, count = _before(line, given), case["programs"], 0
    while not faulty(case):
        if count >= len(before):
            return None
        count = 2 * count or 1
        case["programs"] = [*before[-count:], *own]
    if count:
        say(f"{trials} trials: not without the {len(case['programs']) - 1} in front of it")
    # The program first: no build is needed for what the machine stays with.
    for changes in (_program_changes(case), _machine_changes(case)):
        size = len(changes)
        while size and trials < most:
            for first in range(0, len(changes), size):
                candidate = copy.deepcopy(case)
                for path, value in changes[first : first + size]:
                    _set(candidate, path, value)
                if candidate != case and trials < most and faulty(candidate):
                    case = candidate
                    say(f"{trials} trials: {', '.join('.'.join(path) for path, _ in changes[first : first + size])} plain")
            size //= 2
    return case


def _before(line: Line, given: Case) -> list[dict[str, Any]]:
    """The programs that ran in front of ``line``'s, with what their machines had of their own."""
    programs = copy.deepcopy(given.programs[: line["number"]])
    machines = [given.machine | program.get("machine", {}) for program in programs]
    return [
        {**program, "machine": {name: value for name, value in machine.items() if line["machine"].get(name) != value}}
        for program, machine in zip(programs, machines, strict=True)
    ]


def _program_changes(case: dict[str, Any]) -> list[tuple[Path, Any]]:
    prompt = case["programs"][-1]["run"]["prompt"]
    changes: list[tuple[Path, Any]] = [
        (("programs", part, field), value) for part, plain in PLAIN.items() for field, value in plain.items()
    ]
    if "masks" in case["programs"][-1]:
        changes.append((("programs", "masks"), None))
    if isinstance(prompt, list):
        changes += [(("programs", "run", "prompt"), prompt[:length]) for length in (len(prompt) // 2, 3, 2, 1)]
    return changes


def _machine_changes(case: dict[str, Any]) -> list[tuple[Path, Any]]:
    try:
        plain = Machine.from_dict(describe(BASE)).to_dict()
        plain["numerics"] = list(plain["numerics"])
    except (ConfigError, SkipopuError):
        return []
    changes: list[tuple[Path, Any]] = [(("machine", "memory"), plain.pop("memory"))]
    return changes + [(("machine", field), value) for field, value in plain.items() if field != "name"]


def _set(case: dict[str, Any], path: Path, value: Any) -> None:
    place: Any = case
    for part in path[:-1]:
        place = place[part][-1] if part == "programs" else place[part]
    place[path[-1]] = copy.deepcopy(value)
