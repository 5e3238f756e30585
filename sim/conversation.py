"""Conversations: turns of a user and a model, of which a session keeps what it computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from sim.asked import refuse_idle_dial
from sim.engine import Instance
from sim.generation import Generation
from sim.session import Session
from skipopu.accept import Accepted, list_of, whole
from skipopu.errors import ProgramError
from skipopu.lookup import Lookup
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run
from skipopu.sampling import GREEDY, Sampling
from skipopu.text import Message
from skipopu.text_stream import Stream

WORD = Accepted("text that is not empty", lambda value: isinstance(value, str) and value != "")


class NoRoom(ProgramError):
    """The conversation has reached the end of the program's context."""


@dataclass(frozen=True)
class Turn:
    """What was said and answered.

    Attributes:
        message, text: the user's, and the answer without what ended it.
        prompt: all tokens in front of the answer's own ``tokens``. kept: how many of them were not computed again.
            A last token of an answer never is: nobody asked what follows it.
        ended: why: "stop", a string; "end", a token; "length", so many were asked for; "context", the program's; "interrupted".
        saturated: numbers left their range on the way.
        runs: of the machine, a pass through the weights each, behind the prompt. drafted, accepted: tokens of drafts.
    """

    message: str
    text: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    kept: int
    ended: str
    saturated: bool
    runs: int
    drafted: int
    accepted: int


@dataclass
class Answer:
    """An answer as it comes: text that holds no stop string, nor may become one.

    Attributes:
        stop: strings that end it and are not part of it.
        text: so far. stopped: one of them came.
    """

    stop: tuple[str, ...]
    text: str = ""
    held: str = ""
    stopped: bool = field(default=False, init=False)

    def add(self, more: str, last: bool = False) -> str:
        """What can be shown once ``more`` came, all of it if that is the ``last``."""
        self.held += more
        ends = [place for word in self.stop if (place := self.held.find(word)) >= 0]
        if ends:
            self.stopped, shown = True, self.held[: min(ends)]
            self.held = ""
        else:
            begun = 0 if last else max(map(self._begun, self.stop), default=0)
            shown, self.held = self.held[: len(self.held) - begun], self.held[len(self.held) - begun :]
        self.text += shown
        return shown

    def _begun(self, word: str) -> int:
        """How much of ``word`` stands at the end of what is held."""
        return next((n for n in range(min(len(word) - 1, len(self.held)), 0, -1) if self.held.endswith(word[:n])), 0)


class Conversation:
    """Turns with one program on one machine.

    Attributes:
        turns: so far. template: messages go into the checkpoint's chat template; else they follow one another as they are.
    """

    def __init__(
        self,
        program: Program,
        sampling: Sampling = GREEDY,
        *,
        system: str | None = None,
        template: bool = False,
        stop: str | Sequence[str] = (),
        policy: str | None = None,
        dial: float = 0.0,
        engine: str | Instance = "functional",
        lookup: Lookup | None = None,
    ) -> None:
        """``stop``: strings that end an answer; ``policy`` and ``dial`` as of :func:`sim.api_runs.run`; ``engine`` as of
        :class:`sim.session.Session`; ``lookup`` makes drafts.

        Raises:
            ProgramError: the program is that of a shape, takes no text, or has not the template that is asked for; ``dial`` changes nothing.
        """
        if not isinstance(program, Program):
            raise ProgramError(f"program is {program!r}; accepted: what compile returns")
        for name, value, kind in (("sampling", sampling, Sampling), ("lookup", lookup, Lookup | None)):
            if not isinstance(value, kind):
                raise ProgramError(f"{name} is {value!r}; accepted: a {name.capitalize()}")
        stop = (stop,) if isinstance(stop, str) else stop
        list_of(Accepted("text", lambda value: isinstance(value, str))).check(stop, "stop", ProgramError)
        for word in stop:
            WORD.check(word, "a stop string", ProgramError)
        if system is not None and not template:
            raise ProgramError("a system's message needs a chat template; without one messages follow one another as they are")
        routing = COMPILED if policy is None else policy
        asked = Run((0,), 0, dial, routing=routing)
        asked.validate(program)
        if program.memory:
            refuse_idle_dial(program, asked)
        self.program, self.template, self.stop = program, template, tuple(stop)
        self.before: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.turns: list[Turn] = []
        self.generation = Generation(Session(program, engine), sampling, lookup, routing, dial)
        self.prompt("a")  # there is text, and a template

    def kept(self, prompt: tuple[int, ...]) -> int:
        """How many of these tokens do not have to be computed again."""
        generation = self.generation
        return generation.session.follow(Run(prompt, 1, generation.dial, routing=generation.routing)).first

    def prompt(self, message: str) -> tuple[int, ...]:
        """All tokens of the conversation up to the answer to ``message``."""
        text = self.program.text
        if self.template:
            messages = [
                {"role": role, "content": content}
                for turn in self.turns
                for role, content in (("user", turn.message), ("assistant", turn.text))
            ]
            return text.chat([*self.before, *messages, {"role": "user", "content": message}])
        if not self.turns:
            return text.encode(message)
        last = self.turns[-1]
        return (*last.prompt, *last.tokens, *text.inside(message))

    def ask(self, message: str, max_new: int = 128, show: Callable[[str], None] = lambda text: None) -> Turn:
        """Answers with up to ``max_new`` tokens; ``show`` gets the text as it comes. An interrupt ends the answer, which stays.

        Raises:
            NoRoom: the conversation does not fit the program's context.
        """
        whole(1, (1 << 63) - 1).check(max_new, "max_new", ProgramError)
        if not isinstance(message, str):
            raise ProgramError(f"message is {message!r}; accepted: text")
        prompt = self.prompt(message)
        if not prompt:
            raise ProgramError("the message is empty; a conversation begins with a token at least")
        if len(prompt) >= self.program.context:
            raise NoRoom(
                f"the conversation has {len(prompt)} tokens with this message; the program's context of {self.program.context} has no room"
                " for an answer"
            )
        generation, kept = self.generation, self.kept(prompt)
        before, generation.saturated = (generation.runs, generation.drafted, generation.accepted), False
        stream, answer, tokens = Stream(self.program.text), Answer(self.stop), list[int]()
        stream.add(prompt)
        ended = ""
        try:
            for token in generation.tokens(prompt, max_new):
                tokens.append(token)
                show(answer.add(stream.add([token])))
                if answer.stopped:
                    ended = "stop"
                    break
                if token in self.program.model.eos_token_ids:
                    ended = "end"
        except KeyboardInterrupt:
            ended = "interrupted"
        if ended != "stop":
            show(answer.add(stream.end(), last=True))
        ended = ended or ("length" if len(tokens) == max_new else "context")
        after = generation.runs, generation.drafted, generation.accepted
        counted = (now - then for now, then in zip(after, before, strict=True))
        turn = Turn(message, answer.text, prompt, tuple(tokens), kept, ended, generation.saturated, *counted)
        self.turns.append(turn)
        return turn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept any more; a simulation ends."""
        self.generation.session.close()

    def undo(self) -> bool:
        """Takes the last turn back; whether there was one."""
        if self.turns:
            self.turns.pop()
            return True
        return False
