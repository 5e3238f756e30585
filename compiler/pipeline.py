"""The compiler's passes, in order."""

from __future__ import annotations

import bisect

from compiler.emit import Emitter
from compiler.follow import Follow, unseen
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.policies import Source, policies_of
from compiler.graph.build import build
from compiler.graph.ops import Graph
from compiler.graph.verify import verify
from compiler.image import images
from compiler.passes.depend import Unlinked, depend
from compiler.passes.fold import fold
from compiler.passes.heads import widen
from compiler.passes.mask import mask
from compiler.passes.order import order
from compiler.passes.plan import Plan, plan_buffer, plan_memory, sharing
from compiler.passes.quantise import quantise
from compiler.passes.ranges import Examined, examine, to_examine
from compiler.passes.refuse import refuse
from compiler.passes.schedule import Schedule, schedule
from skipopu.errors import ProgramError
from skipopu.isa.registers import MASK_GENERATED, MASK_PROMPT, PREFETCH
from skipopu.machine import limits
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import BY_NAME
from skipopu.policy import KvPolicy, Weighs
from skipopu.program.program import Program
from skipopu.program.run import require_windows
from skipopu.text import carried

KV_POLICIES = tuple(policy.value for policy in KvPolicy)
WEIGHT_FORMATS = tuple(BY_NAME)


def compile_checkpoint(
    checkpoint: Checkpoint,
    machine: Machine,
    kv: str = "reuse",
    logits: bool = False,
    context: int | None = None,
    group: int | None = None,
    weights: str | None = None,
    level: Schedule = Schedule.RUN_AHEAD,
    history: int | None = None,
    prefetch: bool = True,
    follow: Follow = unseen,
    policies: Source | None = None,
    mask_prompt: bool = False,
) -> Program:
    """Compiles ``checkpoint`` for ``machine``; the program of an outline has no memory image.

    ``kv`` is the policy for tokens that skip attention; ``logits`` makes the program store the logits of every position;
    ``context`` is the largest number of tokens (default: what the machine holds); ``group`` is the weights' group size (default: the
    model's own), ``weights`` their format (default: the file's own of each product, see :func:`compiler.passes.quantise.quantise`);
    ``level`` is how much of the dataflow is fused; ``history`` is the number of tokens whose entries
    the KV history buffer may keep (default: what it holds; none under the dense policy, where nothing is read twice),
    ``prefetch`` fetches what the next layer will read into it while no weights are asked for. ``policies``, a file or what one
    holds, says who decides what is skipped, by default the routers; see :mod:`compiler.frontend.policies`. Masks of the checkpoint apply to
    generated tokens, with ``mask_prompt`` to those of the prompt too. What the formats hold badly
    is told in the program's ``source["warnings"]``.

    Tensors are read some rows at a time, once to be examined and once to be placed in the image (K and V twice). ``follow`` sees both go on.

    Raises:
        CheckpointError: a tensor cannot be read or holds numbers that the machine's formats do not.
        ProgramError: the model does not fit the machine, with both numbers, or ``policies`` not the model.
    """
    if kv not in KV_POLICIES:
        raise ProgramError(f"kv policy is {kv!r}; accepted: {', '.join(KV_POLICIES)}")
    policy = KvPolicy(kv)
    if weights is not None and weights not in machine.formats:
        raise ProgramError(f"machine {machine.name}: weight format is {weights!r}; accepted: {', '.join(machine.formats)}")
    format = None if weights is None else BY_NAME[weights]  # else the file's own ones
    checkpoint = widen(checkpoint, machine)
    config = checkpoint.config
    if context is not None and context < 1:
        raise ProgramError(f"context is {context}; a positive number of tokens is needed")
    given, context = context, limits.largest_context(machine, config) if context is None else context
    group = config.weight_group if group is None else group
    limits.check(machine, config, context, group, checkpoint.router_width)
    refuse(machine, config, context, checkpoint.router_width > 0, checkpoint.masks is not None)
    if mask_prompt and checkpoint.masks is None:
        raise ProgramError("mask_prompt (--mask-prompt) has no effect: the model has no thresholds of input channels")
    decided = policies_of(policies, config.num_layers, checkpoint.routers is not None)
    require_windows(machine, (policy for layer in decided for pair in layer for policy in pair))
    most = limits.history_slots(machine, config)
    if history is not None and not 0 <= history <= most * machine.ports:
        raise ProgramError(
            f"history is {history} tokens; machine {machine.name} accepts 0 to {most * machine.ports} for this model"
        )
    slots = (most if history is None else history // machine.ports) if policy.rereads else 0
    weighs = checkpoint.routers is not None or any(
        named.weighs is not Weighs.NOTHING for layer in decided for pair in layer for named in pair
    )
    register = level.register | (PREFETCH if prefetch and slots else 0)
    examined: list[Examined] = []

    def linked(weighs: bool) -> tuple[Graph, Plan]:
        """The graph with its dependence tokens, and where its values lie."""
        graph = build(checkpoint, policy, logits, weighs)
        verify(graph)
        examined.clear()

        def noted(folded: Graph) -> Graph:
            examined.extend(to_examine(folded, checkpoint))
            return folded

        of_numbers = (lambda g: fold(g, checkpoint), noted, lambda g: order(g, checkpoint))
        of_shapes = (
            lambda g: mask(g, checkpoint),
            lambda g: quantise(g, format, machine.formats),
            lambda g: schedule(g, level),
        )
        for apply in (*(() if checkpoint.outline else of_numbers), *of_shapes):
            graph = apply(graph)
            verify(graph)
        plan = Plan()
        plan_buffer(graph, machine, plan)
        verify(depend(graph, sharing(graph, machine, plan)))
        return graph, plan

    try:
        graph, plan = linked(weighs)
    except Unlinked:  # not every line of operations lets decisions run ahead of it
        graph, plan = linked(True)
    if given is None:
        context = fitting_context(graph, machine, config, context, logits, group)
    plan_memory(graph, machine, config, context, logits, group, plan)
    formats = {op.weights.name: op.weights.format for op in graph.ops() if op.weights is not None}
    warnings = [] if checkpoint.outline else examine(examined, checkpoint, formats, follow)
    masking = MASK_GENERATED | (MASK_PROMPT if mask_prompt else 0)
    program = Emitter(graph, plan, checkpoint, machine, context, group, policy, register, slots, masking).program()
    if len(program.instructions) > machine.instructions:
        raise ProgramError(
            f"program has {len(program.instructions)} instructions; machine {machine.name} holds {machine.instructions}"
        )
    program.source["warnings"] = [*checkpoint.remarks, *warnings]
    if not checkpoint.outline:
        program.memory = images(program, graph, plan, checkpoint, group, decided, follow)
        if files := carried(checkpoint.directory):
            program.source["text"] = files
    return program


def fitting_context(graph: Graph, machine: Machine, config: ModelConfig, most: int, logits: bool, group: int) -> int:
    """The largest context up to ``most`` whose image the machine's memory holds; ``most`` when not even one token fits."""

    def fits(context: int) -> bool:
        try:
            plan_memory(graph, machine, config, context, logits, group, Plan())
        except ProgramError:
            return False
        return True

    if fits(most):
        return most
    return bisect.bisect_left(range(1, most), True, key=lambda context: not fits(context)) or most
