"""Components from TOML: what is accepted, and what an error says."""

import math
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from sfumato.core.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SettledAtStart,
    changeable,
    component,
    decides,
    differences,
    is_decisive,
    left_open,
    may_change,
    merge,
    override,
    parse,
    read_toml,
    to_mapping,
)
from sfumato.core.errors import ConfigError, SfumatoError


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


Schedule = Annotated[Linear | Cosine, Field(discriminator="kind")]


@component
class Whole:
    schedule: Annotated[Linear | Cosine, Field(discriminator="kind")] = Linear(sizes=(3, 4))
    other: Annotated[Linear | Cosine, Field(discriminator="kind")] | None = None
    steps: int = 10
    folder: Path = Path("x")


@component
class Ranges:
    count: PositiveInt = 1
    repeats: NonNegativeInt = 0
    rate: PositiveFloat = 1.0
    penalty: NonNegativeFloat | None = None
    share: Fraction = 0.5
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,)
    resolution: Literal["auto"] | PositiveInt | tuple[PositiveInt, PositiveInt] = "auto"


@component
class Part:
    rate: Annotated[float, may_change("resume"), decides("speed")] = 1.0
    steps: Annotated[int | None, SettledAtStart(None)] = None


@component
class Parts:
    name: Annotated[str, may_change("resume", "arms")] = ""
    schedule: Annotated[Linear | Cosine, Field(discriminator="kind"), may_change("study")] = (
        Linear()
    )
    part: Annotated[Part, may_change("after_training")] = Part()
    named: dict[str, Part] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "'count' is 0; it should be at least 1"),
        ({"count": True}, "'count' is True; it should be a valid integer"),
        ({"repeats": -1}, "'repeats' is -1; it should be at least 0"),
        ({"rate": 0.0}, "'rate' is 0.0; it should be above 0"),
        ({"rate": math.inf}, "'rate' is inf; it should be a finite number"),
        ({"rate": math.nan}, "'rate' is nan; it should be a finite number"),
        ({"penalty": -0.5}, "'penalty' is -0.5; it should be at least 0"),
        ({"penalty": math.nan}, "'penalty' is nan; it should be a finite number"),
        ({"share": 1.5}, "'share' is 1.5; it should be at most 1"),
        ({"decay": 1.0}, "'decay' is 1.0; it should be below 1"),
        ({"sizes": (4, 0)}, "'sizes.1' is 0; it should be at least 1"),
        ({"sizes": ()}, "'sizes' is []; it should have at least 1 item"),
        (
            {"resolution": (1, 2, 3)},
            "'resolution' is [1, 2, 3]; it should be 'auto' or a valid integer or have at most 2",
        ),
        ({"resolution": 0}, "'resolution' is 0; it should be 'auto' or at least 1 or a valid "),
        ({"resolution": (8, 0)}, "'resolution.1' is 0; it should be at least 1"),
        ({"count": 0, "share": -1.0}, "'count' is 0; it should be at least 1; 'share' is -1.0;"),
    ],
)
def test_a_type_states_a_range_for_files_and_for_python(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as from_file:
        parse(Ranges, values, "file")
    with pytest.raises(ConfigError) as from_python:
        Ranges(**values)
    assert str(from_file.value).startswith(f"file: {message}")
    assert str(from_python.value).startswith(f"Ranges: {message}")


def test_both_ends_of_a_range() -> None:
    ranges = Ranges(share=1.0, decay=0.0, penalty=0.0, resolution=(1, 1), rate=1)
    assert parse(Ranges, to_mapping(ranges), "x") == ranges
    assert Ranges(share=0).share == 0


@pytest.mark.parametrize("error", [ConfigError, ValueError, SfumatoError])
def test_a_constructor_and_replace_raise_the_same_error(error: type[Exception]) -> None:
    with pytest.raises(error, match="Cosine: cosine needs offset >= 0, got offset=-1"):
        Cosine(offset=-1)
    with pytest.raises(error, match="Ranges: 'count' is -2; it should be at least 1"):
        replace(Ranges(), count=-2)
    with pytest.raises(error, match=r"Ranges: unknown key 'cuont'; did you mean 'count'\?"):
        Ranges(cuont=1)  # type: ignore[call-arg]


def test_a_key_inherits_the_marks_of_its_sections() -> None:
    assert changeable(Parts, "name", "resume")
    assert changeable(Parts, "name", "arms")
    assert not changeable(Parts, "name", "study")
    assert changeable(Parts, "part.rate", "resume")
    assert changeable(Parts, "part.rate", "after_training")
    assert changeable(Parts, "part", "after_training")
    assert not changeable(Parts, "part", "resume")  # some of it may change, not all
    assert changeable(Parts, "schedule.offset", "study")  # of any member of the union
    assert not changeable(Parts, "named.a.rate", "study")
    assert not changeable(Parts, "nothing.at.all", "resume")


def test_what_a_field_decides() -> None:
    assert is_decisive(Parts, "part.rate", "speed")
    assert not is_decisive(Parts, "part.rate", "protocol")
    assert not is_decisive(Parts, "part.steps", "speed")


def test_the_fields_that_a_run_settles_at_its_start() -> None:
    assert left_open(Part) == {"steps": None}
    assert left_open(Parts) == {}


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
