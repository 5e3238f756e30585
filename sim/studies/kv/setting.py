"""What the results of study ``kv`` are counted on: the paper's run, and the small machine's."""

from __future__ import annotations

from skipopu.machine import limits
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Keys

TARGET, SHAPE = "u280", "llama-2-7b"
SHARING = "u280-masks"  # where queries that share a head meet its values together
SKIP, SEED = 0.25, 0
PROMPT, NEW = 128, 1024  # the paper's run
CONTEXTS = (512, 1024, 2048, 4096, 8192)
SMALL_TARGET = "tiny"
# Keys of a record about the large machine.
KEYS: Keys = {
    "engine": "timing",
    "target": TARGET,
    "model": SHAPE,
    "phase": "decode",
    "skip": SKIP,
    "kv": "reuse",
}


def capacity(machine: Machine, model: ModelConfig) -> int:
    """Tokens that the history buffer keeps."""
    return limits.history_slots(machine, model) * machine.ports
