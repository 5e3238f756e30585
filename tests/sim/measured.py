"""A file of measured records, as one GPU leaves it."""

from __future__ import annotations

MEASURED = {
    "command": "baselines",
    "version": "0.1.0",
    "inputs": {"gpu": "Card X", "copy_gb_s": 900.0},
    "records": [
        {
            "name": name,
            "value": value,
            "unit": unit,
            "kind": "measured",
            "source": "device events, median of 20",
            "system": "Card X",
            "stack": "torch",
            "model": "small",
            "precision": "int4",
            "context": "8+4",
            "skip": 0.25,
            "kv": "reuse",
        }
        for name, value, unit in (
            ("decode_tokens_per_s", 123.4, "token/s"),
            ("bandwidth_efficiency", 0.4, "ratio"),
            ("energy_per_token_j", 1.25, "J"),
        )
    ],
}
