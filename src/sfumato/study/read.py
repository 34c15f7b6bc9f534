"""Reading a study file: arms from recipes, sweeps, presets, overrides."""

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.core.config import differences, merge, override, parse, read_toml
from sfumato.core.errors import ConfigError
from sfumato.experiment.experiment import RECIPES, is_study, read_recipe
from sfumato.study.study import Study
from sfumato.study.sweep import Grid, OptunaSearch, SweepTable, expanded

COMMON_KEYS = ("budget", "seeds", "measure", "evaluation")
PRESET_KEYS = (*COMMON_KEYS, "common", "arms", "without", "hours", "title", "description", "sweep")


def study_names() -> list[str]:
    """The names of the studies that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.toml") if is_study(read_toml(p)))


def study_path(name_or_path: str) -> Path:
    """The file of a study given by name or path.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.exists():
            raise ConfigError(f"there is no study file {path}; check the path")
        return path
    path = RECIPES / f"{name_or_path}.toml"
    names = study_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"there is no study {name_or_path!r}; {hint}give a path ending in .toml, or one of: "
            + ", ".join(names)
        )
    return path


def load_study(name_or_path: str, overrides: list[str], preset: str = "") -> Study:
    """A study by name or path, with a preset and overrides applied.

    A file may begin with `base = "other"`, the study whose keys it then changes.
    In it, `[arms.NAME]` has a `recipe` and the keys it changes; `[common]` holds changes for
    all arms, `[evaluation]` the protocol of all; `[presets.NAME]` holds changes to the study.

    Args:
        name_or_path: a name of `study_names()`, or a path ending in .toml.
        overrides: `key=value`, applied to the study: `budget.images=1000`, `seeds=[0,1]`,
            `common.training.learning_rate=1e-4`, `arms.ddpm.model.schedule.kind=cosine`.
        preset: a table of `[presets]`; empty: as written.
    Raises:
        ConfigError: an unknown key, or arms that differ outside the factors.
    """
    path = study_path(name_or_path)
    source = _read(path)
    presets = source.pop("presets", {})
    if preset and preset not in presets:
        there = ", ".join(presets) if presets else "none"
        raise ConfigError(f"{path} has no preset {preset!r}; its presets: {there}")
    mapping = _resolved(override(source, overrides), {}, path)
    if preset:
        changes = presets[preset]
        if unknown := sorted(set(changes) - set(PRESET_KEYS)):
            raise ConfigError(
                f"{path}: presets.{preset} has the unknown key {unknown[0]!r}; a preset may have "
                + ", ".join(PRESET_KEYS)
            )
        full, mapping = mapping, _resolved(source, changes, path, overrides)
        mapping |= {
            "preset": preset,
            "hours": changes.get("hours"),
            "shrunk": _shrunk(full, mapping, changes.get("without", [])),
        }
    mapping["command"] = _command(name_or_path, preset, overrides)
    return parse(Study, mapping, str(path))


def _read(path: Path) -> dict[str, Any]:
    """The mapping of a study's file, laid over that of its base."""
    mapping = read_toml(path)
    base = mapping.pop("base", None)
    if base is None:
        return mapping
    mapping.setdefault("name", path.stem)
    return merge(_read(study_path(_near(base, path))), mapping)


def _resolved(
    source: Mapping[str, Any], preset: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The mapping of a Study, its arms whole experiments."""
    mapping = dict(source)
    for key in (*COMMON_KEYS, "sweep"):
        if key in preset:
            mapping[key] = _replaced(key, mapping.get(key), preset[key])
    mapping |= {key: preset[key] for key in ("title", "description") if key in preset}
    lasting = {"common": preset.get("common", {}), "arms": preset.get("arms", {})}
    if overrides:  # they replace the preset's values, too
        typed = override({**mapping, "common": {}, "arms": {}}, overrides)
        for key in ("common", "arms"):
            lasting[key] = merge(lasting[key], typed.pop(key))
        mapping |= typed
    mapping.setdefault("name", path.stem)
    arms, common = mapping.get("arms"), mapping.pop("common", {})
    protocol = mapping.pop("evaluation", {})
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise ConfigError(f"{path} is not a study: it has no tables [arms.NAME]")
    left = {name: arm for name, arm in arms.items() if name not in preset.get("without", [])}
    for table, given in (("arms", lasting["arms"]), ("without", preset.get("without", []))):
        if unknown := [name for name in given if name not in arms]:
            raise ConfigError(
                f"{path}: {table} of the preset or an override names the arm {unknown[0]!r}; "
                f"the arms are {', '.join(arms)}"
            )
    budget = mapping.get("budget", {})
    found = {}
    for name, arm in left.items():
        if "recipe" not in arm:
            raise ConfigError(f"{path}: arm {name!r} names no recipe; add recipe = '...'")
        changes = {key: value for key, value in arm.items() if key != "recipe"}
        experiment = read_recipe(_near(arm["recipe"], path))
        layers = [{"evaluation": protocol}, common, changes]
        layers += [lasting["common"], lasting["arms"].get(name, {})]
        for layer in layers:
            experiment = merge(experiment, layer)
        found[name] = experiment | {"name": name}
        found[name]["training"] = _with_budget(experiment.get("training", {}), budget)
    mapping["arms"] = found
    if len(left) < len(arms):
        _forget(mapping, set(arms) - set(left))
    return _swept(mapping, path)


def _forget(mapping: dict[str, Any], gone: set[str]) -> None:
    """Detach published figures from arms that a preset leaves out, and remove their pairs."""
    mapping["compare"] = [pair for pair in mapping.get("compare", []) if not gone & set(pair)]
    published = mapping.get("published")
    if isinstance(published, dict):
        figures = [  # without an arm and with a metric it would be that of real images
            {**figure, "arm": None, "metric": None} if figure.get("arm") in gone else figure
            for figure in published.get("figures", [])
        ]
        mapping["published"] = published | {"figures": figures}


def _near(recipe: Any, path: Path) -> str:
    """The path of a recipe, which is relative to the study's file."""
    if isinstance(recipe, str) and recipe.endswith(".toml") and not Path(recipe).is_absolute():
        return str(path.parent / recipe)
    return str(recipe)


def _replaced(key: str, old: Any, new: Any) -> Any:
    """A preset replaces a budget, seeds and a sweep, and changes tables key by key."""
    if key in ("budget", "seeds", "sweep") or not isinstance(old, Mapping):
        return new
    return merge(old, new)


def _swept(mapping: dict[str, Any], path: Path) -> dict[str, Any]:
    """Arms at every point of the sweep; the swept keys become factors."""
    sweep = mapping.pop("sweep", None)
    if sweep is None:
        return mapping
    found = parse(SweepTable, {"sweep": sweep}, str(path)).sweep
    keys = found.values if isinstance(found, Grid) else found.ranges
    mapping["factors"] = list(dict.fromkeys([*mapping.get("factors", []), *keys]))
    if isinstance(found, OptunaSearch):
        mapping["search"] = sweep
    else:
        mapping["arms"] = {
            name: arm | {"name": name} for name, arm in expanded(mapping["arms"], found).items()
        }
    return mapping


def _shrunk(full: Mapping[str, Any], small: Mapping[str, Any], without: list[str]) -> list[str]:
    """The changes of a preset, one line per key; an equal change in all arms is one line."""
    lines = [f"left out: the arm {name}" for name in without]
    lines += [
        f"{key}: {_shown(full.get(key))} -> {_shown(small.get(key))}"
        for key in ("budget", "seeds", "measure", "search")
        if full.get(key) != small.get(key)
    ]
    changed: dict[str, dict[str, list[str]]] = {}
    both = [name for name in small["arms"] if name in full["arms"]]
    for name in both:
        found = differences(full["arms"][name], small["arms"][name])
        for key, (old, new) in found.items():
            if not key.startswith("training.budget_"):
                change = f"{_shown(old)} -> {_shown(new)}"
                changed.setdefault(key, {}).setdefault(change, []).append(name)
    for key, changes in changed.items():
        for change, names in changes.items():
            where = "" if len(names) == len(both) else f" ({', '.join(names)})"
            lines.append(f"{key}: {change}{where}")
    return lines


def _shown(value: Any) -> str:
    """A readable value: as in TOML, without the outer braces of a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(part) for part in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return "default" if value is None else str(value)


def _command(name_or_path: str, preset: str, overrides: list[str]) -> str:
    words = ["sfumato", "study", name_or_path, *overrides]
    return shlex.join(words + (["--preset", preset] if preset else []))


def _with_budget(training: dict[str, Any], budget: Any) -> dict[str, Any]:
    """The training table with the study's budget in place of the recipe's own."""
    kept = {key: value for key, value in training.items() if not key.startswith("budget_")}
    if not isinstance(budget, Mapping):
        return kept  # parsing the study reports the mistake
    return kept | {f"budget_{kind}": amount for kind, amount in budget.items()}
