"""Machine descriptions as files: the shipped targets, and YAML files that may start from one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skipopu.accept import one_of, read_yaml
from skipopu.errors import ConfigError

TARGETS = Path(__file__).parent / "targets"


def describe(target: str | Path) -> dict[str, Any]:
    """What a shipped target or a YAML file says, its base's values included, before any of it is looked at.

    Raises:
        ConfigError: there is no such target, or the file holds no mapping.
    """
    path = Path(target)
    if path.suffix not in (".yaml", ".yml"):
        if str(target) not in target_names():
            raise ConfigError(
                f"target {str(target)!r} is not known; accepted: {', '.join(target_names())}, or the path of a .yaml file"
            )
        path = TARGETS / f"{target}.yaml"
    return _described(path)


def target_names() -> list[str]:
    """Of the shipped targets."""
    return sorted(p.stem for p in TARGETS.glob("*.yaml"))


def _described(path: Path) -> dict[str, Any]:
    """The mapping that a file describes, with its base's values where it has none."""
    if "base" not in (data := read_yaml(path, ConfigError)):
        return data
    base = one_of(name for name in target_names() if TARGETS / f"{name}.yaml" != path).check(
        data.pop("base"), f"{path}: base", ConfigError
    )
    return _described(TARGETS / f"{base}.yaml") | {"name": path.stem} | data
