"""Components from TOML: what is accepted, and what an error says."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from sfumato.core.config import (
    component,
    differences,
    merge,
    override,
    parse,
    read_toml,
    to_mapping,
)
from sfumato.core.errors import ConfigError


@component
class Linear:
    kind: Literal["linear"] = "linear"
    rate: float = 1e-4
    sizes: tuple[int, ...] = (1, 2)


@component
class Cosine:
    kind: Literal["cosine"] = "cosine"
    offset: float = 0.008

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"cosine needs offset >= 0, got offset={self.offset}")


@component
class Whole:
    schedule: Annotated[Linear | Cosine, Field(discriminator="kind")] = Linear(sizes=(3, 4))
    other: Annotated[Linear | Cosine, Field(discriminator="kind")] | None = None
    steps: int = 10
    folder: Path = Path("x")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"schedule": {"kind": "linear", "rat": 1}}, "key 'schedule.rat'; did you mean 'rate'?"),
        ({"stepps": 1}, "unknown key 'stepps'; did you mean 'steps'?"),
        ({"zzz": 1}, "unknown key 'zzz'; valid keys: folder, other, schedule, steps"),
        ({"schedule": {"kind": "cosin"}}, "'schedule.kind' is 'cosin'; did you mean 'cosine'?"),
        ({"other": {"rate": 1.0}}, "say which component it is with other.kind"),
        ({"schedule": {"rat": 1.0}}, "key 'schedule.rat'; did you mean 'rate'?"),
        ({"steps": "10"}, "'steps' is '10'; it should be a valid integer"),
        ({"steps": 1.5}, "'steps' is 1.5; it should be a valid integer"),
        ({"schedule": {"kind": "cosine", "offset": -1}}, "cosine needs offset >= 0, got offset=-1"),
    ],
)
def test_an_error_names_the_source_the_key_and_the_remedy(
    mapping: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.toml: ") as caught:
        parse(Whole, mapping, "recipe.toml")
    assert message in str(caught.value)


def test_every_error_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Whole, {"stepps": 1, "folder": 3}, "here")
    assert "stepps" in str(caught.value)
    assert "folder" in str(caught.value)


def test_a_component_survives_the_round_trip() -> None:
    whole = Whole(schedule=Linear(rate=2e-4, sizes=(3,)), steps=7, folder=Path("a/b"))
    assert parse(Whole, to_mapping(whole), "round trip") == whole


def test_a_component_without_a_kind_is_a_change_of_the_default() -> None:
    whole = parse(Whole, override({}, ["schedule.rate=2e-4"]), "x")
    assert whole.schedule == Linear(rate=2e-4, sizes=(3, 4))  # the default of Whole, not of Linear
    assert parse(Whole, {"schedule": {"kind": "linear"}}, "x").schedule == Linear()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_new_kind_and_its_keys_may_come_in_any_order(reverse: bool) -> None:
    assignments = ["schedule.kind=cosine", "schedule.offset=0.1"]
    base = {"schedule": {"kind": "linear", "rate": 1.0}}
    changed = override(base, assignments[::-1] if reverse else assignments)
    assert changed == {"schedule": {"kind": "cosine", "offset": 0.1}}


def test_an_integer_is_a_float_but_not_the_other_way() -> None:
    assert parse(Linear, {"rate": 1}, "x").rate == 1.0


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.rate=2e-4", {"a": {"kind": "linear", "rate": 2e-4}}),
        ("a.name=cat", {"a": {"kind": "linear", "rate": 1, "name": "cat"}}),
        ("a.classes=[cat,frog]", {"a": {"kind": "linear", "rate": 1, "classes": ["cat", "frog"]}}),
        ("a.path=/tmp/x=y", {"a": {"kind": "linear", "rate": 1, "path": "/tmp/x=y"}}),
        ("a.kind=cosine", {"a": {"kind": "cosine"}}),
        ("a.rate=", {"a": {"kind": "linear"}}),
        ("b.c=true", {"a": {"kind": "linear", "rate": 1}, "b": {"c": True}}),
    ],
)
def test_an_override_is_read_as_toml_or_as_a_bare_word(
    assignment: str, expected: dict[str, Any]
) -> None:
    original = {"a": {"kind": "linear", "rate": 1}}
    assert override(original, [assignment]) == expected
    assert original == {"a": {"kind": "linear", "rate": 1}}


@pytest.mark.parametrize("assignment", ["rate", "=3", "a..b=1", "a.rate.x=1"])
def test_an_override_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        override({"a": {"rate": 1}}, [assignment])


def test_merging_another_kind_drops_the_old_keys() -> None:
    base = {"s": {"kind": "linear", "rate": 1}, "n": 1}
    assert merge(base, {"s": {"kind": "cosine"}}) == {"s": {"kind": "cosine"}, "n": 1}
    assert merge(base, {"s": {"rate": 2}})["s"] == {"kind": "linear", "rate": 2}


def test_differences_are_dotted() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == {
        "a.c": (2, 3),
        "d": (None, 4),
    }


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("a = ")
    for path, message in [(broken, "not valid TOML"), (tmp_path / "none.toml", "cannot read")]:
        with pytest.raises(ConfigError, match=message):
            read_toml(path)
