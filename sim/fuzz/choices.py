"""What is drawn beside a case's own fields: weight formats and groups, skip policies, masks of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.fuzz.draw import Draw
from skipopu.machine.accepted import SHORTEST_GROUP
from skipopu.masks import channels
from skipopu.model_config import ModelConfig
from skipopu.numerics import formats, mask
from skipopu.policy import MODULES, NORM, PHASES, WHOLE_RUN, Weighs


def weights_of(draw: Draw, machine: dict[str, Any], programs: list[dict[str, Any]]) -> None:
    """The machine's weight formats and whether it takes groups shorter than a beat; half of the programs have any of what it has, a few
    another format."""
    lanes = machine["port_bits"] // 4 if machine.get("port_bits") in (64, 128, 256, 512) else 0
    machine["short_groups"] = draw.chance(0.4)
    sizes = [size for size in (lanes // 4, lanes // 2) if size >= SHORTEST_GROUP]
    for program in programs if machine["short_groups"] and sizes else ():
        group = program["compile"]["group"]
        if draw.chance(0.6) and group in range(lanes, 513, lanes):  # not out of place
            program["compile"]["group"] = draw.of(sizes)
    others = [name for name in formats.BY_NAME if name != formats.INT4.name and draw.chance(0.5)]
    machine["formats"] = [formats.INT4.name, *others]
    for program in programs:
        compiled = program["compile"]
        known = compiled["weights"] in formats.BY_NAME  # not out of place
        if known and (draw.chance(0.5) or (compiled["weights"] not in machine["formats"] and draw.chance(0.9))):
            compiled["weights"] = draw.of(machine["formats"])


def decide(draw: Draw, program: dict[str, Any], tokens: Any) -> None:
    """Other policies than routers, for a run or in a file, in about half of the programs; a few that the model or a machine of so many
    ``tokens`` at once cannot have."""
    names = [
        policy.name
        for policy in WHOLE_RUN.values()
        if draw.chance(0.05)
        or ((policy.weighs is not Weighs.ROUTER or program["weights"]["routers"]) and policy.runs_on(tokens))
    ]
    if draw.chance(0.3) and isinstance(program["run"]["routing"], str):
        program["run"]["routing"] = draw.of(names)
    if draw.chance(0.3):
        last = program["model"]["num_hidden_layers"] - 1
        alone = [name for name in names if WHOLE_RUN[name].decoding is None or draw.chance(0.05)]  # of decoding too

        def modules(phase: str) -> dict[str, str]:
            return {name: draw.of(alone if phase == "decode" else names) for name in MODULES if draw.chance(0.7)}

        layers = {str(draw.between(0, last)): {phase: modules(phase)} for phase in PHASES if draw.chance(0.5)}
        program["compile"]["policies"] = {**modules(""), "decode": modules("decode"), "layers": layers}
    if program["run"]["routing"] == NORM.name and not program["weights"]["routers"] and draw.chance(0.9):
        program["compile"].setdefault("policies", {})["ffn"] = NORM.name  # only then is it known when a layer is decided


def know(draw: Draw, run: dict[str, Any]) -> None:
    """How many of the prompt's tokens are generated ones that are known, and from where on tokens are predicted."""
    most = max(0, len(run["prompt"]) - 1)
    if draw.chance(0.4):
        run["after"] = draw.between(0, most)
    if draw.chance(0.4):
        run["predict_from"] = draw.between(0, most)


def follow(draw: Draw, run: dict[str, Any]) -> None:
    """A run behind it on the same machine, which begins where a part of it, often all, is kept."""
    if run["prompt"] and draw.chance(0.4):
        most = len(run["prompt"]) + run["max_new"]
        run["again"] = {
            "kept": most if most < 1 or draw.chance(0.3) else draw.between(1, most),
            "prompt": [draw.of(run["prompt"]) for _ in range(draw.scaled(1, 8))],
            "max_new": draw.between(0, 4),
            "generated": draw.chance(0.5),
            "predict": draw.chance(0.4),
        }


def channels_of(draw: Draw, machine: dict[str, Any], programs: list[dict[str, Any]]) -> None:
    """Whether the array is stationary and leaves out channels, and the programs' thresholds; a few ask for masks that it does not have."""
    machine["stationary"] = draw.chance(0.5)
    machine["masks"] = draw.chance(0.6 if machine["stationary"] else 0.03)
    for program in programs:
        if draw.chance(0.7 if machine["masks"] else 0.01):
            seed, spread, fixed = draw.between(0, 999), draw.of((64, 256, 1024)), draw.of((0.0, 0.0, 0.2, 1.0))
            program["masks"] = {"seed": seed, "spread": spread, "fixed": fixed}
            program["compile"]["mask_prompt"] = draw.chance(0.5)


def thresholds(config: ModelConfig, seed: int, spread: int, fixed: float) -> dict[str, NDArray[np.uint16]]:
    """Of each input (layers, channels): within ``spread`` around keys of numbers near 1, a share of ``fixed`` always or never reached."""
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[np.uint16]] = {}
    for name, count in channels(config).items():
        shape = config.num_layers, count
        near = 2 * mask.ONE + rng.integers(-spread, spread, shape)
        either = rng.choice([0, mask.NEVER], shape)
        found[name] = np.where(rng.random(shape) < fixed, either, near).astype(np.uint16)
    return found
