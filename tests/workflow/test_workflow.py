"""What people do with the workflow: run, run again, change something, misspell it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gnesf_core.config import (
    CaptureConfig,
    EvaluationConfig,
    FlightConfig,
    FolderPriorConfig,
    FragmentDataConfig,
    FramesConfig,
    FusedDepthConfig,
    FusionConfig,
    GnesfConfig,
    GnesfDensityConfig,
    IbrnetConfig,
    ImageQualityConfig,
    LabelsPriorConfig,
    Mask2FormerConfig,
    NeuconConfig,
    NoisyLabelsConfig,
    NovelViewsConfig,
    PlaneSweepConfig,
    RayDataConfig,
    SegmentationDataConfig,
    SemanticNerfConfig,
    SourceViewsConfig,
    SynthRoomsConfig,
    SynthRoomsCounts,
    TargetsConfig,
    TrainingConfig,
    ViewDataConfig,
)
from gnesf_core.data.meshes import read_mesh
from gnesf_core.labels import IGNORE
from gnesf_core.spread import spread
from tests import chromium, posed_rooms
from tests.workflow.conftest import ROOT, make_up_scannet

ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
}
TINY = ("--configfile", "tests/tiny/config.yaml")


@pytest.fixture
def changed(finished, tmp_path):
    """A finished run that a test may spoil: results are linked, not copied."""
    root = tmp_path / "changed"
    shutil.copytree(finished.root, root, copy_function=os.link)
    tree = type(finished)(root)

    def edit(name, old, new):
        path = root / name
        text = path.read_text()
        assert old in text, f"{name} no longer has {old!r}"
        path.unlink()  # a link: writing through it would edit the original
        path.write_text(text.replace(old, new, 1))

    tree.edit = edit
    return tree


def test_a_bare_clone_plans_the_whole_demo(tree):
    jobs = tree.planned()
    assert jobs["synthesize_scene"] == 36 and jobs["synthesize_test_scene"] == 2
    assert jobs["extract_frames"] == 38 and jobs["train_prior"] == 1
    scenes, priors, geometries, fields = 4, 2, 3, 5
    learned_from = 10  # scenes: votes need less than what they are made of
    assert jobs["fuse_targets"] == 32 + scenes and jobs["train_sdf"] == 1
    assert jobs["plot_scene"] == jobs["plot_geometry"] == jobs["plot_field"] == scenes
    assert jobs["evaluate_geometry"] == scenes * geometries
    assert jobs["fuse_features"] == scenes * geometries + 2 * learned_from
    assert jobs["evaluate_prior"] == scenes * priors
    assert jobs["cache_prior"] == scenes * priors + learned_from
    assert jobs["train_semantics"] == 1
    assert jobs["extract_mesh"] == jobs["evaluate_scene"] == scenes * fields
    assert jobs["summarize"] == jobs["summarize_priors"] == 1
    assert jobs["summarize_geometries"] == 1 and jobs["plot_training"] == 4
    renderers = 3  # a method, which is trained, and two fields
    assert jobs["train_views"] == jobs["film_views"] == 1
    assert jobs["render_views"] + jobs["render_field"] == scenes * renderers
    assert jobs["evaluate_views"] == scenes * renderers
    assert jobs["view_scene"] == scenes
    assert jobs["rank_scenes"] == jobs["describe_run"] == 1


def test_the_run_ends_in_tables_pictures_and_meshes(finished):
    results = finished.root / "results/synthrooms"
    table = (results / "tables/val.md").read_text()
    assert all(f"| {name} |" in table for name in ("oracle", "gnesf-mesh", "gnesf"))
    table = (results / "tables/priors_val.md").read_text()
    assert "| mask2former |" in table and "| labels |" in table
    table = (results / "tables/geometries_val.md").read_text()
    assert all(f"| {name} |" in table for name in ("fused-depth", "neucon"))
    assert (results / "figures/geometry/scene0001_00.jpg").exists()
    assert (results / "figures/geometry/neucon/training.svg").exists()
    assert (results / "figures/priors/mask2former/scene0001_00.jpg").exists()
    assert (results / "figures/priors/mask2former/training.svg").exists()
    assert (results / "fields/oracle/scene0001_00.ply").stat().st_size > 10_000
    assert (results / "figures/scenes/scene0001_00.jpg").exists()
    assert (results / "figures/fields/gnesf-mesh/scene0001_00.jpg").exists()
    assert (results / "fields/gnesf-mesh/scene0001_00.html").exists()
    assert (results / "fields/gnesf-mesh/scene0001_00.glb").exists()
    assert "| train_sdf | 1 |" in (results / "tables/run.md").read_text()
    assert "1 of 1: scene0001_00" in (results / "tables/val_scenes.html").read_text()
    assert "1 train, 1 val, 1 test" in (results / "tables/front.html").read_text()
    assert (results / "figures/fields/gnesf/training.svg").exists()
    table = (results / "tables/views_val.md").read_text()
    assert "(views: held-out; colours: gnesf)" in table
    assert all(f"| {name} |" in table for name in ("gnesf-density", "gnesf-mesh"))
    assert (results / "figures/flights/gnesf-density/scene0001_00.webp").exists()
    leftovers = [p for p in results.rglob("*") if p.name.endswith(".partial")]
    assert not leftovers


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.planned(*TINY) == {}


def test_a_comment_or_docstring_reruns_nothing(changed):
    changed.edit(
        "gnesf_core/evaluation/semantics.py", "import numpy as np",
        "import numpy as np  # a remark",
    )  # fmt: skip
    changed.edit("gnesf_core/geometry/tsdf.py", '"""Depth maps', '"""All depth maps')
    assert changed.planned(*TINY) == {}


ALWAYS = {"describe_run", "all"}
SCORED = {"evaluate_scene", "summarize", "plot_classes", "rank_scenes"} | ALWAYS
SHOWN = {"plot_field", "view_scene"}  # of the first field that learned
MESHED = SCORED | SHOWN | {"extract_mesh", "plot_scene"}
VOTED = MESHED | {"train_semantics", "plot_training"}
JUDGED = {"evaluate_prior", "summarize_priors"} | ALWAYS
CACHED = MESHED | JUDGED | {"cache_prior", "plot_prior"}
TRAINED = CACHED | VOTED | {"train_prior"}
MEASURED = {"evaluate_geometry", "summarize_geometries", "plot_geometry"} | ALWAYS
VIEWED = {"evaluate_views", "summarize_views"} | ALWAYS
RENDERED = {"render_field"} | VIEWED  # by fields
FILMED = {"train_views", "plot_training", "render_views", "film_views"} | VIEWED
FUSED = VOTED | RENDERED | MEASURED | {"fuse_features"}  # fields see new volumes too
LEARNED = FUSED | {"train_sdf"}


@pytest.mark.parametrize(
    ("name", "old", "new", "rules"),
    [
        ("gnesf_core/evaluation/semantics.py", "truth_valid = counts[:CLASSES]",
         "truth_valid = +counts[:CLASSES]",
         SCORED | JUDGED | VIEWED | {"plot_prior"}),
        ("gnesf_core/geometry/tsdf.py", "MOST_VOXELS = 2**28", "MOST_VOXELS = 2**27",
         MESHED | LEARNED | {"fuse_targets"}),
        ("gnesf_core/data/keyframes.py", "taken: list[int] = []",
         "taken: list[int] = list()",
         TRAINED | LEARNED | FILMED | {"fuse_targets", "extract_frames"}),
        ("gnesf_core/viz/picture.py", "_MARGIN = 0.94", "_MARGIN = 0.93",
         {"plot_scene", "rank_scenes"} | ALWAYS),
        ("gnesf_core/evaluation/prior.py", "CONFIDENCE_BINS = 10",
         "CONFIDENCE_BINS = 11", JUDGED),
        ("gnesf_core/training/loop.py", "** 0.9", "** 0.95",
         TRAINED | LEARNED | FILMED),
        ("gnesf_core/geometries/training.py", "_SATURATED = 0.999",
         "_SATURATED = 0.998", LEARNED),
        ("gnesf_core/priors/labels.py", "areas.ravel(), count)",
         "+areas.ravel(), count)", CACHED - SHOWN),
        ("gnesf_core/fields/fusion.py", "mean, UNSEEN_COLOR)", "+mean, UNSEEN_COLOR)",
         MESHED - SHOWN),
        ("gnesf_core/fields/gnesf.py", "_CHUNK = 1 << 16", "_CHUNK = 1 << 15",
         VOTED | RENDERED),
        ("gnesf_core/fields/training.py", "_LEAST = 1e-4", "_LEAST = 1e-5",
         VOTED | RENDERED),
    ],
)  # fmt: skip
def test_an_edit_reruns_the_stages_that_use_it_and_what_follows(
    changed, name, old, new, rules
):
    changed.edit(name, old, new)
    assert set(changed.planned(*TINY)) == rules


def test_a_changed_value_reruns_only_what_reads_it(changed):
    (changed.root / "more.yaml").write_text("evaluation: {threshold_m: 0.07}\n")
    jobs = changed.planned(*TINY, "more.yaml")
    assert set(jobs) == SCORED | MEASURED


def test_a_changed_recipe_reruns_only_its_own_prior(changed):
    more = changed.root / "more.yaml"
    more.write_text("priors: {labels: {settings: {map_width: 81}}}\n")
    jobs = changed.planned(*TINY, "more.yaml")
    assert jobs["cache_prior"] == jobs["evaluate_prior"] == 1
    assert jobs["extract_mesh"] == 1 and "train_prior" not in jobs
    more.write_text("priors: {mask2former: {training: {steps: 7}}}\n")
    jobs = changed.planned(*TINY, "more.yaml")
    # Its maps of the validation scene, and of the one that votes learn on.
    assert jobs["train_prior"] == jobs["train_semantics"] == 1
    assert jobs["cache_prior"] == 2 and jobs["extract_mesh"] == 3


def test_weights_take_the_place_of_training(changed):
    weights = "results/synthrooms/priors/mask2former/model.safetensors"
    (changed.root / "mine.safetensors").hardlink_to(changed.root / weights)
    (changed.root / "more.yaml").write_text(
        "priors: {mask2former: {weights: mine.safetensors}}\n"
    )
    changed.edit("gnesf_core/training/loop.py", "** 0.9", "** 0.95")
    jobs = changed.planned(*TINY, "more.yaml")
    assert "train_prior" not in jobs and jobs["cache_prior"] == 2


def test_more_scenes_leave_those_alone_that_are_there(changed):
    (changed.root / "more.yaml").write_text("synthrooms: {scenes_test: 2}\n")
    jobs = changed.planned(*TINY, "more.yaml")
    made = ("synthesize_test_scene", "extract_frames", *ALWAYS)
    assert jobs == dict.fromkeys(made, 1)


def test_chapters_have_names(finished):
    for target in ("frames", "meshes", "evaluation", "figures"):
        assert finished.planned(target, *TINY) == {}
    # What nothing else asks for yet: targets and maps of scenes that are not scored.
    assert finished.planned("targets", *TINY)["fuse_targets"] == 1
    # (Of the training scene votes learn on two geometries and one prior.)
    assert finished.planned("geometry", *TINY)["fuse_features"] == 2 * 3 - 2
    assert finished.planned("priors", *TINY)["cache_prior"] == 2 * 2 - 1
    jobs = finished.planned("submission", *TINY)
    assert jobs["export_labels"] == jobs["pack_submission"] == 4


def test_verify_finds_the_one_damaged_file(changed):
    path = changed.root / "results/synthrooms/fields/oracle/scene0001_00.ply"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.unlink()
    path.write_bytes(bytes(data))
    done = changed.snakemake("--cores", 1, "verify", *TINY, check=False)
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "scene0001_00.ply: content" in text
    assert "1 damaged or missing" in text and "found 1 of " in text


def test_a_damaged_scan_fails_alone_and_is_named(changed):
    scans = changed.root / "resources/synthrooms/scans"
    for scene, part in (("scene0000_00", 0.6), ("scene0001_00", 1.0)):
        path = scans / scene / f"{scene}.sens"
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[: int(part * len(data))])
        frames = changed.root / f"results/synthrooms/frames/{scene}.h5"
        frames.unlink()
    done = changed.snakemake("--cores", 2, *TINY, check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "scene0000_00.sens: " in text and "remedy: " in text
    assert "Traceback" not in text
    frames = changed.root / "results/synthrooms/frames"
    assert not (frames / "scene0000_00.h5").exists()
    assert (frames / "scene0001_00.h5").exists()  # the other scene went on


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("key_angle_deg:", "key_angel_deg:", "key_angel_deg"),
        ("voxel_size_m: 0.04", "voxel_size_m: -0.04", "-0.04"),
        ("dataset: synthrooms", "dataset: synthroms", "synthroms"),
        ("dataset: synthrooms", "dataset: ../../x", "../../x"),
        ("  oracle:\n", "  ../oracle:\n", "../oracle"),
        ("    prior: labels\n", "    prior: lables\n", "lables"),
        ("{extends: oracle,", "{extends: orakel,", "orakel"),
        ("matching: class\n", "matching: clas\n", "clas"),
        ("      queries: 20\n", "      queries: 30\n", "30"),
        ("      image_width: 128\n", "      image_width: 130\n", "130"),
        ("headline: [oracle,", "headline: [orcale,", "orcale"),
        ("plane-sweep, neucon]", "plane-sweep, neucno]", "neucno"),
        ("  table2: {gnesf: Ours", "  table2: {gnsef: Ours", "gnsef"),
        ("  table2: {", "  table5: {", "table5"),
    ],
)
def test_a_typo_in_the_config_is_refused_by_name(tree, old, new, message):
    tree.edit("config/config.yaml", old, new)
    done = tree.snakemake("-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["framse"], "framse"),
        (["results/synthrooms/fields/gnsef/scene0032_00.ply"], "'gnsef'"),
        (["--config", "key_angel_deg=10"], "key_angel_deg"),
        (["--configfile", "config/scanet.yaml"], "config/scanet.yaml"),
        (["--configfile", "config/captures.yaml"], "resources/captures: expected"),
        (["--configfile", "config/scannet.yaml"], "scannetv2_train.txt: expected"),
    ],
)
def test_a_typo_on_the_command_line_or_missing_data_is_named(tree, typed, named):
    done = tree.snakemake("-n", *typed, check=False)
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).splitlines()
    # The echo of what was typed does not count.
    assert any(named in line for line in lines if "Command:" not in line)


def test_a_hostile_scene_list_is_refused_before_anything_runs(tree):
    (tree.root / "val.txt").write_text("scene0011_00\n../../x;touch pwned\n")
    tree.edit("config/config.yaml", "dataset: synthrooms", "dataset: mine")
    tree.edit(
        "config/config.yaml", "datasets:\n",
        "datasets:\n  mine: {format: scannet, root: raw, splits: {val: val.txt}}\n",
    )  # fmt: skip
    done = tree.snakemake("-n", check=False)
    assert done.returncode != 0
    assert "line 2: expected a scene's name" in done.stdout + done.stderr
    assert not list(tree.root.rglob("pwned"))


def test_config_schema_and_dataclasses_name_the_same_keys():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    whole = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    schema, definitions = whole["properties"], whole["$defs"]
    sections = {
        "synthrooms": (SynthRoomsConfig, SynthRoomsCounts),
        "frames": (FramesConfig,), "targets": (TargetsConfig,),
        "evaluation": (EvaluationConfig,),
        "novel_views": (NovelViewsConfig,),
        "flight": (FlightConfig,),
        "image_quality": (ImageQualityConfig,),
    }  # fmt: skip
    for section, dataclasses in sections.items():
        names = {name for d in dataclasses for name in d.__dataclass_fields__}
        names |= {"frames_train"} if section == "synthrooms" else set()
        assert set(config[section]) == names
        assert set(schema[section]["properties"]) == names
        assert set(schema[section]["required"]) == names
    mask2former, priors = config["priors"]["mask2former"], config["priors"]
    neucon, geometries = config["geometries"]["neucon"], config["geometries"]
    methods = config["methods"]
    recipes = {
        "mask2former": (Mask2FormerConfig, mask2former["settings"]),
        "segmentation_data": (SegmentationDataConfig, mask2former["data"]),
        "training": (TrainingConfig, mask2former["training"]),
        "capture": (CaptureConfig, config["datasets"]["captures"]["capture"]),
        "labels_prior": (LabelsPriorConfig, priors["labels"]["settings"]),
        "noisy_labels": (NoisyLabelsConfig, priors["noisy-labels"]["settings"]),
        "folder_prior": (FolderPriorConfig, None),
        "fusion": (FusionConfig, config["fields"]["oracle"]["settings"]),
        "gnesf": (GnesfConfig, config["fields"]["gnesf"]["settings"]),
        "ray_data": (RayDataConfig, config["fields"]["gnesf"]["data"]),
        "source_views": (SourceViewsConfig, methods["gnesf-density"]["sources"]),
        "gnesf_density": (GnesfDensityConfig, methods["gnesf-density"]["settings"]),
        "view_data": (ViewDataConfig, methods["gnesf-density"]["data"]),
        "ibrnet": (IbrnetConfig, methods["ibrnet"]["settings"]),
        "semantic_nerf": (SemanticNerfConfig, methods["semantic-nerf"]["settings"]),
        "neucon": (NeuconConfig, neucon["settings"]),
        "fragment_data": (FragmentDataConfig, neucon["data"]),
        "plane_sweep": (PlaneSweepConfig, geometries["plane-sweep"]["settings"]),
        "fused_depth": (FusedDepthConfig, geometries["fused-depth"]["settings"]),
    }
    for definition, (dataclass, values) in recipes.items():
        names = set(dataclass.__dataclass_fields__)
        assert values is None or set(values) == names
        assert set(definitions[definition]["properties"]) == names
        assert set(definitions[definition]["required"]) == names


def test_the_overlay_for_scannet_plans_everything(tree):
    make_up_scannet(tree.root)
    # One training scene is less than the overlay wants to hold out.
    (tree.root / "few.yaml").write_text(
        "geometries: {neucon: {data: {held_out_scenes: 0}}}\n"
        "fields: {gnesf: {data: {held_out_scenes: 0}}}\n"
        "methods: {gnesf-density: {data: {held_out_scenes: 0}}}\n"
    )
    jobs = tree.planned("--configfile", "config/scannet.yaml", "few.yaml")
    assert jobs["extract_frames"] == 3 and jobs["train_prior"] == 1
    assert jobs["cache_prior"] == 3  # two of the validation scene: no noisy labels
    assert jobs["train_sdf"] == jobs["train_semantics"] == 1
    assert jobs["fuse_features"] == 4  # three of the validation scene
    # The released form stands on a volume of its own, from training to voting.
    released = "results/scannet/fields/gnesf-released/scene0001_00.ply"
    jobs = tree.planned(released, "--configfile", "config/scannet.yaml", "few.yaml")
    assert jobs["train_sdf"] == jobs["train_semantics"] == jobs["extract_mesh"] == 1
    assert jobs["fuse_features"] == 2  # of the training scene, and of this one


@pytest.mark.slow
def test_a_capture_becomes_a_labelled_mesh_by_weights_from_elsewhere(changed):
    folder = changed.root / "resources/captures/den"
    poses, world = posed_rooms.camera_path(), posed_rooms.capture_from_room()
    posed_rooms.write_nerfstudio(folder, poses, world)
    weights = changed.root / "results/synthrooms/priors/mask2former/model.safetensors"
    before = weights.stat().st_mtime_ns
    overlay = ("--configfile", "tests/tiny/config.yaml", "config/captures.yaml")
    assert not {"train_prior", "train_sdf"} & set(changed.planned(*overlay))
    changed.snakemake("--cores", 2, *overlay)
    results = changed.root / "results/captures"
    mesh, about = read_mesh(results / "fields/gnesf-mesh/den.ply")
    assert about["scene"] == "den" and (mesh.label != IGNORE).mean() > 0.5
    # All of it stands on the floor, whatever way the capture's world was turned.
    low, high = np.percentile(mesh.vertices_world[:, 2], [1, 99])
    assert abs(low) < 0.1 and 1 < high < 4
    assert (results / "fields/gnesf-mesh/den.html").exists()
    assert "mIoU" not in (results / "tables/front.html").read_text()
    assert changed.planned(*overlay) == {}
    assert weights.stat().st_mtime_ns == before


def test_replica_is_judged_by_weights_and_trains_nothing(tree):
    text = (tree.root / "config/README.md").read_text()
    recipe = text.split("## Replica")[1].split("```yaml\n")[1].split("```")[0]
    (tree.root / "replica.yaml").write_text(recipe)
    raw = tree.root / "resources/replica"
    (raw / "room_0").mkdir(parents=True)
    for name in ("labels.tsv", "room_0/traj_w_c.txt", "../../my/model.safetensors"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (raw / name).resolve().touch()
    (raw / "val.txt").write_text("room_0\n")
    overlay = ("--configfile", "replica.yaml")
    for target in ((), ("geometry",), ("meshes",)):
        jobs = tree.planned(*target, *overlay)
        assert jobs and not {"train_sdf", "train_prior"} & set(jobs)
    assert tree.planned("geometry", *overlay)["fuse_features"] == 2


def test_no_segmenter_predicts_a_scene_of_its_own_training_for_a_vote(tree):
    model = "results/synthrooms/fields/gnesf-crossfit/model.safetensors"
    text = tree.snakemake("-n", "-p", model).stdout
    learned_from, maps = {}, {}
    for command in re.findall(r"python -m stages\.\w+ [^\n]*", text):
        scenes = re.findall(r"frames/(scene\d+_00)\.h5", command)
        weights = re.search(r"crossfit/(fold\d)/model", command)
        if weights and " train_prior " in command:
            learned_from[weights[1]] = set(scenes)
        elif weights and "stages.cache_prior" in command:
            maps[scenes[0]] = weights[1]
    assert len(learned_from) == 3 and len(maps) == 10
    assert set(maps.values()) == set(learned_from)
    assert all(scene not in learned_from[fold] for scene, fold in maps.items())
    everything = set.union(*learned_from.values())
    assert len(everything) == 32
    assert all(len(scenes) >= 21 for scenes in learned_from.values())


@pytest.mark.slow
def test_every_method_says_what_a_camera_sees(changed):
    methods = [
        *("gnesf-density", "ibrnet-predicted", "segment-rendered", "semantic-nerf"),
        *("semantic-nerf-prior", "gnesf-density-finetuned", "gnesf-mesh"),
    ]
    views = "results/synthrooms/views/{}/scene0001_00.json"
    film = "results/synthrooms/figures/flights/gnesf-density/scene0001_00.webp"
    targets = [*map(views.format, methods), film]
    jobs = changed.planned(*targets, *TINY)
    # Of those that learn on the training split, and of those that learn a scene; what
    # the headline shows is there.
    assert jobs["train_views"] == 2 + 3
    assert jobs["render_views"] == 5 and "render_field" not in jobs
    changed.snakemake("--cores", 2, *targets, *TINY)
    for name in methods:
        scores = json.loads((changed.root / views.format(name)).read_text())
        assert scores["field"] == name and scores["rays"] == 2 * 40 * 32
        assert scores["semantics"]["points"] > 0
    with Image.open(changed.root / film) as moving:
        assert moving.n_frames == 2 * 4 - 2 and moving.size == (3 * 2 * 20, 3 * 16)
    assert changed.planned(*targets, *TINY) == {}
    changed.edit("config/config.yaml", "    sources:\n", "    sources: # all alike\n")
    assert changed.planned(*targets, *TINY) == {}
    changed.edit(
        "gnesf_core/views/semantic_nerf.py", "hidden = relu(", "hidden = -relu(-"
    )
    assert set(changed.planned(*targets, *TINY)) == {
        "train_views", "render_views", "evaluate_views"
    }  # fmt: skip


def test_the_papers_tables_are_targets(tree):
    for table, fields in (("table2", 2), ("table4", 10), ("views", 4), ("scenes", 4)):
        jobs = tree.planned(table)
        assert jobs["print_paper_table"] == 1
        assert jobs["evaluate_scene"] == 4 * fields
        assert jobs.get("render_field", 0) == (
            4 * fields if table in ("views", "scenes") else 0
        )


def test_tables_of_methods_are_targets_of_training_scenes_too(tree):
    jobs = tree.planned("table1", "supplement1", "supplement4", "flights")
    # Table 1 has both splits, of the supplement two have one each. Of its six rows one
    # is a field, which has learned from all views of training scenes, and one is fitted
    # to true labels, which no novel scene has; the others add two rows.
    assert jobs["print_paper_table"] == 4
    assert jobs["evaluate_views"] == 4 * 5 + 4 * 5 + 2 * 4
    assert jobs["render_field"] == 4
    # On the split; to training scenes; to others by the prior's labels; for the film.
    assert jobs["train_views"] == 4 + 4 + 4 + 1
    assert jobs["film_views"] == 5 and "evaluate_scene" not in jobs


def test_novel_views_are_of_scenes_that_all_rows_have_learned_from(tree):
    text = tree.snakemake("-n", "-p", "supplement2").stdout
    learned_from, seen = {}, {}
    for command in re.findall(r"python -m stages\.[^\n]*", text):
        scenes = re.findall(r"frames/scene(\d+)_00\.h5", command)
        model = re.search(r"methods/([\w-]+)/model", command)
        if model and " train_views " in command:
            only_chosen_by = [scenes[place] for place in spread(len(scenes), 2)]
            learned_from[model[1]] = set(scenes) - set(only_chosen_by)
        elif model and "stages.render_views" in command:
            seen.setdefault(model[1], []).extend(scenes)
    assert sorted(map(len, learned_from.values())) == [4, 16, 30]
    assert seen.keys() == learned_from.keys()
    training = {scene for scene in seen.popitem()[1] if scene < "0032"}
    assert len(training) == 4 and training <= set.intersection(*learned_from.values())

    (tree.root / "apart.yaml").write_text(
        'tables: {supplement2: {gnesf-density: "8"}}\n'
    )
    done = tree.snakemake(
        "-n", "supplement2", "--configfile", "apart.yaml", check=False
    )
    assert "supplement2: expected rows that have learned" in done.stdout + done.stderr


def test_a_geometry_that_is_dropped_takes_its_fields_along(tree):
    (tree.root / "less.yaml").write_text("geometries: {neucon: null}\n")
    jobs = tree.planned("--configfile", "less.yaml")
    assert jobs["extract_mesh"] == 4 * 2  # the oracle and the running average
    assert not {"train_sdf", "train_semantics"} & set(jobs)


def test_more_held_out_scenes_than_there_are_is_said_before_anything_runs(tree):
    (tree.root / "more.yaml").write_text(
        "geometries: {neucon: {data: {held_out_scenes: 32}}}\n"
    )
    done = tree.snakemake("-n", "--configfile", "more.yaml", check=False)
    assert done.returncode != 0
    assert "held_out_scenes: expected fewer than the 32" in done.stdout + done.stderr


@pytest.mark.parametrize(("gpus", "threads"), [(4, 8), (2, 16), (1, 16), (32, 1)])
def test_as_many_jobs_run_as_there_are_gpus(tree, gpus, threads):
    """By sharing 32 cores; without, jobs of 16 threads each would keep GPUs idle."""
    # Snakemake tells the threads of jobs that do not speak for themselves.
    told = "Training the prior {wildcards.prior}{wildcards.fold}"
    tree.edit("workflow/rules/priors.smk", f'    message:\n        "{told}"\n', "")
    wanted = "results/synthrooms/priors/mask2former/model.safetensors"
    done = tree.snakemake(
        "-n", wanted, "--cores", "32", "--resources", f"gpu={gpus}",
        "--config", "device=cuda",
    )  # fmt: skip
    text = (done.stdout + done.stderr).split("rule train_prior:")[1]
    found = re.search(r"^    threads: (\d+)", text.split("\n[")[0], re.MULTILINE)
    assert (int(found[1]) if found else 1) == threads


def test_weights_that_are_not_there_are_asked_for(tree):
    (tree.root / "resources/captures/kitchen").mkdir(parents=True)
    (tree.root / "resources/captures/kitchen/transforms.json").write_text("{}")
    done = tree.snakemake("-n", "--configfile", "config/captures.yaml", check=False)
    assert done.returncode != 0
    assert (
        "weights: expected a file, found no results/synthrooms/"
        in done.stdout + done.stderr
    )
    assert "make demo" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["orcale", "oracle", "semantic-nerf"])
def test_what_cannot_render_new_scenes_is_no_headline_of_views(tree, name):
    (tree.root / "more.yaml").write_text(f"headline_views: [{name}]\n")
    done = tree.snakemake("-n", "--configfile", "more.yaml", check=False)
    assert done.returncode != 0
    assert "config: headline_views: expected" in done.stdout + done.stderr


def test_code_that_lies_among_data_is_never_run(tree, tmp_path):
    data = tmp_path / "data"
    (data / "stages").mkdir(parents=True)
    for name in ("stages/__init__.py", "stages/synthesize_lists.py", "numpy.py"):
        (data / name).write_text("raise SystemExit('somebody else's code')")
    wanted = "resources/synthrooms/scannetv2_val.txt"
    config = tree.root / "tests/tiny/config.yaml"
    tree.snakemake(
        "--cores", "1", "--directory", data, wanted, "--configfile", config
    )  # fmt: skip
    assert (data / wanted).read_text().startswith("scene")


def test_two_runs_at_once_do_not_spoil_each_other(tree):
    command = [sys.executable, "-m", "snakemake", "--cores", "1",
               "resources/synthrooms/scannetv2_val.txt", *TINY]  # fmt: skip
    runs = [
        subprocess.Popen(
            command, cwd=tree.root, env=ENVIRONMENT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes, outputs
    for code, output in zip(codes, outputs, strict=True):
        assert code == 0 or "lock" in output.lower(), output
    assert (tree.root / "resources/synthrooms/scannetv2_val.txt").exists()


def test_a_killed_run_goes_on_with_the_same_command(tree):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "frames", *TINY]
    run = subprocess.Popen(
        command, cwd=tree.root, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    frames = tree.root / "results/synthrooms/logs/synthesize_scene"
    deadline = time.monotonic() + 120
    while not frames.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(run.pid, 9)
    run.wait()
    tree.snakemake("--unlock", *TINY)
    tree.snakemake("--cores", 2, "frames", *TINY)
    assert len(list((tree.root / "results/synthrooms/frames").glob("*.h5"))) == 3
    assert not list(tree.root.rglob("*.partial"))


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    finished.snakemake("--report", path, *TINY)
    return path


def test_the_report_is_one_file_that_needs_no_network(report):
    text = report.read_text()
    assert 500_000 < len(text) < 6_000_000
    assert '<script src="http' not in text
    assert "data:image/jpeg" in text and "data:image/png" not in text
    for words in ("Scenes", "Summary", "all of val, worst first", "Scores in 3D, val"):
        assert words in text
    assert "System Message" not in text  # a caption that docutils complains about


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium on this machine")
@pytest.mark.slow
def test_a_phone_shows_the_report_offline(report, tmp_path):
    with chromium.open_chromium(tmp_path) as browser:
        browser.open(report, 390, 844, touch=True)
        browser.wait("document.querySelector('.prose h2') !== null")
        edges = browser.value(
            "[...document.querySelectorAll('.prose :is(p, h2)')].flatMap(text => {"
            "const { left, right } = text.getBoundingClientRect();"
            "return [left, right]; })"
        )
        assert len(edges) > 10 and min(edges) >= 0 and max(edges) <= 390
        table = browser.value("document.querySelector('.prose table').innerText")
        assert "gnesf-mesh" in table and "mIoU" in table
        shows = "app.setView({content: 'html', contentPath: results['%s'].data_uri})"
        name = "results/synthrooms/fields/gnesf-mesh/scene0001_00.html"
        browser.value(shows % name)
        # A page within a page keeps to itself: only its drawing tells that it works.
        deadline = time.monotonic() + chromium.PATIENCE_S
        while (np.ptp(browser.picture(), axis=-1) > 50).sum() < 5000:
            assert time.monotonic() < deadline, "nothing in colour was drawn"
        assert {url.split(":")[0] for url in browser.requested} <= {"file", "data"}
        assert browser.complaints == []


@pytest.mark.skipif(
    shutil.which("sinfo") is not None
    and subprocess.run(["sinfo"], capture_output=True).returncode == 0,
    reason="there is a Slurm here",
)
def test_a_cluster_profile_without_a_cluster_says_so_at_once(tree):
    done = tree.snakemake(
        "--workflow-profile",
        "profiles/slurm",
        "frames",
        *TINY,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "expected a Slurm that answers here" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--workflow-profile", "profiles/slrum"), "expected a folder, found no profiles"),
     (("results/synthrooms/views/nope/scene0032_00.json",), "found 'nope'"),
     (("results/synthrooms/fields/nope/scene0032_00.ply",), "found 'nope'")],
)  # fmt: skip
def test_names_of_nothing_are_told(tree, words, told):
    done = tree.snakemake("-n", *words, check=False)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


def test_the_catalog_finds_the_workflow_in_its_folder(finished):
    assert finished.planned("--snakefile", "workflow/Snakefile", *TINY) == {}
