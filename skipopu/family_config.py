"""The fields of a model from its family's declaration and its ``config.json``."""

from __future__ import annotations

from typing import Any

from skipopu.accept import MAPPING, one_of, shown
from skipopu.errors import CheckpointError
from skipopu.families import (
    FAMILIES,
    FULL,
    GROUP,
    KEYS,
    OPTIONAL,
    PRODUCTS,
    QUANTISED,
    REQUIRED,
    SLIDING,
    Family,
    Value,
    rotated_layers,
)
from skipopu.rope import Found, Rope, checked, table


def family_of(data: dict[str, Any], where: str) -> Family:
    """The family that ``data`` names, after every key has been looked at.

    Raises:
        CheckpointError: a key is missing, of the wrong type, out of range, or asks for something unsupported.
    """
    MAPPING.check(data, f"{where}: the content", CheckpointError)
    if "model_type" in data:  # of another family's keys nothing is known
        KEYS["model_type"].check(data["model_type"], f"{where}: model_type", CheckpointError)
    if missing := [key for key in REQUIRED if key not in data]:
        raise CheckpointError(f"{where}: {missing[0]} is missing; accepted: {KEYS[missing[0]].text}")
    for key, kind in KEYS.items():
        if key in data:
            kind.check(data[key], f"{where}: {key}", CheckpointError)
    if (quantised := data.get("quantization_config")) is not None:
        what = f"{where}: quantization_config.quant_method"
        one_of(QUANTISED).check(quantised.get("quant_method"), what, CheckpointError)
    family = FAMILIES[data["model_type"]]
    for key, (read, off) in OPTIONAL.items():
        if key in data:
            accepted = read if key in family.reads else off
            accepted.check(data[key], f"{where}: {key}", CheckpointError)
    return family


def fields(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of ModelConfig for a ``config.json``'s ``data``.

    Raises:
        CheckpointError: as of :func:`family_of`, or keys that contradict each other.
    """
    family = family_of(data, where)
    value = family.value(data)
    hidden, heads, vocabulary = data["hidden_size"], data["num_attention_heads"], data["vocab_size"]
    kv_heads = value("num_key_value_heads") or heads
    head_dim = value("head_dim") or hidden // heads
    if heads % kv_heads:
        many = f"num_key_value_heads{'' if 'num_key_value_heads' in data else ', by default,'} {kv_heads}"
        raise CheckpointError(f"{where}: num_attention_heads {heads} is no multiple of {many}")
    if head_dim % 2 or not head_dim:
        raise CheckpointError(f"{where}: head_dim is {head_dim}; accepted: an even number, rotary embedding needs pairs")
    if value("byte_level") and vocabulary < 256:
        raise CheckpointError(f"{where}: byte_level is true; accepted: false for a vocabulary of {vocabulary}, below 256")
    given = value("eos_token_id")
    eos = end_tokens(given, vocabulary, f"{where}: eos_token_id")
    scale = value("attention_multiplier") if "attention_multiplier" in family.reads else None
    if "query_pre_attn_scalar" in family.reads:
        scale = value("query_pre_attn_scalar") ** -0.5
    embedding, head, _ = family.multipliers(value)
    layers = _layers(family, value, where)
    biases = family.own_biases(value)
    gated = family.fields.get("gated", True)
    if family.norm_biases:  # they become biases of the products behind the norms, where these are not gated
        biases |= {"q", "k", "v"} | (set() if gated else {"up"})
    result: dict[str, Any] = {
        **family.fields,
        "hidden_size": hidden,
        "intermediate_size": data["intermediate_size"],
        "num_layers": data["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "rms_norm_eps": float(value(family.epsilon)) if family.gains else 1e-5,
        "tie_word_embeddings": value("tie_word_embeddings") and not family.centred and embedding == head == 1,
        "eos_token_ids": eos,
        "hidden_act": _activation(data, family, value, where),
        "weight_group": data.get("weight_group")
        or quantised_group(data.get("quantization_config") or {})
        or value("weight_group"),
        "byte_level": bool(value("byte_level")),
        "attention_scale": None if scale is None or scale == head_dim**-0.5 else float(scale),
        "biases": tuple(name for name in PRODUCTS if name in biases),
        "ffn_norm_bias": family.norm_biases and gated,
        "final_bias": family.norm_biases,
        "parallel": bool(value("use_parallel_residual")),
        "attention_cap": float(value("attn_logit_softcapping") or 0),
        "logit_cap": float(value("final_logit_softcapping") or 0),
        **_tables(data, family, layers, head_dim, where),
    }
    window, most = value("sliding_window"), result["max_positions"]
    windows = tuple(window if kind == SLIDING and window < most else 0 for kind in layers)
    return result | {"windows": windows if any(windows) else ()}


def _activation(data: dict[str, Any], family: Family, value: Value, where: str) -> str:
    """Of two keys that a family reads, neither may contradict the other."""
    keys = ("hidden_activation", "hidden_act") if family.activations else ("hidden_activation",)
    given: dict[str, str] = {}  # activation: key
    for key in keys:
        if (name := value(key)) is not None:
            given[family.activations.get(str(name), str(name))] = key if key in data else f"{key}, by default,"
    if len(given) > 1:
        (one, first), (other, second) = given.items()
        raise CheckpointError(f"{where}: {first} is {one!r} and {second} is {other!r}; accepted: one activation")
    return next(iter(given)) if given else value("hidden_act")


def end_tokens(given: Any, vocabulary: int, what: str) -> tuple[int, ...]:
    """Ids that end generation, each once; raises CheckpointError, naming ``what``, for one beyond the vocabulary."""
    eos = tuple(dict.fromkeys(given if isinstance(given, list | tuple) else () if given is None else (given,)))
    if beyond := [token for token in eos if token >= vocabulary]:
        raise CheckpointError(f"{what} is {beyond[0]}; accepted: ids below vocab_size, {vocabulary}")
    return eos


def _layers(family: Family, value: Value, where: str) -> list[str]:
    """The attention of each layer, full or in a window."""
    given, count = value("layer_types"), value("num_hidden_layers")
    layers = family.layers(value) if given is None else list(given)
    if len(layers) != count:
        key = "no_rope_layers" if given is None else "layer_types"
        raise CheckpointError(f"{where}: {key} has {len(layers)} entries; accepted: {count}, one for each layer")
    if "layer_types" not in family.reads and layers != family.layers(value):
        raise CheckpointError(f"{where}: layer_types is {shown(given)} beside sliding_window; accepted: one of them")
    if "no_rope_layers" in family.reads and len(rotated := rotated_layers(value)) != count:
        raise CheckpointError(f"{where}: no_rope_layers has {len(rotated)} entries; accepted: {count}, one for each layer")
    windowless = value("sliding_window") is None or ("use_sliding_window" in family.reads and not value("use_sliding_window"))
    if SLIDING in layers and windowless:
        raise CheckpointError(
            f"{where}: layer_types asks for {SLIDING} and sliding_window for none; accepted: a window for them"
        )
    return layers


def _tables(data: dict[str, Any], family: Family, layers: list[str], head_dim: int, where: str) -> dict[str, Any]:
    """The fields about positions: rope_theta, rope, rope_of_layer and max_positions."""
    value = family.value(data)
    parameters, scaling = data.get("rope_parameters") or {}, data.get("rope_scaling") or {}
    nested = FULL in parameters or SLIDING in parameters
    if nested and (not family.two_tables or set(parameters) - {FULL, SLIDING}):
        raise CheckpointError(f"{where}: rope_parameters is {shown(parameters)}; accepted: the keys of one table")
    if parameters and family.two_tables and not nested:
        raise CheckpointError(f"{where}: rope_parameters is {shown(parameters)}; accepted: a table under {FULL} and {SLIDING}")
    if scaling and nested:
        raise CheckpointError(f"{where}: rope_scaling stands beside rope_parameters; accepted: one of them")
    if family.two_tables and scaling.get("rope_type") is None and scaling.get("type", "default") != "default":
        raise CheckpointError(f"{where}: rope_scaling.type is {shown(scaling['type'])}; accepted: the same as rope_type")

    def found(kind: str) -> Found:
        own, name = parameters, "rope_parameters"
        if nested:
            own, name = parameters.get(kind) or {}, f"rope_parameters.{kind}"
            MAPPING.check(own, f"{where}: {name}", CheckpointError)
        local = family.two_tables and kind == SLIDING
        return _table(data, family, own, name, {} if local else scaling, local, head_dim, where)

    kinds = sorted(set(layers)) if family.two_tables else [FULL]
    tables = {kind: found(kind) for kind in kinds}
    ropes = [entry.rope for entry in tables.values()]
    of_layer = [kinds.index(kind) if len(kinds) > 1 else 0 for kind in layers]
    if "no_rope_layers" in family.reads:
        of_layer = [table if turns else len(ropes) for table, turns in zip(of_layer, rotated_layers(value), strict=True)]
        ropes.append(Rope(()))
    used = sorted(set(of_layer))
    first = next(iter(tables.values()))
    plain = len(used) == 1 and ropes[used[0]] is first.rope and first.plain
    return {
        "rope_theta": first.theta,
        "rope": () if plain else tuple(ropes[number] for number in used),
        "rope_of_layer": tuple(used.index(number) for number in of_layer) if len(used) > 1 else (),
        "max_positions": min(entry.positions for entry in tables.values()),
    }


def _table(
    data: dict[str, Any],
    family: Family,
    parameters: dict[str, Any],
    name: str,
    scaling: dict[str, Any],
    local: bool,
    head_dim: int,
    where: str,
) -> Found:
    """One rotary table from its own keys, those of rope_scaling, and those at the top level."""
    value = family.value(data)

    def renamed(table: dict[str, Any]) -> dict[str, Any]:
        return {k: family.types.get(v, v) if k in ("rope_type", "type") and isinstance(v, str) else v for k, v in table.items()}

    given = checked(renamed(parameters), f"{where}: {name}")
    replaced: dict[str, Any] = {}
    if scaling:
        other = checked(renamed(scaling), f"{where}: rope_scaling")
        if parameters and other | {"rope_theta": None} != given | {"rope_theta": None}:
            raise CheckpointError(
                f"{where}: rope_scaling is {shown(scaling)} and {name} is {shown(parameters)}; accepted: one of them, or the same"
            )
        replaced = {f"{name}.rope_theta": given.get("rope_theta")}  # rope_scaling alone is read
        given, name = other, "rope_scaling"
    if family.two_tables and given.get("truncate") is False:  # it is looked for beside both tables
        said = (scaling or parameters)["truncate"]
        raise CheckpointError(f"{where}: {name}.truncate is {said}; accepted: True for {data['model_type']}")

    def settled(key: str, own: str, default: Any, unread: dict[str, Any]) -> Any:
        """The value of ``key``, of the table or of ``own`` at the top level; none may differ from it, read or not."""
        said = {f"{name}.{key}": given.get(key), own: data.get(own)}
        first, result = next(((k, v) for k, v in said.items() if v is not None), (f"{own}, by default,", default))
        for other, found in (said | unread).items():
            if found not in (None, result):
                raise CheckpointError(f"{where}: {first} is {result:g} and {other} is {found:g}; accepted: one value")
        return result

    def common(key: str) -> dict[str, Any]:
        """The common name, where a family has one of its own: not read, and not to say something else."""
        return {} if family.two_tables else {key: data.get(key)}

    theta, share = "rope_local_base_freq" if local else family.theta, family.share or "partial_rotary_factor"
    base = 10000.0 if local else family.defaults.get(family.theta, 10000.0)
    given["rope_theta"] = settled("rope_theta", theta, base, common("rope_theta") | replaced)
    part = settled("partial_rotary_factor", share, family.defaults.get(family.share, 1), common("partial_rotary_factor"))
    if not family.share and part != 1:
        raise CheckpointError(f"{where}: partial_rotary_factor is {part:g}; accepted: 1 for {data['model_type']}")
    given["partial_rotary_factor"] = part
    if given["rope_type"] in ("yarn", "longrope", "llama3"):
        key = "original_max_position_embeddings"
        silent = {"max_position_embeddings": value("max_position_embeddings")} if family.two_tables and key not in given else {}
        silent |= {f"{key}, by default,": family.defaults.get(key)} if key not in data else {}
        given[key] = settled(key, key, value("max_position_embeddings"), silent)
    return table(given, head_dim, value("max_position_embeddings"), f"{where}: {name}")


def quantised_group(config: dict[str, Any]) -> int | None:
    """Columns that share a scale by a ``quantization_config``; None where it does not say one number."""
    groups = config.get("config_groups")
    given = [config.get("group_size", config.get("q_group_size"))]
    if isinstance(groups, dict):
        weights = [scheme.get("weights") for scheme in groups.values() if MAPPING.holds(scheme)]
        given = [part.get("group_size") for part in weights if MAPPING.holds(part)]
    sizes = {size for size in given if GROUP.holds(size)}
    return sizes.pop() if len(sizes) == 1 else None
