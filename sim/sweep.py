"""Design-space sweeps: every machine with every workload by the timing engine, on all cores, to be taken up where it stopped."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compiler.pipeline import KV_POLICIES
from sim import parallel
from sim.estimate import Estimate, Workload, estimate
from sim.routing import ratios
from sim.timing import energy
from skipopu.cache import digest_of
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.machine.files import describe
from skipopu.shapes import label, shape

RESULTS = "results.jsonl"
ROOT = Path(__file__).parents[1]
ROOMS = ("skipopu", "compiler", "sim/timing")  # beside the files of sim itself


class SweepError(SkipopuError):
    """A description of a sweep that cannot be used."""


class Workloads(BaseModel):
    """Lists to combine; ``context`` as P+G, ``skip`` as ``--skip`` takes it, ``mask`` as ``--mask``, null for no thresholds at all."""

    model_config = ConfigDict(extra="forbid")

    shape: list[str] = Field(min_length=1)
    context: list[str] = ["128+256"]
    skip: list[str | float] = [0.0, 0.25]
    mask: list[Annotated[float, Field(ge=0, le=1)] | None] = [None]
    kv: list[str] = ["reuse"]
    seed: list[int] = [0]


class Description(BaseModel):
    """A sweep: ``base`` machine, lists of parameters that replace its own, and workloads."""

    model_config = ConfigDict(extra="forbid")

    base: str
    machine: dict[str, list[Any]] = {}
    workload: Workloads


@dataclass(frozen=True)
class Job:
    """A machine's parameters (those that differ from the base) and a workload."""

    base: str
    parameters: tuple[tuple[str, Any], ...]
    workload: Workload

    def machine(self) -> Machine:
        name = " ".join([Path(self.base).stem, *(f"{key}={value}" for key, value in self.parameters)])
        return Machine.from_dict(describe(self.base) | dict(self.parameters) | {"name": name}, name)

    @property
    def key(self) -> str:
        """Of the result: of the content of everything that it depends on, not of files' names."""
        model = shape(self.workload.model)
        content = [
            sources(),
            dataclasses.asdict(self.machine()),
            dataclasses.asdict(self.workload),
            dataclasses.asdict(model),
            [part.tolist() for part in ratios(self.workload.skip, model.num_layers)],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]


def files() -> list[Path]:
    """All that counts cycles: code, targets and tables."""
    found = [*(ROOT / "sim").glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*"))]
    return sorted(path for path in found if path.suffix in (".py", ".yaml"))


@functools.cache
def sources() -> str:
    """A digest of these files."""
    return digest_of(files(), ROOT)


def read(path: Path) -> list[Job]:
    """The jobs of a sweep's YAML file, every combination of its lists once.

    Raises:
        SweepError: the file, the field and what is wrong with it; all machines and shapes are looked at before anything runs.
    """
    try:
        description = Description.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SweepError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SweepError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    lists = description.workload
    workloads = []
    for name, context, skip, mask, kv, seed in itertools.product(
        lists.shape, lists.context, lists.skip, lists.mask, lists.kv, lists.seed
    ):
        prompt, _, new = context.partition("+")
        if not (prompt.isdecimal() and new.isdecimal() and int(prompt) >= 1 and int(new) >= 2):
            raise SweepError(f"{path}: workload.context is {context!r}; accepted: P+G, as in 128+1024, at least 1+2")
        if kv not in KV_POLICIES:
            raise SweepError(f"{path}: workload.kv is {kv!r}; accepted: {', '.join(KV_POLICIES)}")
        if seed < 0:
            raise SweepError(f"{path}: workload.seed is {seed}; accepted: 0 or more")
        ratios(str(skip), shape(name).num_layers)
        workloads.append(Workload(name, int(prompt), int(new), str(skip), kv, seed, masked=mask))
    grid = [tuple(zip(description.machine, values, strict=True)) for values in itertools.product(*description.machine.values())]
    jobs = [Job(description.base, parameters, workload) for parameters in grid for workload in workloads]
    for parameters in grid:
        Job(description.base, parameters, workloads[0]).machine()
    return jobs


def columns(job: Job) -> dict[str, Any]:
    """The machine's name and parameters (mappings as text), and the workload."""
    values = {key: str(value) if isinstance(value, dict) else value for key, value in job.parameters}
    of = job.workload
    workload = {"shape": label(of.model), "context": of.context, "skip": of.skip, "kv": of.kv, "seed": of.seed}
    masked = {} if of.masked is None else {"mask": of.masked}
    return {"machine": job.machine().name, **values, **workload, **masked}


def row(job: Job, part: Estimate) -> dict[str, Any]:
    """A line of the results: parameters, workload, figures."""
    machine, joules = part.machine, energy.total(part.energy())
    return columns(job) | {
        "status": "ok",
        "decode_tokens_per_s": part.tokens_per_s,
        "time_to_first_token_s": part.time_to_first_token,
        "bandwidth_efficiency": part.efficiency,
        "share_of_cap": part.share_of_cap,
        "energy_per_token_j": joules.likely,
        "power_w": joules.likely * part.tokens_per_s,
        "multipliers": energy.array_multipliers(machine),
        "on_chip_mib": on_chip_bits(machine) / 8 / 2**20,
        "peak_gb_s": machine.peak_bandwidth / 1e9,
        "memory_bytes": sum(part.regions.values()),
    }


def on_chip_bits(machine: Machine) -> int:
    """Bits of the buffers that a description sizes: FP32 buffer, aligned activations and queries, KV map, scores, FIFOs, history."""
    fifos = machine.weight_fifo + machine.kv_fifo + machine.history
    return (
        32 * machine.buffer
        + 18 * machine.tokens * (machine.activation + machine.query)
        + 20 * machine.map_entries
        + 32 * machine.ports * machine.score_entries
        + machine.ports * machine.port_bits * fifos
    )


def work(job: Job) -> dict[str, Any]:
    """One job's line. ``status`` is "ok"; "refused" for a workload that the machine cannot run, with the reason; "failed" for a fault."""
    try:
        return row(job, estimate(job.machine(), job.workload))
    except SkipopuError as error:
        return columns(job) | {"status": "refused", "reason": str(error)}
    except Exception as error:
        return columns(job) | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}


def run(
    jobs: list[Job], directory: Path, pool: Executor, say: Callable[[int, int], None] = lambda done, of: None
) -> list[dict[str, Any]]:
    """Lines of all jobs in their order; those that ``directory`` holds already are not run again, failed ones are."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RESULTS
    known = dict(_read_results(path))
    keys = [job.key for job in jobs]
    left = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in known]
    say(len(jobs) - len(left), len(jobs))
    with path.open("a") as file:
        for done, (number, outcome) in enumerate(parallel.finished(pool, work, [job for _, job in left]), 1):
            if isinstance(outcome, SkipopuError):
                raise outcome
            key = left[number][0]
            known[key] = outcome
            if outcome["status"] != "failed":
                file.write(json.dumps({"key": key, "row": outcome}) + "\n")
                file.flush()
            say(len(jobs) - len(left) + done, len(jobs))
    return [known[key] for key in keys]


def _read_results(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an earlier run wrote; a line that it could not finish is left out."""
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield entry["key"], entry["row"]
        except (ValueError, KeyError, TypeError):
            continue


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Numbers of the points that no other has at most the cost (first) and at least the worth (second) of, by rising cost."""
    order = sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1]))
    front, best = [], float("-inf")
    for k in order:
        if points[k][1] > best:
            front.append(k)
            best = points[k][1]
    return front
