"""Recipes: experiments and studies as TOML files, by name or by path."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.core.config import merge, read_toml
from sfumato.core.errors import ConfigError

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the experiments that come with the package."""
    names = (path.stem for path in RECIPES.glob("*.toml"))
    return sorted(name for name in names if not is_study(read_toml(RECIPES / f"{name}.toml")))


def is_study(mapping: Mapping[str, Any]) -> bool:
    """Whether the mapping of a TOML file is a study: it has arms, or changes one that has."""
    base = mapping.get("base")
    if "arms" in mapping or base is None:
        return "arms" in mapping
    path = RECIPES / f"{base}.toml"
    return path.exists() and is_study(read_toml(path))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The mapping of a recipe given by name (`digits-ddpm`) or by path (`my/recipe.toml`).

    A recipe may begin with `base = "other"`, whose keys it then changes. The config.json of a run
    is a recipe too: the very same run again.
    Raises:
        ConfigError: no such recipe, or not TOML.
    """
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _read_config(path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
        if not path.exists():
            raise ConfigError(
                f"there is no recipe {name_or_path!r}; give a path ending in .toml, or one of: "
                + ", ".join(recipe_names())
            )
    mapping = read_toml(path)
    base = mapping.pop("base", None)
    mapping.setdefault("name", path.stem)
    return merge(read_recipe(base), mapping) if base else mapping


def _read_config(path: Path) -> dict[str, Any]:
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} holds no JSON object; give the config.json of a run")
    return mapping
