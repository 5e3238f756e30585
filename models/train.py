"""Trains a small byte-level Llama with SkipGPT routers on the Python standard library's own source.

    python models/train.py pybyte-1m --out models/pybyte-1m

Three stages: the base model; the routers alone (base frozen) with a sparsity penalty; then everything jointly with hard
routing, the KV policies and the INT4 rounding of the weights in the loop. ``--masks STEPS`` adds one with masks of input channels
in the loop too, which leave out a share of the weights that is drawn for each step. It can also run alone:

    python models/train.py pybyte-1m --from models/pybyte-1m --masks 1000 --out out/masked

Everything is seeded; the log is written beside the weights. ``--scale 0.01`` runs a smoke test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.frontend.checkpoint import load
from models.loop import RunningMasks, quantiser, sparsity_penalty, straight_through
from sim.calibrate.budget import curves, sizes
from sim.calibrate.place import How, subject_of
from sim.reference.model import GateRule, SkipLlama
from sim.reference.state import hf_state_dict, load_hf_state_dict
from skipopu.model_config import ModelConfig
from skipopu.policy import KvPolicy
from skipopu.text import Passage

MODELS = {
    "pybyte-1m": ModelConfig(
        hidden_size=128,
        intermediate_size=384,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        vocab_size=256,
        max_positions=512,
        eos_token_ids=(0,),
        byte_level=True,
    ),
    # Fits the block RAM of an ECP5-85F beside the machine.
    "pybyte-300k": ModelConfig(
        hidden_size=96,
        intermediate_size=144,
        num_layers=4,
        num_heads=4,
        num_kv_heads=1,
        head_dim=24,
        vocab_size=256,
        max_positions=128,
        eos_token_ids=(0,),
        byte_level=True,
        weight_group=48,
    ),
}
TOKENS = 4096  # of a batch
EXCLUDED = {"test", "tests", "site-packages", "idlelib", "lib2to3", "pydoc_data", "encodings", "turtledemo"}


def corpus() -> tuple[bytes, bytes]:
    """(training, held-out) bytes: the library's .py files, each ended by a zero byte; one file in 16 is held out by the hash of its name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if EXCLUDED.isdisjoint(name.parts):
            held_out = hashlib.sha256(str(name).encode()).digest()[0] < 16
            parts[held_out].append(path.read_bytes().replace(b"\0", b"") + b"\0")
    return b"".join(parts[0]), b"".join(parts[1])


def held_out_sample(size: int = 65536) -> bytes:
    """A fixed sample: stretches of 2048 bytes spread evenly over the held-out files."""
    data, stretch = corpus()[1], 2048
    count = size // stretch
    step = (len(data) - stretch) // (count - 1)
    return b"".join(data[i * step : i * step + stretch] for i in range(count))


def bits_per_byte(model: SkipLlama, data: bytes, kv: KvPolicy, dense: bool, window: int) -> tuple[float, Tensor]:
    """(bits per byte, executed share (layers, 2)) over windows of ``window`` bytes, each starting cold."""
    tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long().view(-1, window)
    total, share = 0.0, torch.zeros(model.config.num_layers, 2)
    with torch.no_grad():
        for rows in tokens.split(32):
            out = model(rows, kv=kv, dense=dense)
            total += float(F.cross_entropy(out.logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
            share += out.gates.mean((0, 3)) * len(rows)
    return total / math.log(2) / (tokens.numel() - len(tokens)), (share / len(tokens)).round(decimals=3)


def masks_for(directory: Path, windows: NDArray[np.int64], window: int, seed: int) -> RunningMasks:
    """Masks for a model whose ratios are those that cost it least as it is, on ``windows`` (samples, window) of ids."""
    subject = subject_of(load(directory, mask_file=False), How())
    own = sizes(subject, Passage(windows.reshape(-1), None), window)
    return RunningMasks(curves(subject, windows[:8]), own, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=float, default=0.26, help="target ratio of skipped modules")
    parser.add_argument("--steps", type=int, nargs=3, default=(5000, 400, 2000), help="steps of the three stages")
    parser.add_argument("--from", dest="start", type=Path, metavar="DIR", help="trained already: no stage but that with masks")
    parser.add_argument("--masks", type=int, default=0, metavar="STEPS", help="steps of a stage with masks; default none")
    parser.add_argument(
        "--most", type=float, default=0.5, help="share of the weights that masks leave out at most; default 0.5"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="shortens all stages")
    args = parser.parse_args()
    config = MODELS[args.model]
    window = min(256, config.max_positions)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    train, _ = corpus()
    stream = torch.frombuffer(bytearray(train), dtype=torch.uint8)
    picker = torch.Generator().manual_seed(args.seed)
    noise = torch.Generator().manual_seed(args.seed + 1)
    sample = held_out_sample()
    model = SkipLlama(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(parameter, std=0.04 / (math.sqrt(2 * config.num_layers) if deep else 1))
    for layer in model.layers:
        for router in (layer.router_attention, layer.router_mlp):
            torch.nn.init.zeros_(router.weight_predictor.weight)
            router.weight_predictor.bias.data = torch.tensor([0.5, -0.5])
    if args.start is not None:
        parts = (load_file(args.start / f"{part}.safetensors") for part in ("model", "routers"))
        load_hf_state_dict(model, *parts)
    log = (args.out / "train.log").open("w")

    def say(text: str) -> None:
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    def batch() -> Tensor:
        at = torch.randint(len(stream) - window - 1, (TOKENS // window, 1), generator=picker)
        return stream[at + torch.arange(window + 1)].long()

    def run(
        stage: str,
        steps: int,
        peak: float,
        trained: Callable[[str], bool],
        penalty: float,
        plan: Callable[[int], tuple[KvPolicy, bool]],
        rule: GateRule,
        masks: RunningMasks | None = None,
    ) -> None:
        steps = max(2, int(steps * args.scale))
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        routers: list[torch.nn.Parameter] = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained(name))
            if trained(name):
                kind = routers if "router" in name else matrices if "_proj" in name else others
                kind.append(parameter)
        optimisers: list[torch.optim.Optimizer] = []
        if matrices:
            optimisers.append(torch.optim.Muon(matrices, lr=peak, weight_decay=0.01))
        adam = [{"params": others, "lr": peak / 5}, {"params": routers, "lr": 3e-3}]
        optimisers.append(torch.optim.AdamW([g for g in adam if g["params"]], betas=(0.9, 0.95), weight_decay=0.0))
        base = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
        start, mean = time.time(), 0.0
        for step in range(steps):
            factor = min(1.0, (step + 1) / 60) * min(1.0, 0.02 + (steps - step) / (0.5 * steps))
            for optimiser, rates in zip(optimisers, base, strict=True):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            rows = batch()
            kv, dense = plan(step)
            share = args.most * torch.rand((), generator=picker).item() if masks is not None else 0.0
            if masks is not None:
                masks.begin(share)
            out = model(rows[:, :-1], kv=kv, dense=dense, rule=rule)
            loss = F.cross_entropy(out.logits.flatten(0, 1), rows[:, 1:].flatten())
            total = loss if dense else loss + penalty * sparsity_penalty(out.gates, args.skip)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            mean += loss.item()
            if (step + 1) % 100 == 0 or step + 1 == steps:
                since = step % 100 + 1
                skip = 1 - float(out.gates.detach().mean())
                say(
                    f"{stage} step {step + 1}/{steps} train {mean / since / math.log(2):.4f} bits/byte"
                    f" last batch kv={kv} skip={skip:.3f}{f' masked={share:.3f}' if masks is not None else ''}"
                    f" {(step + 1) * rows[:, 1:].numel() / (time.time() - start):.0f} tokens/s"
                )
                mean = 0.0
        results: list[tuple[str, KvPolicy, bool]] = [
            ("dense", KvPolicy.DENSE, True),
            ("dense_kv", KvPolicy.DENSE, False),
            ("reuse_kv", KvPolicy.REUSE, False),
        ]
        if masks is not None:
            masks.learning = False
        shares = torch.zeros(())
        for masked in (0.0,) if masks is None else (0.5, 0.4, 0.25, 0.0):
            if masks is not None:
                masks.begin(masked)
            for label, kv, dense in results:
                bits, shares = bits_per_byte(model, sample, kv, dense, window)
                aside = f", {masked:.0%} masked" if masked else ""
                say(f"{stage} held-out {label}{aside}: {bits:.4f} bits/byte, executed share {float(shares.mean()):.3f}")
        say(f"{stage} executed share by layer [attention, ffn]: {shares.tolist()}")

    say(
        f"seed {args.seed}, {sum(p.numel() for p in model.parameters())} parameters, {len(stream)} training bytes, torch {torch.__version__}"
    )

    def save() -> None:
        base_tensors, router_tensors = hf_state_dict(model)
        save_file(base_tensors, args.out / "model.safetensors", metadata={"format": "pt"})
        save_file(router_tensors, args.out / "routers.safetensors", metadata={"format": "pt"})
        (args.out / "config.json").write_text(json.dumps(config.to_hf(), indent=2) + "\n")
        (args.out / "heldout.txt").write_bytes(sample)

    is_router = lambda name: "router" in name  # noqa: E731
    mixed: Callable[[int], tuple[KvPolicy, bool]] = lambda step: (  # noqa: E731
        KvPolicy.REUSE if step % 2 else KvPolicy.DENSE,
        False,
    )
    # Joint repair: mostly reuse, some dense_kv, and every eighth step with everything executed.
    joint: Callable[[int], tuple[KvPolicy, bool]] = lambda step: (  # noqa: E731
        (KvPolicy.DENSE, True) if step % 8 == 7 else (KvPolicy.DENSE if step % 8 in (2, 5) else KvPolicy.REUSE, False)
    )
    hard = straight_through(None, 1.0)
    if args.start is None:
        run("base", args.steps[0], 0.02, lambda n: not is_router(n), 0.0, lambda step: (KvPolicy.DENSE, True), hard)
        run("routers", args.steps[1], 0.0, is_router, 4.0, mixed, straight_through(noise, 1.0))
    model.quantise = quantiser(config.weight_group)
    if args.start is None:
        run("joint", args.steps[2], 0.008, lambda n: True, 4.0, joint, hard)
    save()
    if args.masks:
        masks = masks_for(args.out, torch.cat([batch()[:, :-1] for _ in range(2)]).numpy(), window, args.seed)
        model.mask = masks
        run("masks", args.masks, 0.002, lambda n: True, 4.0, joint, masks.noting(hard), masks)
        save()
    log.close()


if __name__ == "__main__":
    main()
