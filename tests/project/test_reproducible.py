"""What the commands write is a function of what they read: the same bytes whatever the environment.

Two runs of everything differ in hash seed, locale (one without UTF-8), time zone, umask, working directory and cache. Left out is what
was measured: records named in :data:`MEASURED`, and rates and seconds on the standard output.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MEASURED = ("wall_s",)
TIMES = re.compile(rb"[\d,.]+ (tokens/s|s)\b")  # on the standard output of `eval`
COMMANDS = (
    "compile {model} --target mono -o program --json compile.json",
    "compile --shape llama-3.2-1b --target u280 -o shape",
    "hdl --target mono -o hdl --json hdl.json",
    "run program --tokens 1,2,3 --max-new 4 --json functional.json",
    "run program --engine timing --tokens 1,2,3 --max-new 4 --json timing.json",
    "eval {model} --text {text} --json eval.json",
    "compare {model} --target tiny --text {text} --context 8+8 --jobs 1 -o comparison",
    "build --board kv260 -o project",
    "isa --markdown",
    "isa --json isa.json",
)
ONE = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "utf-8",  # of the standard streams alone: files are ASCII unless a command says otherwise
    "TZ": "XYZ+11",
}
OTHER = {"PYTHONHASHSEED": "4321", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def without_measured(text: str) -> str:
    """A JSON file without the records of what was measured."""
    content = json.loads(text)
    if isinstance(content, dict) and "records" in content:
        content["records"] = [record for record in content["records"] if record["name"] not in MEASURED]
    return json.dumps(content)


def written(directory: Path, environment: dict[str, str], umask: int, names: dict[str, Path]) -> dict[str, bytes]:
    """All that the commands write in ``directory``, by the file's name; the standard output by the command's."""
    directory.mkdir(parents=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = plain | environment | {"PYTHONPATH": str(ROOT), "SKIPOPU_CACHE": str(directory.with_name("cache"))}
    found: dict[str, bytes] = {}
    for line in COMMANDS:
        command = [sys.executable, "-m", "skipopu", *line.format(**names).split()]
        done = subprocess.run(command, cwd=directory, env=environment, umask=umask, capture_output=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
        found[line] = TIMES.sub(b"", done.stdout)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(directory))
            found[name] = without_measured(path.read_text()).encode() if path.suffix == ".json" else path.read_bytes()
    return found


def test_the_same_bytes_in_another_environment(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def read(self, size=-1):\n    return self.\n" * 4, encoding="utf-8")
    names = {"model": model, "text": text}
    one = written(tmp_path / "one" / "work", ONE, 0o022, names)
    other = written(tmp_path / "other" / "further" / "down", OTHER, 0o077, names)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
