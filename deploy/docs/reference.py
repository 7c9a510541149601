"""The tables of the reference pages, made from the configuration's models and the declared metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, IPvAnyNetwork
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from daemon import metrics
from daemon.config import Config

ROOT = Path(__file__).parents[2]
OFF = re.compile(r"^(\s*)#\| ?", re.MULTILINE)  # a part of default.yaml that is off by default
TYPES: dict[Any, str] = {
    bool: "true or false",
    dict: "map",
    float: "number",
    int: "integer",
    list: "list",
    str: "text",
    IPvAnyNetwork: "IP network",
    NoneType: "`null`",
    Path: "path",
}
BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


class Key(NamedTuple):
    key: str
    values: str
    default: str
    meaning: str


def configuration() -> str:
    """A table of the keys outside sections, then one per section."""
    meanings = explanations((ROOT / "configs" / "default.yaml").read_text())
    sections = {name: section for name, field in Config.model_fields.items() if (section := _section(field.annotation))}
    parts = [_key_table(key for key in _keys(Config, meanings) if key.key.strip("`").partition(".")[0] not in sections)]
    for name, section in sections.items():
        parts += [f"## {name}\n", f"{meanings[name]}\n" if meanings[name] else ""]
        parts += [_key_table(_keys(section, meanings, f"{name}."))]
    return "\n".join(parts)


def explanations(text: str) -> dict[str, str]:
    """The comments above and beside each key of a YAML text in block style, by the key's path."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in OFF.sub(r"\1", text).splitlines():
        if comment := re.match(r"^\s*(?:- )?#\s?(.*)$", line):
            above.append(comment[1])
        elif key := re.match(r"^(\s*(?:- )?)([a-z_]+):(.*)$", line):
            parents = [(depth, name) for depth, name in parents if depth < len(key[1])]
            path = ".".join([name for _, name in parents] + [key[2]])
            beside = key[3].partition(" # ")[2].strip() or key[3].partition("  #")[2].strip()
            words = " ".join([*above, beside]).strip()
            found[path] = words or found.get(path, "")
            parents.append((len(key[1]), key[2]))
            above = []
        elif not line.strip():
            above = []
    return found


def metric_tables() -> str:
    """A table per part of the pipeline, in the order of `daemon/metrics.py`."""
    parts: list[str] = []
    rows: list[tuple[str, str, str, str]] = []
    for line in (ROOT / "daemon" / "metrics.py").read_text().splitlines():
        if heading := re.match(r"^# (.+)$", line):
            parts += [_metric_table(rows)] if rows else []
            rows = []
            title, _, remark = heading[1].partition(";")
            parts.append(f"## {title.capitalize()}\n" + (f"\n{remark.strip().capitalize()}.\n" if remark else ""))
        elif name := re.match(r"^([A-Z_]+) = ", line):
            value = vars(metrics)[name[1]]
            rows += [_metric(value)] if isinstance(value, MetricWrapperBase) else []
    return "\n".join([*parts, _metric_table(rows)])


def _metric_table(rows: list[tuple[str, str, str, str]]) -> str:
    return _table(("series", "type", "labels", "meaning"), rows)


def _metric(metric: MetricWrapperBase) -> tuple[str, str, str, str]:
    [family] = metric.describe()
    name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
    closed = metrics.CLOSED_SETS.get(metric, {})
    labels = [
        f"`{label}`: " + (", ".join(f"`{value}`" for value in closed[label]) if label in closed else "open")
        for label in metric._labelnames  # noqa: SLF001
    ]
    return f"`{name}`", family.type, "<br>".join(labels), family.documentation


def _key_table(keys: Iterable[Key]) -> str:
    return _table(Key._fields, keys)


def _keys(model: type[BaseModel], meanings: dict[str, str], prefix: str = "") -> Iterator[Key]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        values = ", ".join(filter(None, [_type(field.annotation), _bounds(field)]))
        yield Key(f"`{path}`", values, _default(field), meanings.get(path, ""))
        if section := _section(field.annotation):
            yield from _keys(section, meanings, f"{path}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for argument in get_args(annotation) if (section := _section(argument))), None)


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type(arguments[0])
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type(one) for one in arguments)
    if get_origin(annotation) in (list, dict):
        return f"{TYPES[get_origin(annotation)]} of {' to '.join(_type(one) for one in arguments)}"
    if get_origin(annotation) is Literal or issubclass(annotation, Enum):
        return ", ".join(f"`{_yaml(value)}`" for value in arguments or annotation)
    return "section" if issubclass(annotation, BaseModel) else TYPES.get(annotation, annotation.__name__)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "required"
    return "" if isinstance(value, BaseModel) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    plain = [str(one) for one in value] if isinstance(value, (list, tuple, frozenset)) else value
    plain = {str(key): one for key, one in value.items()} if isinstance(value, Mapping) else plain
    plain = plain if isinstance(plain, (bool, int, float, list, dict, NoneType)) else str(plain)
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _bounds(field: FieldInfo) -> str:
    return ", ".join(_bound(one) for one in _constraints(field) if _bound(one))


def _constraints(field: FieldInfo) -> list[Any]:
    """The field's constraints, and those of a union's branches such as `Annotated[int, Gt] | None`."""
    found = list(field.metadata)
    for branch in get_args(field.annotation):
        for one in getattr(branch, "__metadata__", ()):
            found += one.metadata if isinstance(one, FieldInfo) else [one]
    return found


def _bound(constraint: Any) -> str:
    if isinstance(constraint, (MinLen, MaxLen)):
        return (
            f"at least {constraint.min_length}"
            if isinstance(constraint, MinLen)
            else f"at most {constraint.max_length}"
        )
    if pattern := getattr(constraint, "pattern", None):
        return f"`{pattern}`"
    for kind, (sign, attribute) in BOUNDS.items():
        if isinstance(constraint, kind):
            return f"{sign} {getattr(constraint, attribute)}"
    return ""


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
