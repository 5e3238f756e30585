"""A checkpoint's chat template: which one, and where it runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from skipopu.accept import Accepted
from skipopu.errors import ProgramError
from skipopu.text_files import CONFIG, TEMPLATE, TEMPLATES

KEY, DEFAULT = "chat_template", "default"


def _listed(value: Any) -> bool:
    return all(isinstance(t, dict) and isinstance(t.get("name"), str) and isinstance(t.get("template"), str) for t in value)


_KIND = Accepted(
    "a template's text, or several by their names",
    lambda value: (
        isinstance(value, str | None)
        or (isinstance(value, list) and _listed(value))
        or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))
    ),
)


def template_of(files: Mapping[str, str], settings: Mapping[str, Any], model: str) -> str:
    """The template that is used where none is asked for: of files of their own, or else of tokenizer_config.json.

    Raises:
        ProgramError: there is none.
    """
    given: Any = {DEFAULT: files[TEMPLATE]} if TEMPLATE in files else {}
    given |= {name[len(TEMPLATES) + 1 :].removesuffix(".jinja"): files[name] for name in files if name.startswith(TEMPLATES)}
    where = f"{model}/{TEMPLATES}" if given else f"{model}/{CONFIG}: {KEY}"
    given = given or _KIND.check(settings.get(KEY), where, ProgramError)
    if given is None:
        raise ProgramError(f"model {model} has no chat template: neither {TEMPLATE} nor {KEY} in {CONFIG}")
    if isinstance(given, str):
        return given
    named = {t["name"]: t["template"] for t in given} if isinstance(given, list) else given
    if DEFAULT not in named:
        raise ProgramError(
            f"{where} has {', '.join(map(repr, named)) or 'none'}; accepted: templates of which one is {DEFAULT!r}"
        )
    return named[DEFAULT]


@functools.lru_cache(maxsize=1)
def environment() -> Any:
    """Where chat templates run: sandboxed, with the names that transformers gives them."""
    import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what a model said, for training: its body stands."""

        tags = {"generation"}  # noqa: RUF012 (as the class above has it)

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, **{"ensure_ascii": False, **how})
    return environment
