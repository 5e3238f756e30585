"""Random cases: a machine description, models, how they are compiled and run; plain data, the same for the same seed.

About a third of the descriptions ask for something that no machine has, or for less than their models need: those are to be refused.
The others are drawn so that they run, many with not one element to spare.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from compiler.frontend.routers import usual_width, width_of_both
from compiler.frontend.shapes import TWO_LAYER
from sim.fuzz.choices import channels_of, decide, follow, know, weights_of
from sim.fuzz.draw import Draw
from sim.fuzz.family import vary
from sim.fuzz.spoil import spoil_machine, spoil_program
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.layout import buffer_stride, round_up
from skipopu.machine.accepted import LARGEST_BUFFER, MULTIPLIERS
from skipopu.machine.config import QUERY_LANES
from skipopu.machine.memory import DRAMS
from skipopu.model_config import OWN
from skipopu.numerics.activation import ACTIVATIONS, Activation

PROGRAMS = 4  # of an overlay, which is built once
# Of a run, as estimated; where an overlay has more programs than that they are shorter.
CYCLES, SHORT_CYCLES, LONG_CYCLES = (4_000, 40_000), (1_000, 10_000), (30_000, 120_000)
LONG_PROMPT, LONG_PORTS = 190, 16  # at most, of long runs
NARROW = 512  # bits of all ports together, of machines that many programs are simulated on
ODD = 0.22  # share of descriptions in which a value is out of place; of a program it is a quarter of that
BURSTS = (1, 2, 3, 4, 5, 7, 8, 11, 16, 16, 24, 32, 64)


@dataclass(frozen=True)
class Case:
    """A description and what runs on it.

    ``machine`` is the mapping of a description's file. Each of ``programs`` holds ``model`` (a config.json), ``weights`` (``seed``,
    ``scale``, whether there are ``routers``, or their kind), ``compile`` (arguments of :func:`compiler.pipeline.compile_checkpoint`), ``run``
    (``prompt``, ``max_new``, ``dial``, ``check``, ``routing``: a name, or skip ratios and a seed; how many of the prompt's last tokens were
    generated: ``after``; ``predict_from``; ``again``: see :func:`sim.fuzz.run.following`), some ``masks`` (arguments of
    :func:`sim.fuzz.choices.thresholds`) and ``memory``
    (how the simulated memory misbehaves, as :class:`sim.rtl.engine.Memory`); ``machine`` has other values for what needs no other
    build: the memory behind the ports, the trace ring. ``long``: see :data:`LONG_PROMPT` and its neighbours.
    """

    seed: int
    machine: dict[str, Any]
    programs: tuple[dict[str, Any], ...]
    long: bool = False


def case(seed: int, long: bool = False, count: int = PROGRAMS) -> Case:
    """The case of ``seed``, of ``count`` programs."""
    draw = Draw(seed)
    cycles = LONG_CYCLES if long else CYCLES if count <= PROGRAMS else SHORT_CYCLES
    port_bits = draw.of((64, 64, 64, 128, 128, 128, 256, 512))
    # A build takes as long as the ports are wide together.
    ports = draw.scaled(1, max(1, draw.of((128, 256, 256, 512, 512, 512, 1024, 4096)) // port_bits))
    if long:
        port_bits, ports = draw.of((64, 64, 128)), draw.between(1, LONG_PORTS)
    elif count > PROGRAMS:
        ports = min(ports, max(1, NARROW // port_bits))
    kv_lanes, weight_lanes = port_bits // 16, port_bits // 4
    machine: dict[str, Any] = {
        "name": f"fuzz-{seed}",
        "ports": ports,
        "port_bits": port_bits,
        "tokens": draw.scaled(1, 8) if draw.chance(0.9) else draw.between(9, 20),
        "vector_lanes": 1 << draw.between(1, kv_lanes.bit_length() - 1),
        "multiplier": draw.of(MULTIPLIERS),
        "trace_records": _ring(draw),
        "clock_mhz": draw.of((25.0, 100, 187.5, 225, 300.0)),
        "numerics": ["exact18"],
        "instructions": draw.of((51, 54, 57, 64, 64, 65, 77, 128, 256)),
    } | _memory_path(draw, 4096 // (port_bits // 8))
    programs = [_program(draw, machine, {}, cycles, long)]
    for _ in range(1, count):
        other = {"memory": memory_behind(draw), "trace_records": _ring(draw)} if draw.chance(0.7) else {}
        programs.append(_program(draw, machine | other, other, cycles, long))
    other_draw = Draw(seed + (1 << 32))
    machine |= {"adjust": other_draw.chance(0.5), "window": other_draw.chance(0.5)}
    for program in programs:
        if other_draw.chance(0.5):
            vary(other_draw, program["model"], machine["adjust"], machine["window"])
    for program in programs if machine["adjust"] else ():
        if program["weights"]["routers"] and other_draw.chance(0.4):
            program["weights"]["routers"] = TWO_LAYER
    cap_draw = Draw(seed + (2 << 32))
    caps = cap_draw.chance(0.3)
    for program in programs if caps else ():
        if cap_draw.chance(0.6):
            program["model"][OWN] = program["model"].get(OWN, {}) | {"attention_cap": cap_draw.of((0.5, 5.0, 50.0, 1000.0))}
    policy_draw = Draw(seed + (3 << 32))
    for program in programs:
        decide(policy_draw, program, machine["tokens"])
    models = [p["model"] for p in programs]
    groups = [p["compile"]["group"] for p in programs]
    widths = [(m["num_attention_heads"] * m["head_dim"], 2 * m["num_key_value_heads"] * m["head_dim"]) for m in models]
    hidden = [
        width_of_both(usual_width(m["hidden_size"])) if p["weights"]["routers"] == TWO_LAYER else 0
        for m, p in zip(models, programs, strict=True)
    ]
    aligned = [
        round_up(m["hidden_size"], g) + round_up(max(m["intermediate_size"], q, m["hidden_size"] if OWN in m else 0, r), g)
        for m, g, (q, _), r in zip(models, groups, widths, hidden, strict=True)
    ]
    padded = [m["num_attention_heads"] * round_up(m["head_dim"], kv_lanes) for m in models]
    queries = [m["num_attention_heads"] // m["num_key_value_heads"] for m in models]
    contexts = [p["compile"]["context"] for p in programs]
    blocks = [-(-machine["tokens"] * q // QUERY_LANES) for q in queries]
    scores = [
        QUERY_LANES * b * m["num_key_value_heads"] * -(-c // ports) for b, m, c in zip(blocks, models, contexts, strict=True)
    ]
    buffered = [
        buffer_stride(m["hidden_size"]) * (2 if machine["adjust"] and OWN in m else 1)
        + max(
            buffer_stride(q) + buffer_stride(k),
            buffer_stride(m["intermediate_size"]),
            buffer_stride(r) + buffer_stride(4),
            buffer_stride(m["vocab_size"]) if p["compile"]["logits"] else 0,
        )
        for p, m, (q, k), r in zip(programs, models, widths, hidden, strict=True)
    ]
    machine |= {
        "buffer": min(LARGEST_BUFFER, draw.spare(machine["tokens"] * max(buffered), 32)),
        "activation": draw.spare(max(aligned), weight_lanes),
        "query": draw.spare(max(padded), kv_lanes),
        "map_entries": draw.spare(max(m["num_hidden_layers"] * c for m, c in zip(models, contexts, strict=True)), 1),
        "score_entries": draw.spare(max(scores), QUERY_LANES),
        "kv_heads": min(64, draw.spare(max(m["num_key_value_heads"] for m in models), 1)),
        "query_group": min(16, draw.spare(max(queries), 1)),
        "memory_bytes": draw.of((0, 0, 0, 1 << 24, 1 << 22, 1 << 19)),
    }
    if draw.chance(ODD):
        spoil_machine(draw, machine)
    for program in programs:
        if draw.chance(ODD / PROGRAMS):
            spoil_program(draw, program)
    machine["soft_cap"] = caps
    weights_of(Draw(seed + (4 << 32)), machine, programs)
    channels_of(Draw(seed + (5 << 32)), machine, programs)
    known_draw = Draw(seed + (6 << 32))
    for program in programs:
        know(known_draw, program["run"])
    again_draw = Draw(seed + (7 << 32))
    for program in programs:
        follow(again_draw, program["run"])
    return Case(seed, machine, tuple(programs), long)


def _memory_path(draw: Draw, longest: int) -> dict[str, Any]:
    """FIFOs, bursts, the history buffer and the memory behind them; ``longest``: beats of 4096 bytes."""
    burst = min(longest, draw.of(BURSTS))
    weight_fifo, kv_fifo = (2 * burst + draw.scaled(1, 6 * burst + 8) - 1 for _ in range(2))
    return {
        "burst": burst,
        "write_burst": 0 if draw.chance(0.4) else min(longest, draw.of(BURSTS)),
        "weight_fifo": weight_fifo,
        "kv_fifo": kv_fifo,
        "weights_in_flight": 0 if draw.chance(0.5) else draw.between(2 * burst, weight_fifo),
        "history": 0 if draw.chance(0.4) else draw.scaled(16, 800),
        "memory": memory_behind(draw),
    }


def _ring(draw: Draw) -> int:
    return 1 << draw.of((2, 3, 5, 8, 12, 12, 12, 12))


def memory_behind(draw: Draw) -> str | dict[str, Any]:
    """A description's ``memory``."""
    if draw.chance(0.2):
        device = draw.of(list(DRAMS))
        return device if draw.chance(0.5) else {"device": device, "path": draw.between(0, 40)}
    interval = draw.between(100, 2500) if draw.chance(0.4) else 0
    return {
        "latency": draw.scaled(1, 150),
        "beats_per_256_cycles": 256 if draw.chance(0.5) else draw.between(40, 255),
        "refresh_interval": interval,
        "refresh": draw.between(1, max(1, interval // 8)) if interval else 0,
        "refresh_together": draw.chance(0.5),
        "turnaround": draw.of((0, 0, 1, 3, 18)),
        "issue": draw.of((1, 1, 1, 2, 5, 12)),
        "outstanding": draw.between(1, 16) if draw.chance(0.5) else 16,
        "channel": draw.of((40, 40, 40, 40, 40, 40, 16, 18)),
    }


def _program(draw: Draw, machine: dict[str, Any], other: dict[str, Any], cycles: tuple[int, int], long: bool) -> dict[str, Any]:
    """A model that the machine's lanes allow, how it is compiled and run."""
    lanes, weight_lanes = machine["vector_lanes"], machine["port_bits"] // 4
    head_dim = max(8, round_up(draw.scaled(8, 48 if draw.chance(0.85) else 256), max(lanes, 2)))
    kv_heads, group = draw.scaled(1, 4), draw.scaled(1, 4)
    if draw.chance(0.06):
        kv_heads, group = draw.of(((1, 16), (8, 1), (3, 5), (16, 1), (2, 7)))
    model: dict[str, Any] = {
        "model_type": draw.of(("llama", "olmo", "llama")),
        "hidden_size": draw.scaled(3, 200),
        "intermediate_size": draw.scaled(1, 300),
        "num_hidden_layers": draw.scaled(1, 5),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": draw.scaled(1, 250),
        "max_position_embeddings": 256,
        "rms_norm_eps": draw.of((1e-5, 1e-6, 1e-2)),
        "rope_theta": draw.of((10000.0, 500000.0, 100.0)),
        "tie_word_embeddings": draw.chance(0.3),
        "hidden_act": draw.of([name for name, (code, _) in ACTIVATIONS.items() if code is not Activation.GELU_TANH]),
        "weight_group": 128,
    }
    prompt = draw.scaled(1, 24) if draw.chance(0.85) else draw.scaled(25, 200)
    if long:
        prompt, model["num_hidden_layers"] = draw.scaled(24, LONG_PROMPT), draw.between(1, 2)
    new = draw.scaled(1, 8) - 1 if draw.chance(0.9) else draw.between(8, 40)
    compiled: dict[str, Any] = {
        "kv": draw.of(("reuse", "reuse", "dense")),
        "logits": draw.chance(0.15),
        "group": weight_lanes * draw.scaled(1, 512 // weight_lanes),
        "weights": draw.of(("int4", "int4", "int8")),
        "history": None,
        "prefetch": draw.chance(0.8),
        "level": 4 if draw.chance(0.8) else draw.between(0, 3),
    }
    budget = draw.scaled(*cycles)
    while (estimated := _estimate(machine, model, compiled, prompt, new)) > budget:
        sizes = {k: model[k] for k in ("hidden_size", "intermediate_size", "vocab_size") if model[k] > 16}
        if model["num_hidden_layers"] > 2:
            model["num_hidden_layers"] -= 1
        elif prompt + new > 12 and estimated > 1.5 * budget and not long:
            prompt, new = max(1, prompt * 2 // 3), new * 2 // 3
        elif sizes:
            largest = max(sizes, key=lambda key: sizes[key])
            model[largest] = sizes[largest] * 2 // 3
        elif compiled["group"] > weight_lanes:
            compiled["group"] = round_up(compiled["group"] // 2, weight_lanes)
        elif prompt > 3 or new > 1:
            prompt, new = max(1, prompt // 2), new // 2
        else:
            break
    vocabulary = model["vocab_size"]
    if draw.chance(0.3):
        model["eos_token_id"] = [draw.between(0, vocabulary - 1) for _ in range(draw.between(1, 4))]
    compiled["context"] = prompt + new + (draw.between(0, 9) if draw.chance(0.4) else 0)
    if draw.chance(0.15):
        compiled["history"] = draw.between(0, max(0, machine["history"] // 16 * machine["ports"]))
    routing: Any = draw.of(("program", "program", "always"))
    if draw.chance(0.4):
        routing = {"attn": draw.of((0.0, 0.25, 0.6, 1.0)), "ffn": draw.of((0.0, 0.25, 0.6, 1.0)), "seed": draw.between(0, 99)}
    run: dict[str, Any] = {
        "prompt": [draw.between(0, vocabulary - 1) for _ in range(prompt)],
        "max_new": new,
        "dial": draw.of((0.0, 0.0, 0.0, 0.5, -0.5, 100.0, -100.0)),
        "check": draw.chance(0.5),
        "routing": routing,
    }
    misbehaves = draw.chance(0.3)
    memory = {
        "stall": draw.scaled(1, 200) if misbehaves else 0,
        "reorder": misbehaves and draw.chance(0.5),
        "seed": draw.between(1, 1000),
    }
    weights = {"seed": draw.between(0, 1 << 30), "scale": draw.of((1.0, 1.0, 1.0, 0.05, 20.0)), "routers": draw.chance(0.7)}
    return {"machine": other, "model": model, "weights": weights, "compile": compiled, "run": run, "memory": memory}


def _estimate(machine: dict[str, Any], model: dict[str, Any], compiled: dict[str, Any], prompt: int, new: int) -> float:
    """About the cycles of a run, within a factor of three."""
    ports, bits, lanes, memory = (machine[k] for k in ("ports", "port_bits", "vector_lanes", "memory"))
    timing = {"latency": 40, "beats_per_256_cycles": 256, "outstanding": 16, "issue": 1}
    timing |= memory if isinstance(memory, dict) else {}
    burst, latency = machine["burst"], timing["latency"] + 12
    in_flight = min(timing["outstanding"] * burst, machine["weight_fifo"], machine["weights_in_flight"] or 1 << 20)
    rate = min(timing["beats_per_256_cycles"] / 256, in_flight / (latency + burst), burst / timing["issue"])
    nibbles = 2 if compiled["weights"] == "int8" else 1
    hidden, inner, layers = model["hidden_size"], model["intermediate_size"], model["num_hidden_layers"]
    width, group = model["num_attention_heads"] * model["head_dim"], compiled["group"]
    keys = model["num_key_value_heads"] * model["head_dim"]
    rows = [(width + 2 * keys + 2 * inner, hidden), (hidden, width), (hidden, inner)]
    beats = sum(_padded(r, ports) * round_up(n, group) for r, n in rows) * nibbles * 4 / (ports * bits)
    head = _padded(model["vocab_size"], ports) * round_up(hidden, group) * nibbles * 4 / (ports * bits)
    vectors = (3 * hidden + 2 * width + inner) / lanes
    chunks, tokens = math.ceil(prompt / machine["tokens"]) + new, prompt + new
    entry = 2 * model["num_key_value_heads"] * (math.ceil(16 * model["head_dim"] / bits) + 1)
    attended = tokens / 2 / ports * entry / rate * math.ceil(model["num_attention_heads"] / model["num_key_value_heads"] / 4)
    layer = chunks * (beats / rate + 8 * latency + 300) + tokens * (beats / 2 + vectors) + chunks * attended
    return layers * layer + (chunks if compiled["logits"] else new + 1) * (head / rate + 100) + chunks * 200


def _padded(rows: int, ports: int) -> int:
    return round_up(rows, BLOCK_ROWS * ports)


def program_of(line: dict[str, Any]) -> dict[str, Any]:
    """A program, of a line of the log that says more."""
    parts = ("model", "weights", "compile", "run", "memory", *(("masks",) if "masks" in line else ()))
    return {part: line[part] for part in parts}


def to_dict(given: Case) -> dict[str, Any]:
    return dataclasses.asdict(given)


def from_dict(data: dict[str, Any]) -> Case:
    """The inverse of :func:`to_dict`."""
    return Case(int(data["seed"]), data["machine"], tuple(data["programs"]), data.get("long", False))
