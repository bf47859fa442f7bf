"""What a recipe takes over from another, and what it may not."""

import pytest

from workflow.recipes import resolve, resolve_all


def test_a_recipe_takes_over_what_it_does_not_say_itself():
    recipes = {
        "a": {"module": "m", "settings": {"x": 1, "y": [1, 2]}},
        "b": {"extends": "a", "settings": {"y": [3]}},
        "c": {"extends": "b", "weights": "w.safetensors"},
    }
    resolved = resolve("priors", recipes)
    assert resolved["a"] == recipes["a"]
    assert resolved["b"] == {"module": "m", "settings": {"x": 1, "y": [3]}}
    assert resolved["c"] == resolved["b"] | {"weights": "w.safetensors"}


def test_a_recipe_that_is_null_is_left_out_with_its_heirs():
    assert resolve("fields", {"a": {"x": 1}, "b": None}) == {"a": {"x": 1}}
    heirs = {"c": {"extends": "b"}, "b": {"extends": "a"}, "a": None, "d": {"x": 2}}
    assert resolve("fields", heirs) == {"d": {"x": 2}}


def test_recipes_stay_apart():
    resolved = resolve(
        "f", {"a": {"s": {"x": 1}}, "b": {"extends": "a", "s": {"z": 2}}}
    )
    resolved["b"]["s"]["x"] = 5
    assert resolved["a"]["s"]["x"] == 1


@pytest.mark.parametrize(
    ("recipes", "found"),
    [
        ({"a": {"extends": "b"}, "b": {"extends": "a"}}, "a circle (a -> b -> a)"),
        ({"a": {"extends": "a"}}, "a circle"),
        ({"a": {"extends": "z"}}, "no such recipe (a -> z)"),
    ],
)
def test_circles_and_strangers_are_refused(recipes, found):
    with pytest.raises(ValueError, match="remedy") as caught:
        resolve("fields", recipes)
    assert found in str(caught.value)


def test_with_a_recipe_goes_what_is_made_of_it():
    config = {
        "priors": {"p": {"module": "m"}},
        "geometries": {
            "kept": {"module": "g"},
            "dropped": None,
            "heir": {"extends": "dropped"},
        },
        "fields": {
            "plain": {"prior": "p", "geometry": "kept"},
            "looks": {"prior": "p", "geometry": "kept", "features": "dropped"},
            "shares": {"prior": "p", "geometry": "kept", "trained_as": "looks"},
            "again": {"prior": "p", "geometry": "kept", "trained_as": "shares"},
            "other": {"prior": "p", "geometry": "heir"},
        },
        "headline": ["looks", "plain"],
        "headline_geometries": ["dropped", "kept", "heir"],
        "tables": {"t": {"again": "x", "plain": "y"}, "u": {"plain": None}},
    }
    resolve_all(config)
    assert list(config["fields"]) == ["plain"]
    assert config["headline"] == ["plain"]
    assert config["headline_geometries"] == ["kept"]
    assert config["tables"] == {"t": {"plain": "y"}, "u": {}}


def test_a_name_that_never_was_is_left_for_others_to_refuse():
    config = {"fields": {"f": {"prior": "typo"}}, "headline": ["f", "g"], "tables": {}}
    resolve_all(config)
    assert config["fields"] == {"f": {"prior": "typo"}}
    assert config["headline"] == ["f", "g"]
