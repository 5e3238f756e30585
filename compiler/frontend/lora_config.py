"""adapter_config.json of a PEFT adapter: what its keys may be, and what it leaves out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from skipopu.accept import BOOLEAN, MAPPING, NULL, TEXT, Accepted, list_of, number, one_of, read_json, shown, whole
from skipopu.errors import CheckpointError

CONFIG = "adapter_config.json"


def _of_modules(kind: Accepted) -> Accepted:
    return Accepted(
        f"a mapping of modules to {kind.text}",
        lambda value: value is None or (MAPPING.holds(value) and all(map(kind.holds, value.values()))),
    )


_RANK, _ALPHA, _FLAG, _NAMES = whole(1, 1 << 20), number(-1e9, 1e9), BOOLEAN | NULL, list_of(TEXT) | NULL
_LAYERS = whole(0, 1 << 20)
_OFF = Accepted("null, or nothing", lambda value: not value)
_ANY = Accepted("anything", lambda value: True)
KEYS: dict[str, Accepted] = {
    "peft_type": one_of(["LORA"]),
    "r": _RANK,
    "lora_alpha": _ALPHA,
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "rank_pattern": _of_modules(_RANK),
    "alpha_pattern": _of_modules(_ALPHA),
    "target_modules": TEXT | list_of(TEXT),
    "exclude_modules": TEXT | _NAMES,
    "layers_to_transform": _LAYERS | list_of(_LAYERS) | NULL,
    "layers_pattern": TEXT | _NAMES,
    "modules_to_save": _NAMES,
    "ensure_weight_tying": _FLAG,
    "base_model_name_or_path": TEXT | NULL,
    "bias": one_of(["none", "all", "lora_only"]),
    "lora_bias": _FLAG,
    "fan_in_fan_out": _FLAG,  # PEFT takes it as false of linear modules, and there are no others
    # All others change the weights that the adapter is added to.
    "init_lora_weights": one_of([True, False, None, "gaussian", "eva", "orthogonal", "mica"]),
}
KEYS |= dict.fromkeys(
    (
        *("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "megatron_config"),
        *("use_qalora", "use_bdlora", "arrow_config", "monteclora_config", "kasa_config"),
    ),
    _OFF,
)
KEYS |= dict.fromkeys(  # how it was trained
    (
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size"),
        "runtime_config",
    ),
    _ANY,
)


def config_of(directory: Path) -> dict[str, Any]:
    """An adapter's configuration, what it leaves out by PEFT's defaults."""
    path = directory / CONFIG
    if not path.exists() and (others := sorted(file.parent.name for file in directory.glob(f"*/{CONFIG}"))):
        raise CheckpointError(f"{path}: no such file; accepted: one adapter's directory, of {', '.join(others)} in it")
    data = read_json(path, CheckpointError)
    for key in dict.fromkeys(("peft_type", "target_modules", *data)):
        if key not in KEYS:
            _OFF.check(data[key], f"{path}: {key}, which is not known,", CheckpointError)
        else:
            KEYS[key].check(data.get(key), f"{path}: {key}", CheckpointError)
    given = {key: value for key, value in data.items() if value is not None}
    for key in ("layers_to_transform", "layers_pattern"):
        if key in given and isinstance(given["target_modules"], str):
            raise CheckpointError(f"{path}: {key} is beside target_modules of text; accepted: beside a list")
    if given.get("layers_pattern") and "layers_to_transform" not in given:
        raise CheckpointError(f"{path}: layers_pattern is without layers_to_transform; accepted: both, or neither")
    if given.get("lora_bias") and given.get("use_dora"):
        raise CheckpointError(f"{path}: lora_bias and use_dora are true; accepted: one of them")
    defaults = {"r": 8, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {}}
    for key in ("target_modules", "exclude_modules"):
        _compiled(given.get(key), f"{path}: {key}")
    for key in ("rank_pattern", "alpha_pattern", "layers_pattern"):
        patterns = given.get(key, ())
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            _compiled(pattern, f"{path}: {key}")
    return dict.fromkeys(KEYS) | defaults | given


def _compiled(pattern: object, what: str) -> None:
    """Raises CheckpointError for text that is no regular expression."""
    try:
        re.compile(pattern if isinstance(pattern, str) else "")
    except re.error as error:
        raise CheckpointError(f"{what} is {shown(pattern)} ({error}); accepted: a regular expression") from None
