"""Files of skip policies: who decides, per layer, module and phase.

    prefill: {attention: router, ffn: router}   # of every layer that is not named below; what is left out is the model's own:
    decode: {ffn: exit}                         # its routers decide, without routers everything executes
    layers:
      3: {attention: never}                     # of a layer in both phases
      4-7: {decode: {attention: never}}         # of several layers in one of them

YAML or JSON. Names are those of :data:`skipopu.policy.WHOLE_RUN`. What the KV policy forces executes whatever stands here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipopu.accept import MAPPING, Accepted, one_of, read_json, read_yaml, shown
from skipopu.errors import ProgramError
from skipopu.policy import ALWAYS, MODULES, PHASES, ROUTER, WHOLE_RUN, Module, Pair, Phase, Phases, Weighs

Source = str | Path | Mapping[str, Any]  # a file, or what one holds
Named = dict[tuple[Phase, Module], str]
_LAYERS = Accepted(
    "a mapping of layers, each a number or two as in 4-7", lambda v: isinstance(v, Mapping) and all(map(_span, v))
)


def _span(key: object) -> range | None:
    """The layers that a key names; None when it names none."""
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(key)) if isinstance(key, int | str) else None
    span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else None
    return span or None


def _of_modules(data: Mapping[str, Any], where: str, phases: tuple[Phase, ...], routers: bool) -> Named:
    """What is said of modules, in each of ``phases``."""
    named: Named = {}
    for key, name in data.items():
        one_of(list(MODULES)).check(key, f"{where}: a key", ProgramError)
        one_of(list(WHOLE_RUN)).check(name, f"{where}: {key}", ProgramError)
        if WHOLE_RUN[name].weighs is Weighs.ROUTER and not routers:
            raise ProgramError(f"{where}: {key} is {name!r}, which asks routers; the model has none")
        decoding = WHOLE_RUN[name].decoding
        if decoding is not None and Phase.PREFILL not in phases:
            raise ProgramError(f"{where}: {key} is {name!r}, which compares tokens of a prompt; accepted: {decoding.name!r}")
        named |= {(phase, MODULES[key]): decoding.name if decoding and phase is Phase.DECODE else name for phase in phases}
    return named


def _of_layer(data: object, where: str, routers: bool) -> Named:
    """What is said of modules, in both phases or under a phase's name."""
    checked: Mapping[str, Any] = MAPPING.check(data, where, ProgramError)
    plain = {key: value for key, value in checked.items() if key not in PHASES}
    for key in plain:
        one_of([*MODULES, *PHASES]).check(key, f"{where}: a key", ProgramError)
    named = _of_modules(plain, where, tuple(Phase), routers)
    for key, phase in PHASES.items():
        if key in checked:
            own = MAPPING.check(checked[key], f"{where}: {key}", ProgramError)
            named |= _of_modules(own, f"{where}: {key}", (phase,), routers)
    return named


def _read(path: Path) -> dict[str, Any]:
    return (read_json if path.suffix == ".json" else read_yaml)(path, ProgramError)


def policies_of(source: Source | None, layers: int, routers: bool) -> list[Phases]:
    """The policies of a model's ``layers``, without a ``source`` its own: ``routers`` says whether it has any.

    Raises:
        ProgramError: naming file, layer and field.
    """
    own = ROUTER if routers else ALWAYS
    named: list[Named] = [{(phase, module): own.name for phase in Phase for module in Module} for _ in range(layers)]
    if source is not None:
        where = "policies" if isinstance(source, Mapping) else str(source)
        data = source if isinstance(source, Mapping) else _read(Path(source))
        every = {key: value for key, value in data.items() if key != "layers"}
        for each in named:
            each |= _of_layer(every, where, routers)
        for key, value in _LAYERS.check(data.get("layers", {}), f"{where}: layers", ProgramError).items():
            span = _span(key)
            assert span is not None
            if span.stop > layers:
                raise ProgramError(
                    f"{where}: layer {shown(key)} is not among the model's {layers}; accepted: 0 to {layers - 1}"
                )
            own_of = _of_layer(value, f"{where}: layer {key}", routers)
            for layer in span:
                named[layer] |= own_of

    def pair(of: Named, phase: Phase) -> Pair:
        attention, ffn = (WHOLE_RUN[of[phase, module]] for module in Module)
        return attention, ffn

    return [(pair(of, Phase.PREFILL), pair(of, Phase.DECODE)) for of in named]
