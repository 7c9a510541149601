"""Messages in the form in which vLLM gives them to a chat template (vllm/renderers/chat_utils.py and hf.py of 0.32)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]


class _Generation(Extension):
    """The tag {% generation %} of transformers; only its body matters here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def as_vllm(messages: Sequence[Mapping[str, Any]], template: str) -> list[Message]:
    """The conversation that vLLM gives to the template.

    Raises:
        ValueError: for a message that vLLM refuses.
    """
    parts = takes_parts(template)
    conversation = [_message(message, parts=parts) for message in messages]
    if '"developer"' in template or "'developer'" in template:
        return conversation
    return _developer_as_system(conversation)


def _message(message: Mapping[str, Any], *, parts: bool) -> Message:
    role = message["role"]
    texts = [text for text in _texts(message.get("content")) if text or parts]
    content: Any = "\n".join(texts)
    if parts and role != "tool":
        content = [{"type": "text", "text": text} for text in texts]
    found: Message = {"role": role, "content": content}
    if role == "assistant":
        if calls := message.get("tool_calls"):
            found["tool_calls"] = [_call(call) for call in calls]
        if message.get("reasoning") is not None:
            found |= {"reasoning": message["reasoning"], "reasoning_content": message["reasoning"]}
    elif role == "tool" and "tool_call_id" in message:
        found["tool_call_id"] = message["tool_call_id"]
    if isinstance(message.get("name"), str):
        found["name"] = message["name"]
    if role == "developer":
        found["tools"] = message.get("tools")
    return found


def _texts(content: Any) -> Iterator[str]:
    for part in [content] if isinstance(content, str) else content or ():
        text = part.get("text", part.get("refusal")) if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise ValueError(f"a content part is no text: {part!r:.60}")  # noqa: TRY004 - all refusals are one kind
        yield text


def _call(call: Any) -> Message:
    """The tool call with its arguments as an object. vLLM takes {} for arguments that are none."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise ValueError(f"a tool call is no function call: {call!r:.60}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    return {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else {}}}


def _developer_as_system(conversation: list[Message]) -> list[Message]:
    """Developer messages become system messages, and all system messages one, in first place."""
    if all(message["role"] != "developer" for message in conversation):
        return conversation
    system = [message for message in conversation if message["role"] in {"system", "developer"}]
    rest = [message for message in conversation if message["role"] not in {"system", "developer"}]
    if len(system) == 1 and conversation[0] is system[0]:
        plain = {name: value for name, value in system[0].items() if name != "tools"}
        return [{**plain, "role": "system"}, *rest]
    texts = ["\n".join(_texts(message["content"])) for message in system]
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *rest]


@functools.lru_cache(maxsize=8)
def takes_parts(template: str) -> bool:
    """Whether the template goes through the parts of a message's content; vLLM then passes parts, otherwise a text."""
    tree = ImmutableSandboxedEnvironment(extensions=[_Generation, loopcontrols]).parse(template)
    names = {"messages"}
    for assign in tree.find_all(nodes.Assign):  # {% set loop_messages = messages[1:] %}
        if isinstance(assign.target, nodes.Name) and _name(assign.node) in names:
            names.add(assign.target.name)
    loops = list(tree.find_all(nodes.For))
    items = {loop.target.name for loop in loops if isinstance(loop.target, nodes.Name) and _name(loop.iter) in names}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _name(assign.node) in items:
            items.add(assign.target.name)
    in_macros = _macro_loops(tree, items)
    return any(
        _is_content(loop.iter, items)
        or (isinstance(loop.iter, nodes.Name) and loop.iter.name in in_macros.get(id(loop), {"content"}))
        for loop in loops
    )


def _macro_loops(tree: nodes.Template, items: set[str]) -> dict[int, set[str]]:
    """For each loop in a macro: the parameters of the macro that some call fills with a message's content."""
    found: dict[int, set[str]] = {}
    calls = [call for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)]
    for macro in tree.find_all(nodes.Macro):
        filled: set[str] = set()
        for call in calls:
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                filled |= {
                    parameter.name
                    for parameter, value in zip(macro.args, call.args, strict=False)
                    if _is_content(value, items)
                }
                filled |= {keyword.key for keyword in call.kwargs if _is_content(keyword.value, items)}
        found |= {id(loop): filled for loop in macro.find_all(nodes.For)}
    return found


def _bare(node: nodes.Node | None) -> nodes.Node | None:
    """The node without filters, tests and slices around it."""
    while isinstance(node, (nodes.Filter, nodes.Test)) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _name(node: nodes.Node | None) -> str | None:
    bare = _bare(node)
    return bare.name if isinstance(bare, nodes.Name) else None


def _is_content(node: nodes.Node | None, items: set[str]) -> bool:
    bare = _bare(node)
    if isinstance(bare, nodes.Getattr):
        return bare.attr == "content" and _name(bare.node) in items
    if isinstance(bare, nodes.Getitem) and isinstance(bare.arg, nodes.Const):
        return bare.arg.value == "content" and _name(bare.node) in items
    return False
