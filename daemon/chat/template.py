"""The served model's chat template: prompts and training targets as token ids, the same that vLLM makes and expects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.chat.control import ControlTokens, control_tokens
from daemon.chat.conversation import as_vllm
from daemon.chat.ids import Ids, IdWriter, Piece
from daemon.chat.preparation import Preparation
from daemon.chat.source import template_source
from daemon.chat.thoughts import find_tags
from daemon.config.chat import ChatConfig
from daemon.errors import ChatTemplateError, UnrenderableError
from daemon.labels import LeftOut

Messages = Sequence[Mapping[str, Any]]
_QUESTION, _ANSWER = "erratadquestion", "erratadanswer"
_SYSTEM, _THOUGHTS = "erratadsystem", "erratadthoughts"
"""Texts of a probe conversation."""
_NO_THOUGHTS = {"enable_thinking": False, "thinking": False}
"""The variables by which today's templates switch thoughts off."""


class ChatTemplate:
    """Renders conversations with a tokenizer of transformers as vLLM does under the same section `chat`.

    `end` is the token that ends an answer, by the template. `opening` is the text between the generation prompt and an
    answer without thoughts, e.g. an empty thought block. `preparation` is what other processes need to send messages.
    `dated`: the prompts show the day on which they are made.

    Raises:
        ChatTemplateError: if there is no template, or it renders no plain question and answer.
    """

    def __init__(self, tokenizer: Any, config: ChatConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self.source = template_source(tokenizer, config)
        self.dated = "strftime_now" in self.source
        self._tags = find_tags(self.source, config.reasoning)
        self._control_ids = control_tokens(tokenizer, self.source)
        self._control = ControlTokens(self._control_ids)
        self._writer = IdWriter(tokenizer, self._control_ids)
        self.preparation = Preparation(
            template=hashlib.sha256(
                json.dumps([self.source, config.kwargs], sort_keys=True, default=str).encode()
            ).hexdigest(),
            control_tokens=tuple(self._control_ids),
            tags=self._tags,
            has_system_role=self._shows_system(),
        )
        asked, header, rest = self._probe()
        self._keeps_thoughts = self._tags is not None and self._tags[1] not in asked
        self._block = self._thought_block(asked)
        self.opening = self._opening(asked, header)
        self.end = self._end_token(rest)
        self.end_text = next((text for text, number in self._control_ids.items() if number == self.end), "")
        self.preparation = self.preparation.model_copy(
            update={
                "opens_thoughts": self._opened(asked),
                "keeps_thoughts": self._keeps_thoughts,
                "opening": self.opening,
                "block": self._block,
            }
        )
        self.preparation = self.preparation.model_copy(update={"anchor": self._anchor()})

    def render(self, messages: Messages) -> str:
        """The prompt, up to the start of the answer.

        Raises:
            UnrenderableError: if the template, or vLLM before it, refuses the conversation.
        """
        return self._render(self.preparation.messages(messages))

    def prompt_ids(self, messages: Messages) -> Ids:
        """Token ids of the prompt, as the server has them. Raises UnrenderableError."""
        return self._writer.ids(self.render(messages))

    def encode(
        self, messages: Messages, completion: str, *, ends: bool = True, by_model: bool = False
    ) -> tuple[Ids, Ids]:
        """Token ids of the prompt, and of the target: the answer in the model's own form, and `end` if the answer ends.

        Thoughts before the answer are kept where the model writes thoughts. An answer without thoughts gets the empty
        block of the template. `by_model`: the model wrote the completion, so that a closing tag alone ends thoughts.

        Raises:
            UnrenderableError: with a reason from `LeftOut`.
        """
        prompt = self.render(messages)
        opened = by_model and self._opened(prompt)
        thoughts, answer = self.preparation.split(completion, opened=opened)
        if not answer.strip():
            raise UnrenderableError(LeftOut.EMPTY, "the answer to learn is empty")
        prompt_ids = self._writer.ids(prompt)
        target = self._writer.continuation(prompt, prompt_ids, [*self._start(thoughts), Piece(answer, plain=True)])
        return prompt_ids, (*target, self.end) if ends else target

    def _anchor(self) -> str:
        try:
            _, target = self.encode([{"role": "user", "content": _QUESTION}], _ANSWER, ends=False)
        except UnrenderableError:
            return ""
        return self._writer.anchor(f"{self.opening}{_ANSWER}", target)

    def _shows_system(self) -> bool:
        system = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
        try:
            return _SYSTEM in self._render(system)
        except UnrenderableError:
            return False

    def _probe(self) -> tuple[str, str, str]:
        """After a question: the generation prompt; the text before its answer; the text after its answer."""
        question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
        try:
            asked = _after(self._render([question]), _QUESTION)
            full = _after(self._render([question, answer], add_generation_prompt=False), _QUESTION)
        except UnrenderableError as exc:
            hint = "" if self._config.default_system is None else "; chat.default_system needs a system role: remove it"
            raise ChatTemplateError(f"the chat template renders no question with its answer: {exc}{hint}") from exc
        header, found, rest = full.partition(_ANSWER)
        if not found:
            raise ChatTemplateError("the chat template leaves out the assistant's answer; set chat.template")
        if self._control.first(rest) is None:
            rest = self._next_turn([question, answer])
        return asked, header, rest

    def _next_turn(self, answered: Messages) -> str:
        """The text from an answer to the next question, for a template that writes no end (GLM); "" if it is no end."""
        try:
            text = _after(self._render([*answered, answered[0]], add_generation_prompt=False), _ANSWER)
        except UnrenderableError:
            return ""
        token = self._control.first(text)
        begins = token is not None and not text.partition(token)[0].strip()
        return text if begins and token != self._tokenizer.bos_token else ""

    def _end_token(self, rest: str) -> int:
        token = self._control.first(rest)
        if token is not None:
            return self._control_ids[token]
        if self._tokenizer.eos_token_id is None:
            raise ChatTemplateError("the model has no end token; take an instruction-tuned model")
        return int(self._tokenizer.eos_token_id)

    def _opening(self, asked: str, header: str) -> str:
        """What the model writes before an answer without thoughts."""
        opening = header.removeprefix(asked) if header.startswith(asked) else ""
        if self._tags is None or not self._keeps_thoughts or self._tags[1] in opening:
            return opening
        if self._opened(asked):
            return "".join(self._block)
        try:  # a template with a switch: an answer without thoughts looks as it does with thoughts off
            off = _after(self._render([{"role": "user", "content": _QUESTION}], **_NO_THOUGHTS), _QUESTION)
        except UnrenderableError:
            return opening
        return off.removeprefix(asked) if off.startswith(asked) and self._tags[1] in off else opening

    def _thought_block(self, asked: str) -> tuple[str, str]:
        """The texts before and after thoughts: the template's own if it shows the thoughts of an answer."""
        if self._tags is None:
            return "", ""
        tag, closing = self._tags
        question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
        try:
            full = self._render([question, {**answer, "reasoning": _THOUGHTS}], add_generation_prompt=False)
        except UnrenderableError:
            full = ""
        before, shown, rest = _after(full, _QUESTION).partition(_THOUGHTS)
        after, answered, _ = rest.partition(_ANSWER)
        if shown and answered and closing in after and before.startswith(asked):
            return before.removeprefix(asked), after
        if self._opened(asked):
            return ("" if asked.endswith("\n") else "\n"), f"\n{closing}\n\n"
        return f"{tag}\n", f"\n{closing}\n\n"

    def _opened(self, prompt: str) -> bool:
        """Whether the prompt ends with an opened thought block."""
        return self._tags is not None and prompt.rstrip().endswith(self._tags[0])

    def _start(self, thoughts: str) -> list[Piece]:
        """What stands before the answer. The text after the last control token joins the text that follows."""
        if not thoughts or not self._keeps_thoughts:
            return self._pieces(self.opening)
        before, after = self._block
        return [*self._pieces(before), Piece(thoughts, plain=True), *self._pieces(after)]

    def _pieces(self, text: str) -> list[Piece]:
        at = max((found.end() for found in self._control.pattern.finditer(text)), default=0)
        return [Piece(text[:at], plain=False), Piece(text[at:], plain=True)]

    def _render(self, messages: Messages, *, add_generation_prompt: bool = True, **kwargs: Any) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    as_vllm(messages, self.source),
                    chat_template=self.source,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                    **{**self._config.kwargs, **kwargs},
                )
            )
        except Exception as exc:
            raise UnrenderableError(LeftOut.TEMPLATE_REFUSES, f"the chat template refuses it: {exc}") from exc


def _after(text: str, mark: str) -> str:
    """The text after the mark; all of it if the template hides the mark."""
    return text.partition(mark)[2] if mark in text else text
