"""A layer of one decoded token and of a prefill chunk on the large machine, unfused and fused."""

from __future__ import annotations

from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.studies.fusion.setting import DECODE_AT, SHAPE, TARGET, count, routing
from sim.timeline import Span
from skipopu.machine.config import Machine


def panels() -> list[tuple[str, list[Span]]]:
    """(title, spans) of each."""
    machine, checkpoint = Machine.load(TARGET), outline(SHAPE)
    every = routing(checkpoint.config, DECODE_AT + 4, 0, 0)
    found = []
    for title, prompt, new in ((f"decode at context {DECODE_AT}", DECODE_AT, 2), ("prefill, last of 160 chunks", DECODE_AT, 0)):
        for step in (Schedule.UNFUSED, Schedule.RUN_AHEAD):
            program = compile_checkpoint(checkpoint, machine, context=DECODE_AT + 4, level=step)
            spans: list[Span] = []
            count(program, every, prompt, new, spans)
            last = max(span.position for span in spans)
            layer = [span for span in spans if span.position == last and span.layer == 1]
            name = "unfused" if step is Schedule.UNFUSED else "fused"
            found.append((f"{title}, one layer of {SHAPE} on {TARGET}: {name}", layer))
    return found
