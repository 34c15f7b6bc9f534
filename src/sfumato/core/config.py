"""Components that are their own config, and reading them from TOML with helpful errors.

A component is a frozen dataclass tagged by `kind`, validated strictly by pydantic. A config is a
tree of components; a recipe is that tree as TOML; an override is `path.to.key=value`.

The type of a field states its range (`PositiveInt`). A mark beside the type states when the field
may change (`may_change`).
"""

import dataclasses
import difflib
import functools
import json
import re
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sfumato.core.errors import ConfigError

T = TypeVar("T")
_KIND = re.compile(r"[^=]*\bkind\s*=")

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A share, both ends included."""
PositiveFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A share that is not 0."""
FractionBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""A share that is not 1."""

When = Literal["resume", "after_training", "study", "arms"]
"""Occasions on which a field may change.

resume: an interrupted run goes on; the field does not alter the steps still to come.
after_training: a finished run is sampled or scored.
study: a study goes on; the field alters no run that is already there.
arms: the arms and seeds of a study always differ in it.
"""
What = Literal["protocol", "speed"]
"""What a field decides: the meaning of a score, or the time of a training step."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """A fact about a field of a component, written beside its type: `Annotated[int, mark]`."""

    may_change: tuple[When, ...] = ()
    decides: tuple[What, ...] = ()


@dataclasses.dataclass(frozen=True)
class SettledAtStart:
    """A run decides the value at its start if the config leaves it open, and records it."""

    left_open: Any


def may_change(*when: When) -> Mark:
    """Mark a field, and all that is below it, as free to change on these occasions."""
    return Mark(may_change=when)


def decides(*what: What) -> Mark:
    """Mark a field, and all that is below it, by what it decides."""
    return Mark(decides=what)


def changeable(config: Any, dotted_key: str, when: When) -> bool:
    """Whether a key of a config may change on an occasion.

    Args:
        config: a component, or an annotated union of components.
        dotted_key: for example "training.budget_steps". A key inherits the marks of its sections.
    """
    return any(when in mark.may_change for mark in _marks(config, dotted_key))


def is_decisive(config: Any, dotted_key: str, what: What) -> bool:
    """Whether a key of a config, or a section that holds it, decides `what`."""
    return any(what in mark.decides for mark in _marks(config, dotted_key))


def left_open(config: type) -> dict[str, Any]:
    """The fields of a component that a run settles at its start: name -> value that is open."""
    return {
        field.name: mark.left_open
        for field in dataclasses.fields(config)
        for mark in _metadata(field.type)
        if isinstance(mark, SettledAtStart)
    }


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, strictly validated dataclass whose unknown keys are errors.

    Its constructor raises ConfigError, with a message such as "TrainingConfig: 'batch_size' is 0;
    it should be at least 1". A ConfigError is a ValueError.
    """
    config = ConfigDict(strict=True, extra="forbid", validate_default=False)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def construct(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise ConfigError(_describe(error, made, values, cls.__name__)) from None

    made.__init__ = construct
    return made  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:  # a TypeAdapter, which beartype cannot check
    return TypeAdapter(kind)


def parse(kind: type[T], mapping: Mapping[str, Any], source: str) -> T:
    """Build a component from a plain mapping, as read from TOML or JSON.

    Args:
        kind: a component, or an annotated union of components.
        mapping: keys to plain values (str, int, float, bool, list, dict).
        source: where the mapping came from; begins the error message.
    Raises:
        ConfigError: names the key, the source and the nearest valid name.
    A component that gives no `kind` where there is a default is a change of that default.
    """
    mapping = _with_defaults(kind, mapping)
    try:
        # JSON mode: strict about types, and yet a TOML array may become a tuple, a string a Path.
        return _adapter(kind).validate_json(json.dumps(mapping))  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        raise ConfigError(_describe(error, kind, mapping, source)) from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain mapping of a component: the inverse of `parse`."""
    mapping: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return mapping


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises ConfigError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def override(mapping: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` with `path.to.key=value` assignments applied.

    Values are written as in TOML; a bare word is a string, and so are bare words in a list
    (`data.classes=[cat,frog]`). No value (`training.budget_seconds=`) takes the key out, so that
    its default holds. Giving a component another `kind` drops the old one's keys,
    wherever among the assignments it stands.
    """
    changed: dict[str, Any] = json.loads(json.dumps(mapping))
    for assignment in sorted(assignments, key=lambda text: not _KIND.match(text)):
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"override {assignment!r} is not of the form key=value; "
                "write for example training.learning_rate=2e-4"
            )
        at = changed
        for key in keys[:-1]:
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                raise ConfigError(f"override {assignment!r}: {key!r} is a value, not a section")
        if not text.strip():
            at.pop(keys[-1], None)
            continue
        value = _parse_value(text.strip())
        if keys[-1] == "kind" and at.get("kind") != value:
            at.clear()
        at[keys[-1]] = value
    return changed


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the tree `changes` laid over it; another `kind` replaces the whole component."""
    if changes.get("kind", base.get("kind")) != base.get("kind"):
        return dict(changes)
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two mappings differ, with both values (None where absent)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found[f"{prefix}{key}"] = (left, right)
    return found


def _with_defaults(kind: Any, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """`mapping` with what it leaves unsaid of components that are defaults elsewhere.

    `schedule.num_steps = 50` where the default is `LinearBetaSchedule()` means that schedule.
    """
    completed = dict(mapping)
    tagged = [c for c in _members(kind) if dataclasses.is_dataclass(c)]
    chosen = [c for c in tagged if "kind" not in mapping or _tag(c) == mapping["kind"]]
    if len(chosen) != 1:
        return completed
    for field in dataclasses.fields(chosen[0]):
        value, default = mapping.get(field.name), _default(field)
        if not isinstance(value, Mapping):
            continue
        if "kind" not in value and hasattr(default, "kind"):
            value = merge(to_mapping(default), value)
        completed[field.name] = _with_defaults(field.type, value)
    return completed


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field; None when it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text.startswith("[") and text.endswith("]"):
            items = [item.strip() for item in text[1:-1].split(",")]
            return [_parse_value(item) for item in items if item]
        return text


def _describe(error: ValidationError, kind: Any, mapping: Mapping[str, Any], source: str) -> str:
    """One sentence for each key: what, the value, the remedy."""
    found: dict[str, list[Any]] = {}
    for item in error.errors():
        found.setdefault(".".join(_keys_of(item, mapping)), []).append(item)
    # An error below a key comes from the alternative of a union that fits best.
    deepest = [name for name in found if not any(o.startswith(f"{name}.") for o in found)]
    return f"{source}: " + "; ".join(_sentence(name, found[name], kind) for name in deepest)


def _sentence(name: str, items: list[Any], kind: Any) -> str:
    """What is wrong with the value of one key; several items are alternatives of a union."""
    item, shown = items[0], name or "(top level)"
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        valid = _field_names(kind, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"unknown key '{shown}'; {hint}"
    if item["type"] == "union_tag_not_found":
        return f"missing key '{shown}'; say which component it is with {shown}.kind"
    if item["type"] in _MISSING:
        return f"missing key '{shown}'; give it a value"
    if item["type"] == "union_tag_invalid":
        tag, valid_tags = item["ctx"]["tag"], item["ctx"]["expected_tags"]
        near = difflib.get_close_matches(tag, [t.strip("'") for t in valid_tags.split(", ")], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"'{shown}.kind' is {tag!r}; {hint}valid kinds: {valid_tags}"
    if item["type"] == "value_error":
        return f"'{name}': {item['ctx']['error']}" if name else str(item["ctx"]["error"])
    remedies = " or ".join(dict.fromkeys(_remedy(item) for item in items))
    value = list(item["input"]) if isinstance(item["input"], tuple) else item["input"]
    return f"'{shown}' is {value!r}; it should {remedies.replace(' or be ', ' or ')}"


def _remedy(item: Any) -> str:
    """What follows "it should"."""
    if item["type"] in _LIMITS:
        word, limit = _LIMITS[item["type"]]
        number = item["ctx"][limit]
        unit = (" item" if number == 1 else " items") if "length" in limit else ""
        return f"{word} {number:g}{unit}"
    if item["type"] == "value_error":
        return f"be valid ({item['ctx']['error']})"
    return str(item["msg"]).partition("should ")[2] or str(item["msg"])


_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_LIMITS = {
    "greater_than": ("be above", "gt"),
    "greater_than_equal": ("be at least", "ge"),
    "less_than": ("be below", "lt"),
    "less_than_equal": ("be at most", "le"),
    "too_short": ("have at least", "min_length"),
    "too_long": ("have at most", "max_length"),
}


def _keys_of(item: Any, mapping: Any) -> list[str]:
    """The keys of the file in an error's location.

    Without the tags and types that pydantic puts between them for the alternatives of a union.
    """
    keys = []
    for place, part in enumerate(item["loc"]):
        is_last = place == len(item["loc"]) - 1
        if isinstance(mapping, Mapping):
            is_key = part in mapping
        else:
            is_key = isinstance(mapping, list | tuple) and isinstance(part, int)
        if is_key or (is_last and item["type"] in _MISSING):
            keys.append(str(part))
        if is_key:
            mapping = mapping[part] if isinstance(mapping, Mapping) or part < len(mapping) else None
    return keys


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a (possibly annotated) union; a plain type is its own alternative."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for part in get_args(kind) for member in _members(part))
    if get_origin(kind) in (tuple, list, dict):
        return tuple(member for part in get_args(kind) for member in _members(part))
    return (kind,)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    """What stands beside the type of a field."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _marks(config: Any, dotted_key: str) -> Iterator[Mark]:
    """The marks of the field at a dotted key and of the sections that hold it."""
    candidates = _members(config)
    for part in dotted_key.split("."):
        found = _field_types(candidates, part)
        yield from (m for type_ in found for m in _metadata(type_) if isinstance(m, Mark))
        candidates = tuple(member for type_ in found for member in _members(type_))


def _field_types(candidates: Sequence[Any], name: Any) -> list[Any]:
    """The types of the field of a name in those candidates that are components and have it."""
    components = [c for c in candidates if dataclasses.is_dataclass(c)]
    return [f.type for c in components for f in dataclasses.fields(c) if f.name == name]


def _field_names(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The valid keys at a location, following fields and union tags down from `kind`."""
    candidates = [member for member in _members(kind) if dataclasses.is_dataclass(member)]
    for part in location:
        tagged = [c for c in candidates if _tag(c) == part]
        if tagged:
            candidates = tagged
            continue
        if below := _field_types(candidates, part):
            candidates = [m for b in below for m in _members(b) if dataclasses.is_dataclass(m)]
    return sorted({f.name for c in candidates for f in dataclasses.fields(c) if f.init})


def _tag(kind: Any) -> Any:
    return next((f.default for f in dataclasses.fields(kind) if f.name == "kind"), None)
