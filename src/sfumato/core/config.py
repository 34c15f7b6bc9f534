"""Components that are their own config, and reading them from TOML with helpful errors.

A component is a frozen dataclass tagged by `kind`, validated strictly by pydantic. A config is a
tree of components; a recipe is that tree as TOML; an override is `path.to.key=value`.
"""

import dataclasses
import difflib
import json
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin

import pydantic
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sfumato.core.errors import ConfigError

T = TypeVar("T")
_KIND = re.compile(r"[^=]*\bkind\s*=")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, strictly validated dataclass whose unknown keys are errors."""
    config = ConfigDict(strict=True, extra="forbid", validate_default=False)
    return pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]


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
    """One sentence for each error: what, the value, the remedy."""
    sentences = []
    for item in error.errors():
        keys = _keys_of(item["loc"], mapping)
        name = ".".join(keys) or "(top level)"
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            valid = _field_names(kind, item["loc"][:-1])
            near = difflib.get_close_matches(keys[-1], valid, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
            sentences.append(f"unknown key '{name}'; {hint}")
        elif item["type"] in ("missing", "missing_argument", "union_tag_not_found"):
            sentences.append(f"missing key '{name}'; {_missing_remedy(item, name)}")
        elif item["type"] == "union_tag_invalid":
            tag, valid_tags = item["ctx"]["tag"], item["ctx"]["expected_tags"]
            near = difflib.get_close_matches(tag, [t.strip("'") for t in valid_tags.split(", ")], 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            sentences.append(f"'{name}.kind' is {tag!r}; {hint}valid kinds: {valid_tags}")
        elif item["type"] == "value_error":
            where = f"'{name}': " if keys else ""
            sentences.append(f"{where}{item['ctx']['error']}")
        else:
            remedy = item["msg"].removeprefix("Input should be ")
            sentences.append(f"'{name}' is {item['input']!r}; it should be {remedy}")
    return f"{source}: " + "; ".join(sentences)


def _missing_remedy(item: Any, name: str) -> str:
    if item["type"] == "union_tag_not_found":
        return f"say which component it is with {name}.kind"
    return "give it a value"


def _keys_of(location: tuple[int | str, ...], mapping: Any) -> list[str]:
    """The keys of the file in an error's location, without the tags pydantic puts between."""
    keys = []
    for part in location:
        is_tag = isinstance(mapping, Mapping) and mapping.get("kind") == part and part != "kind"
        if is_tag and part not in mapping:
            continue
        keys.append(str(part))
        try:
            mapping = mapping[part]
        except (KeyError, IndexError, TypeError):
            mapping = None
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


def _field_names(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The valid keys at a location, following fields and union tags down from `kind`."""
    candidates = [member for member in _members(kind) if dataclasses.is_dataclass(member)]
    for part in location:
        tagged = [c for c in candidates if _tag(c) == part]
        if tagged:
            candidates = tagged
            continue
        below = [f.type for c in candidates for f in dataclasses.fields(c) if f.name == part]
        if below:
            candidates = [m for b in below for m in _members(b) if dataclasses.is_dataclass(m)]
    return sorted({f.name for c in candidates for f in dataclasses.fields(c) if f.init})


def _tag(kind: Any) -> Any:
    return next((f.default for f in dataclasses.fields(kind) if f.name == "kind"), None)
