"""What a recipe takes over from another, and what it may not."""

import pytest

from workflow.recipes import resolve


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


def test_a_recipe_that_is_null_is_left_out():
    assert resolve("fields", {"a": {"x": 1}, "b": None}) == {"a": {"x": 1}}
    with pytest.raises(ValueError, match="no such recipe"):
        resolve("fields", {"a": None, "b": {"extends": "a"}})


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
