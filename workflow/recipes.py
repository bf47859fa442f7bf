"""Named recipes, and what one takes over from another by `extends`."""

from collections.abc import Mapping
from typing import Any

# What a field is made of, and under which section of the config that is described.
FIELD_PARTS = {
    "prior": "priors",
    "training_prior": "priors",
    "geometry": "geometries",
    "training_geometry": "geometries",
    "features": "geometries",
    "trained_as": "fields",
}

METHOD_PARTS = {
    "prior": "priors",
    "segmenter": "priors",
    "trained_as": "methods",
    "start": "methods",
}
_PARTS = {"fields": FIELD_PARTS, "methods": METHOD_PARTS}

# Keys of a recipe that say what is learned, and from what.
_LEARNING = {"training", "data", "folds", "trained_as", "training_prior",
             "training_geometry"}  # fmt: skip


def resolve_all(config: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Resolve every section of a config, without what an overlay has dropped by null.

    With a recipe go those that extend it, the fields and methods that are made of it,
    and with these their places in the headlines and in tables. Returns which recipe
    each one extended.
    """
    gone: dict[str, set[str]] = {}
    extended: dict[tuple[str, str], str] = {}
    for section in ("priors", "geometries", "fields", "methods"):
        recipes = config.get(section) or {}
        for name, recipe in recipes.items():
            if isinstance(recipe, Mapping) and "extends" in recipe:
                extended[section, name] = recipe["extends"]
        gone[section] = _dropped(recipes)
        config[section] = resolve(section, recipes)
    for section, parts in _PARTS.items():
        own = config[section]
        while orphans := {n for n in own if _lost_a_part(own[n], parts, gone)}:
            gone[section] |= orphans
            own = {name: own[name] for name in own if name not in orphans}
        config[section] = own
    headline = config.get("headline") or []
    config["headline"] = [name for name in headline if name not in gone["fields"]]
    both = gone["fields"] | gone["methods"]
    for key, left in (
        ("headline_views", both),
        ("headline_geometries", gone["geometries"]),
    ):
        if isinstance(shown := config.get(key), list):
            config[key] = [name for name in shown if name not in left]
    config["tables"] = {
        table: {
            name: label
            for name, label in rows.items()
            if label is not None and name not in both
        }
        for table, rows in (config.get("tables") or {}).items()
        if rows is not None
    }
    return extended


def _dropped(recipes: Mapping[str, Any]) -> set[str]:
    """Return the recipes that are null, and those that extend one that goes."""
    gone = {name for name, recipe in recipes.items() if recipe is None}
    others = {n: r for n, r in recipes.items() if isinstance(r, Mapping)}
    while heirs := {n for n, r in others.items() if r.get("extends") in gone} - gone:
        gone |= heirs
    return gone


def _lost_a_part(
    recipe: Any, parts: Mapping[str, str], gone: Mapping[str, set[str]]
) -> bool:
    if not isinstance(recipe, Mapping):
        return False  # the schema judges it
    return any(recipe.get(part) in gone[section] for part, section in parts.items())


def resolve(section: str, recipes: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipes without `extends`: each is laid over the recipe it extends.

    A recipe that is null is left out, so that an overlay can drop one, and so are those
    that extend it.
    """
    gone = _dropped(recipes)
    there = {name: own for name, own in recipes.items() if name not in gone}
    return {name: _resolved(section, there, name, ()) for name in there}


def _resolved(
    section: str, recipes: Mapping[str, Any], name: str, seen: tuple[str, ...]
) -> Any:
    if name in seen or name not in recipes:
        chain = " -> ".join([*seen, str(name)])
        found = "a circle" if name in seen else "no such recipe"
        raise ValueError(
            f"config: {section}: expected `extends` to name another recipe, found "
            f"{found} ({chain}); remedy: choose one of {sorted(recipes)}"
        )
    recipe = recipes[name]
    if not isinstance(recipe, Mapping) or "extends" not in recipe:
        return recipe  # whatever it is, the schema judges it
    own = {key: value for key, value in recipe.items() if key != "extends"}
    below = _resolved(section, recipes, recipe["extends"], (*seen, name))
    if isinstance(below, Mapping) and _LEARNING & own.keys():
        # It learns something of its own: what the other was given is not that.
        below = {key: value for key, value in below.items() if key != "weights"}
    if section == "methods" and {"module", "settings"} <= own.keys():
        # Another module's settings are none of its own.
        below = {key: value for key, value in below.items() if key != "settings"}
    return _laid_over(below, own)


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _laid_over(below[key], value) if key in below else value
    return merged
