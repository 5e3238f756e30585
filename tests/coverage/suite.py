"""Which tests are run for coverage, and what their simulations counted, kept in the cache until hardware or tests change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import astuple
from pathlib import Path

from skipopu.cache import cache_entry, digest_of, fill_once
from skipopu.errors import SkipopuError
from tests.coverage.plugin import FOLDER
from tests.coverage.points import Point, Reader

ROOT = Path(__file__).parents[2]
ROOMS = ("skipopu", "hw", "compiler", "sim", "tests/agreement")
COUNTING = ("tests/support.py", *(f"tests/coverage/{name}.py" for name in ("instrument", "plugin", "points", "verilog")))
COUNTS = "counts.json"
WHERE = "tests/agreement/test_"
# By machine: each group builds one simulation and runs its tests on it.
SUITE: dict[str, tuple[str, ...]] = {
    "mono": (
        *(f"rtl.py::test_random_programs[mono-{seed}]" for seed in range(4)),
        *(f"rtl.py::test_random_models[mono-{seed}]" for seed in range(3)),
        "faults.py::test_illegal_opcode_and_format_halt",
        "faults.py::test_addresses_beyond_a_buffer_or_the_memory_halt",
        "faults.py::test_aligning_beyond_the_activation_memory_halts_at_the_instruction_that_aligns",
        "faults.py::test_bad_token_full_pool_and_lost_program_halt",
        "order.py",
        "sessions.py::test_random_schedules[mono-reuse]",
    ),
    "tiny": (
        *(f"rtl.py::test_random_programs[tiny-{seed}]" for seed in range(6)),
        *(f"rtl.py::test_random_models[tiny-{seed}]" for seed in range(4)),
        "rtl.py::test_products_in_formats_of_their_own",
        "rtl.py::test_activations[gelu]",
        "rtl.py::test_activations[relu2]",
        "soft_cap.py::test_several_heads_and_skips[0.5-reuse-0]",
        "soft_cap.py::test_several_heads_and_skips[5.0-reuse-90]",
        "windows.py::test_slow_memory_and_routers",
        "windows.py::test_an_argmax_over_several_products",
        "adjust.py::test_every_reduction_and_finish",
        "adjust.py::test_faults_of_the_hardware",
        "routers.py::test_bits_and_cycles",
        "policies.py",
        "history.py::test_fetched_ahead[0-tiny]",
        "history.py::test_fetched_ahead[90-tiny]",
        "history.py::test_an_error_while_entries_are_fetched_ahead_halts",
        "history.py::test_a_token_without_an_entry_halts",
        "sessions.py::test_random_schedules[tiny-reuse]",
        "sessions.py::test_a_halt_ends_what_was_kept",
        "recovery.py::test_a_run_behind_every_error_of_a_program[tiny]",
        "recovery.py::test_a_run_behind_an_abort_at_any_time[tiny]",
        "recovery.py::test_a_run_behind_what_memory_does_wrong[tiny-bad_read]",
        "recovery.py::test_a_run_behind_what_memory_does_wrong[tiny-bad_write]",
        "recovery.py::test_a_run_begins_at_no_position_that_was_not_reached[tiny]",
        "shipped.py::test_held_out_prompts_in_rtl[reuse-3]",
    ),
    "tiny-masks": (
        "sessions.py::test_random_schedules[tiny-masks-reuse]",
        "stationary.py::test_formats_and_groups[all-machine0-int4-32-reuse-0]",
        "stationary.py::test_formats_and_groups[generated-machine1-int8-16-dense-0]",
        "stationary.py::test_formats_and_groups[generated-machine2-int4z-8-reuse-90]",
        "stationary.py::test_formats_and_groups[all-machine3-fp4-128-reuse-0]",
        "stationary.py::test_formats_and_groups[none-machine4-int4-256-dense-90]",
        "stationary.py::test_all_channels_and_none",
        "stationary.py::test_queries_share_heads[machine0-8-2-16]",
        "recovery.py::test_a_run_behind_an_abort_at_any_time[tiny-masks]",
        "windows.py::test_decisions_far_ahead[reuse-0.3-tiny-masks-windows0]",
    ),
    "trio": (
        *(f"rtl.py::test_random_programs[trio-{seed}]" for seed in range(4)),
        *(f"rtl.py::test_random_models[trio-{seed}]" for seed in range(3)),
        "history.py::test_fetched_ahead[90-trio]",
        "history.py::test_slow_and_reordered_responses_on_every_port[trio]",
        "history.py::test_an_error_response_on_any_port_halts_with_its_code",
        "sessions.py::test_random_schedules[trio-dense]",
    ),
}


def counted(group: str, tests: tuple[str, ...] | None = None) -> Counter[Point]:
    """What the simulations of the group's tests counted, or of ``tests`` instead.

    Raises:
        SkipopuError: a test failed, or left nothing counted.
    """
    chosen = tuple(f"{WHERE}{test}" for test in SUITE[group]) if tests is None else tests
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*")) if file.suffix in (".py", ".yaml", ".sv")]
    sources = [*files, *(ROOT / name for name in COUNTING)]
    key = hashlib.sha256("\n".join([digest_of(sources, ROOT), *chosen]).encode()).hexdigest()
    directory = cache_entry("coverage", group, key)
    fill_once(directory, lambda work: (work / COUNTS).write_text(json.dumps(_run(chosen))))
    return Counter({Point(*point): count for *point, count in json.loads((directory / COUNTS).read_text())})


def _run(tests: tuple[str, ...]) -> list[tuple[object, ...]]:
    """Points and counts, sorted."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as name:
        options = ["-p", "tests.coverage.plugin", "-p", "no:cacheprovider", "-q", "-x", "-m", ""]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        environment = os.environ | {FOLDER: name, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise SkipopuError(
                f"a test fails where its simulations count: {run.stdout.strip()[-500:]}{run.stderr.strip()[-500:]}"
            )
        seen = Counter[Point]()
        for folder in sorted(Path(name).iterdir()):
            reader = Reader((folder / "overlay.v").read_text())
            for file in sorted(folder.glob("*.dat")):
                with file.open(errors="replace") as text:
                    seen.update(reader.read(text))
                file.unlink()
    if not seen:
        raise SkipopuError(f"no simulation of {', '.join(tests)} counted anything")
    return [(*astuple(point), seen[point]) for point in sorted(seen)]
