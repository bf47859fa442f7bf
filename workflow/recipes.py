"""Named recipes, and what one takes over from another by `extends`."""

from collections.abc import Mapping
from typing import Any


def resolve(section: str, recipes: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipes without `extends`: each is laid over the recipe it extends.

    A recipe that is null is left out, so that an overlay can drop one.
    """
    there = {name: recipe for name, recipe in recipes.items() if recipe is not None}
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
    return _laid_over(
        _resolved(section, recipes, recipe["extends"], (*seen, name)), own
    )


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _laid_over(below[key], value) if key in below else value
    return merged
