"""The command: checks the decoder against the plain loop, measures, writes one file of records."""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim.baselines.gpu import reference
from sim.baselines.gpu.decoder import Decoder, backend
from sim.baselines.gpu.masks import drawn
from sim.baselines.gpu.measure import Measurement, check, copy_bandwidth, measure
from sim.baselines.gpu.state import new_state
from sim.baselines.gpu.weights import random_weights
from sim.routing import independent, load_trace
from skipopu.arguments import ratio
from skipopu.errors import ProgramError, SkipopuError
from skipopu.model_config import ModelConfig
from skipopu.report import Record, write_json
from skipopu.shapes import SHAPES, shape

SMALL = ModelConfig(256, 512, 4, 4, 2, 64, 512, 256)  # for machines without a GPU
CHECKED = 12  # tokens that are compared with the plain loop
MODES = {"dense": None, "reuse": "reuse", "dense-kv": "dense"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m sim.baselines.gpu", description=__doc__)
    p.add_argument("--shape", default="small", help=f"small (for a CPU; default), {', '.join(SHAPES)}; random weights")
    p.add_argument("--precision", nargs="+", default=["fp16", "int4"], choices=["fp16", "bf16", "int4"])
    p.add_argument(
        "--mode",
        nargs="+",
        default=list(MODES),
        choices=list(MODES),
        help="dense: nothing skipped; reuse, dense-kv: skipping, with that policy for keys and values; default all",
    )
    p.add_argument("--context", default=None, metavar="P+G", help="prompt and new tokens; default 128+1024, small 16+32")
    p.add_argument(
        "--skip", type=float, default=0.25, help="share of modules skipped at random, as in `skipopu compare`; default 0.25"
    )
    p.add_argument(
        "--mask",
        type=ratio,
        metavar="R",
        help="share of input channels that decoded tokens leave out, drawn; default: no masks",
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--trace", type=Path, help="a recorded trace instead, from `skipopu run --save-trace`")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--device", help="cuda, cuda:N or cpu; default cuda, and cpu without a GPU for --shape small")
    p.add_argument("--backend", default="auto", choices=["auto", "triton", "torch"])
    p.add_argument(
        "-o", "--output", type=Path, help="JSON file; default DEVICE-SHAPE.json, with --mask DEVICE-SHAPE-masked.json"
    )
    return p


def software(device: torch.device) -> dict[str, str]:
    """What a record needs to be understood: device, driver, versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        versions["triton"] = metadata.version("triton")
    except metadata.PackageNotFoundError:
        versions["triton"] = "none"
    if device.type == "cuda":
        versions["gpu"] = torch.cuda.get_device_name(device)
        versions["cuda"] = str(torch.version.cuda)
    else:
        versions["gpu"] = f"no GPU, {platform.machine()} CPU, {torch.get_num_threads()} threads"
    return versions


def records(m: Measurement, copied: float, precision: str, mode: str, skip: float, keys: dict[str, Any]) -> list[Record]:
    """The figures of one measurement."""
    rate, first, share = m.tokens_per_s, m.first_token_s, m.bytes_per_s / copied
    policy = MODES[mode]
    of = keys | {"precision": precision, **({"kv": policy} if policy else {})}
    skipped = skip if policy else 0.0

    def record(name: str, value: float, unit: str, source: str, kind: str = "derived", phase: str = "decode") -> Record:
        return Record(name, value, unit, kind, source, phase=phase, skip=skipped, **of)

    def spread(low: float, high: float) -> str:
        return f"device events, median of the repeats, {low:.4g} to {high:.4g}"

    result = [
        record("decode_tokens_per_s", rate.median, "token/s", spread(rate.least, rate.largest), "measured"),
        record("time_to_first_token_s", first.median, "s", spread(first.least, first.largest), "measured", "prefill"),
        record("bytes_per_token", m.bytes_per_token, "byte", "weights, scales, keys and values that executed modules use"),
        record("bandwidth_efficiency", share, "ratio", "bytes_per_token x tok/s / bandwidth of a copy in the same run"),
    ]
    if m.watts is not None:
        result.append(record("power_w", m.watts, "W", "nvidia-smi, mean over the repeats, prompt included", "measured"))
        result.append(record("energy_per_token_j", m.watts / rate.median, "J", "power / decoding rate"))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    device = device_of(args.device, args.shape)
    config = SMALL if args.shape == "small" else shape(args.shape)
    refuse(config, args.shape)
    prompt, new = context(args.context or ("16+32" if args.shape == "small" else "128+1024"))
    total = prompt + new
    trace = (
        independent(config.num_layers, total, args.skip, args.skip, args.seed) if args.trace is None else load_trace(args.trace)
    )
    if len(trace) != config.num_layers or trace.shape[2] < total - 1:
        raise ProgramError(
            f"the trace has shape {trace.shape}; {args.shape} at {prompt}+{new} needs ({config.num_layers}, 2, {total - 1})"
        )
    skip = args.skip if args.trace is None else round(1 - float(trace.mean()), 4)
    ops = backend(device, args.backend)
    about, copied = software(device), copy_bandwidth(device)
    stack = ("Triton" if ops.__name__.endswith("kernels") else "PyTorch") + (", CUDA graph" if device.type == "cuda" else "")
    say(
        f"{about['gpu']}; {stack}; copies at {copied.median / 1e9:.1f} GB/s ({copied.least / 1e9:.1f} to {copied.largest / 1e9:.1f})"
    )
    tokens = np.random.default_rng(args.seed).integers(0, config.vocab_size, max(prompt, CHECKED)).tolist()
    keys: dict[str, Any] = {"system": about["gpu"].removeprefix("NVIDIA "), "stack": stack, "model": args.shape}
    keys |= {"context": f"{prompt}+{new}", "masked": args.mask}
    inputs: dict[str, Any] = about | {
        "copy_bandwidth_gb_s": copied.median / 1e9,
        "repeats": args.repeats,
        "routing": args.trace or f"independent {args.skip}, seed {args.seed}",
        "prefill": "every module computed, skipped ones masked",
    }
    masks = None
    if args.mask is not None:
        masks = drawn(config, args.mask, device, args.seed)
        inputs["masks"] = f"independent {args.mask}, seed {args.seed}; of decoded tokens"
    result: list[Record] = []
    for precision in args.precision:
        weights = random_weights(config, precision, device, args.seed, by_channel=masks is not None)
        for mode in args.mode:
            say(f"{args.shape}, {precision}, {mode}: checking {CHECKED} tokens against the plain loop")
            state = new_state(weights, max(total, CHECKED), MODES[mode], trace, masks)
            checked = weights, tokens[:CHECKED], MODES[mode], padded(trace, CHECKED)
            expected = reference.logits(*checked, masks)
            unmasked = None if masks is None else reference.logits(*checked)
            error = check(Decoder(weights, state, ops, forced=True), expected, tokens[:CHECKED], unmasked)
            if not error <= reference.tolerance(weights):
                say(
                    f"wrong: logits differ by {error:.2e} of their size, {reference.tolerance(weights):.1e} are explained by rounding"
                )
                return 1
            inputs[f"error {precision} {mode}"] = error
            m = measure(Decoder(weights, state, ops), tokens[:prompt], new, args.repeats, trace, say)
            result += records(m, copied.median, precision, mode, skip, keys)
            say(
                f"{args.shape}, {precision}, {mode}: {m.tokens_per_s.median:.1f} tokens/s, {m.bytes_per_s / 1e9:.1f} GB/s,"
                f" {m.bytes_per_s / copied.median:.1%} of a copy; first token {m.first_token_s.median * 1e3:.1f} ms; logits within {error:.1e}"
            )
            del state
    name = file_name(about["gpu"] if device.type == "cuda" else device.type)
    path = args.output or Path(f"{name}-{args.shape}{'' if masks is None else '-masked'}.json")
    write_json(path, "python -m sim.baselines.gpu", inputs, result)
    say(f"{path}: {len(result)} records")
    return 0


def device_of(name: str | None, shape_name: str) -> torch.device:
    """The device to measure. Without a GPU and without being asked to, only the small shape runs on the CPU.

    Raises:
        ProgramError: no such device, or a full-size shape would run on the CPU unasked.
    """
    found = torch.cuda.is_available()
    if name is None and not found and shape_name != "small":
        raise ProgramError(
            f"--shape {shape_name} needs a GPU and PyTorch finds none; --device cpu runs it on the CPU, which takes hours"
        )
    try:
        device = torch.device(name or ("cuda" if found else "cpu"))
    except RuntimeError:
        raise ProgramError(f"--device is {name!r}; accepted: cuda, cuda:N, cpu") from None
    if device.type not in ("cuda", "cpu") or (device.type == "cuda" and not found):
        raise ProgramError(f"--device is {name!r}; PyTorch finds here: {'cuda, ' if found else ''}cpu")
    return device


def refuse(config: ModelConfig, name: str) -> None:
    """Raises ProgramError for a model that is no plain Llama, which is all that is measured."""
    measured = ("rope_theta", "tie_word_embeddings", "rms_norm_eps", "eos_token_ids", "weight_group", "byte_level")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.default is not dataclasses.MISSING and value != field.default and field.name not in measured:
            raise ProgramError(
                f"{name}: {field.name} is {value!r}; accepted: {field.default!r}, of a plain Llama, which is measured"
            )


def file_name(text: str) -> str:
    """``text`` in lower case, anything but letters and digits as single hyphens, without the maker's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.removeprefix("NVIDIA ").lower()).strip("-")


def padded(trace: np.ndarray, tokens: int) -> np.ndarray:
    """``trace`` for at least ``tokens``; what it does not say is executed."""
    missing = max(0, tokens - trace.shape[2])
    return np.pad(trace, ((0, 0), (0, 0), (0, missing)), constant_values=True)


def context(text: str) -> tuple[int, int]:
    """(prompt, new tokens) of P+G."""
    prompt, _, new = text.partition("+")
    if not (prompt.isdigit() and new.isdigit() and int(prompt) > 0 and int(new) > 1):
        raise ProgramError(f"--context is {text!r}; accepted: P+G, at least 1+2")
    return int(prompt), int(new)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SkipopuError, ImportError) as error:
        sys.exit(f"error: {error}")
