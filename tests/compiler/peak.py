"""Peak memory of a compilation, in a process of its own: ``python -m tests.compiler.peak llama-2-7b u280 FOLDER``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from compiler.frontend.canonical import expected_shapes
from skipopu.model_config import ModelConfig
from skipopu.shapes import shape

# The kernel's own count of this process: getrusage's begins with the parent's.
COMMAND = """
import json, sys, time
from pathlib import Path
import compiler.command, torch
from skipopu.cli import main
peak = lambda: 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
imports, start = peak(), time.perf_counter()
code = main(["compile", sys.argv[1], "--target", sys.argv[2], "-o", sys.argv[3]])
print(json.dumps({"code": code, "imports": imports, "peak": peak(), "seconds": round(time.perf_counter() - start, 1)}))
"""


def write(directory: Path, config: ModelConfig, seed: int = 0) -> int:
    """A checkpoint of Gaussian FP16 weights, a file per layer and one for the rest; (parameters) in it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    random = torch.Generator().manual_seed(seed)
    files: dict[str, str] = {}
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, size in expected_shapes(config).items():
        files[name] = "-".join(name.split(".")[1:3] if "layers" in name else ["rest"]) + ".safetensors"
        shards.setdefault(files[name], {})[name] = size
    for file, sizes in shards.items():
        tensors = {
            name: torch.empty(size).normal_(1.0 if len(size) == 1 else 0.0, size[-1] ** -0.5, generator=random).half()
            for name, size in sizes.items()
        }
        save_file(tensors, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return sum(torch.Size(size).numel() for size in expected_shapes(config).values())


def measure(directory: Path, target: str, output: Path) -> dict[str, float]:
    """Bytes and seconds of `skipopu compile` on ``directory``: peak, what imports took of it, and the program file's size."""
    command = [sys.executable, "-c", COMMAND, str(directory), target, str(output)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert found.pop("code") == 0, said
    return found | {"image": (output / "program.skpu").stat().st_size}


if __name__ == "__main__":
    name, target, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    start = time.perf_counter()
    if not (folder / "checkpoint").exists():
        print(f"{write(folder / 'checkpoint', shape(name))} parameters, {time.perf_counter() - start:.0f} s")
    print(measure(folder / "checkpoint", target, folder / "out"))
