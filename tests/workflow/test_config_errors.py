"""A wrong configuration is told in one line: place, expected, found, remedy."""

import copy

import pytest
import yaml

from tests.workflow.conftest import ROOT
from workflow.config_errors import check_config
from workflow.recipes import resolve_all

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())


@pytest.fixture
def config():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    resolve_all(config)
    return config


def put(config, place, value):
    """Set a value at `a.b.c`; remove it by None."""
    *above, last = place.split(".")
    for key in above:
        config = config[key]
    if value is None:
        del config[last]
    else:
        config[last] = value


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("frames.key_angel_deg", 1.0, ["frames: ", "'key_angel_deg'", "write 'key_a"]),
        ("stray", 1, ["config: expected one of ['chunks', ", "found 'stray'"]),
        ("frames.key_angle_deg", None, ["config: frames: ", "a key 'key_angle_deg'"]),
        ("frames.key_angle_deg", "wide", ["key_angle_deg: ", "number", "'wide'"]),
        ("targets.voxel_size_m", -0.04, ["targets: voxel_size_m: ", "-0.04"]),
        ("fields.gnesf.settings.vote", "learnt", ["vote: ", "write 'learned'"]),
        ("fields.gnesf.module", "gnsef", ["fields: gnesf", "'gnsef'"]),
        ("priors.mask2former.settings.queries", 30, ["settings: queries: ", "30"]),
        ("tables.table5", {"gnesf": "x"}, ["config: tables: ", "found 'table5'"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_place_and_a_remedy(config, place, value, told):
    check_config(config, SCHEMA)
    changed = copy.deepcopy(config)
    put(changed, place, value)
    with pytest.raises(ValueError, match="remedy: ") as caught:
        check_config(changed, SCHEMA)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert all(part in message for part in told), message


@pytest.mark.parametrize(
    ("section", "name"),
    [("fields", "gnesf"), ("priors", "mask2former"), ("methods", "gnesf-density")],
)
def test_what_heirs_take_over_is_told_where_it_stands(section, name):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    settings = config[section][name]["settings"]
    key = next(iter(settings))
    settings[f"{key}x"] = settings.pop(key)
    extended = resolve_all(config)
    assert name in extended.values()
    with pytest.raises(ValueError, match=f"config: {section}: {name}: settings: "):
        check_config(config, SCHEMA, extended)
