"""Files that a checkpoint's text is read from: their names and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skipopu.accept import MAPPING
from skipopu.errors import ProgramError

TOKENIZER, CONFIG, SPECIAL, ADDED, TEMPLATE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
READ = (TOKENIZER, CONFIG, SPECIAL, ADDED, TEMPLATE)
TEMPLATES = "additional_chat_templates"  # a directory of NAME.jinja
# What of the model's own description decides how its tokenizer is read.
MODEL, DECIDES = "config.json", ("model_type", "tokenizer_class", "transformers_version")


def contents(files: Mapping[str, str], name: str, model: str) -> dict[str, Any]:
    """The object in the JSON file ``name``, {} where there is none; raises ProgramError naming it when it holds something else."""
    try:
        return MAPPING.check(json.loads(files.get(name, "{}")), f"{model}/{name}: the content", ProgramError)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{model}/{name}: not valid JSON ({error})") from None
