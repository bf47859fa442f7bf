import functools
import hashlib
import json
import os
import re
import shlex
import sys
from types import SimpleNamespace

import yaml
from snakemake.dag import DAG

ROOT = Path(workflow.current_basedir).parent.parent
sys.path.insert(0, str(ROOT / "workflow"))

from chunks import check_each_group_once, deal_out
from code_digest import CodeDigest
from config_errors import check_config
from recipes import FIELD_PARTS, METHOD_PARTS, resolve_all
from scenes import capture_file, evenly_spread, read_splits

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
try:
    extended = resolve_all(config)
    check_config(config, SCHEMA, extended)
except ValueError as error:
    raise WorkflowError(str(error)) from None

DATASET = config["dataset"]
if DATASET not in config["datasets"]:
    raise WorkflowError(
        f"config: dataset: expected one of {sorted(config['datasets'])}, "
        f"found {DATASET!r}; remedy: describe it under `datasets`"
    )
try:
    SPLITS = read_splits(DATASET, config)
except ValueError as error:
    raise WorkflowError(str(error)) from None
SCENES = [scene for scenes in SPLITS.values() for scene in scenes]
for scene in config["datasets"][DATASET].get("captures", {}):
    if scene not in SCENES:
        raise WorkflowError(
            f"config: datasets: {DATASET}: captures: expected some of {SCENES}, found "
            f"{scene!r}; remedy: correct the name"
        )
# Scenes whose labels may be read; those of the test split carry none.
LABELLED = set(SPLITS["train"]) | set(SPLITS["val"])
FORMAT = config["datasets"][DATASET]["format"]
LABEL_MAP = config["datasets"][DATASET].get("label_map")
# Only ScanNet's format comes with meshes to score and a benchmark to submit to.
SCORED_SPLITS = ["val"] if SPLITS["val"] and FORMAT == "scannet" else []
# Novel views are of those and of scenes that methods have learned from.
VIEW_SPLITS = (["train"] if SPLITS["train"] and SCORED_SPLITS else []) + SCORED_SPLITS
SUBMITTED_SPLITS = ["test"] if SPLITS["test"] and FORMAT == "scannet" else []
# Splits whose frames come with labels to judge a prior by.
PRIOR_SPLITS = ["val"] if SPLITS["val"] and LABEL_MAP else []
# Others, which no field sees a scene by, are made when a field names them.
PRIORS = [
    name
    for name in config["priors"]
    if any(recipe["prior"] == name for recipe in config["fields"].values())
]
# Others are made when a field that names them is.
GEOMETRIES = config["headline_geometries"]
HEADLINE = config["headline"]
# Scenes whose meshes are made: those that are judged, if there are any.
SHOWN = SPLITS["val"] or SPLITS["test"]
PICTURED = evenly_spread(SHOWN, config["report"]["scenes"])


def check_name(place, name, section):
    """Refuse a name that nothing in a section of the config has."""
    if name not in config[section]:
        raise WorkflowError(
            f"config: {place}: expected one of {list(config[section])}, found "
            f"{name!r}; remedy: describe it under `{section}`"
        )


for name in HEADLINE:
    check_name("headline", name, "fields")
for name in GEOMETRIES:
    check_name("headline_geometries", name, "geometries")
for name, recipe in config["fields"].items():
    for part, section in FIELD_PARTS.items():
        if recipe.get(part):
            check_name(f"fields: {name}: {part}", recipe[part], section)
    if "features" in recipe:
        kind = config["geometries"][recipe["features"]]["module"]
        if kind != "neucon":
            raise WorkflowError(
                f"config: fields: {name}: features: expected a geometry by the module "
                f"neucon, found one by {kind}; remedy: name one that looks at pictures"
            )
    if "folds" in config["priors"][recipe["prior"]]:
        raise WorkflowError(
            f"config: fields: {name}: prior: expected a prior of all scenes, found "
            f"{recipe['prior']!r}, which has folds; remedy: name it in training_prior"
        )
for name, recipe in config["methods"].items():
    for part, section in METHOD_PARTS.items():
        if recipe.get(part):
            check_name(f"methods: {name}: {part}", recipe[part], section)
    if name in config["fields"]:
        raise WorkflowError(
            f"config: methods: {name}: expected a name that no field has, as both are "
            "asked for views; remedy: rename one of them"
        )
METHODS = list(config["methods"])
# Fields that can be asked what a camera sees.
RENDERING_FIELDS = [n for n, own in config["fields"].items() if "features" in own]
# Tables of novel views, whose rows may be methods as well; two are of fields alone,
# which have surfaces that are scored in 3D beside.
FIELD_TABLES = ("views", "scenes")
VIEW_TABLES = (*FIELD_TABLES, "table1", "supplement1", "supplement2", "supplement3",
               "supplement4")  # fmt: skip
# What renders the novel views that are shown.
HEADLINE_VIEWS = config["headline_views"]
for name in HEADLINE_VIEWS:
    if name not in [*RENDERING_FIELDS, *METHODS]:
        raise WorkflowError(
            f"config: headline_views: expected some of {[*RENDERING_FIELDS, *METHODS]}, "
            f"found {name!r}; remedy: describe it under `methods` or `fields`"
        )
    if name in METHODS and config["methods"][name]["per_scene"]:
        raise WorkflowError(
            "config: headline_views: expected what renders scenes that it has not seen, "
            f"found {name!r}, which is fitted to each; remedy: show it in table1"
        )
for table, names in config["tables"].items():
    for name in names:
        of_fields = table not in VIEW_TABLES or table in FIELD_TABLES
        if of_fields or name not in METHODS:
            check_name(f"tables: {table}", name, "fields")
DEVICE = config["device"]
# GPUs of a job that runs a network.
GPUS = 1 if DEVICE == "cuda" else 0


def network_threads(gpus):
    """Give a job its GPUs' share of the cores: as many run as there are GPUs."""
    if not gpus:
        return 1
    allowed = workflow.global_resources
    cores = allowed["_cores"].value if "_cores" in allowed else None
    there = allowed["gpu"].value if "gpu" in allowed else gpus
    return max(1, min(16 * gpus, (cores or 16) * gpus // max(gpus, there or 1)))


SYNTHROOMS = config["datasets"]["synthrooms"]["root"]

_digest = CodeDigest(ROOT)
# What a scene's page is made from, beside code.
PAGE_TEMPLATE = hashlib.sha256(
    (ROOT / "gnesf_core/viz/scene_page.html").read_bytes()
).hexdigest()[:16]

# Stages find their packages from any --directory, and none there: what lies among data is
# never run. Parallel jobs do not crowd the cores: each gets the threads that its rule
# asked for.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(ROOT))} PYTHONNOUSERSITE=1"
    " PYTHONSAFEPATH=1; "
)


# A name is a plain word: it cannot climb out of a folder or speak to a shell.
wildcard_constraints:
    # No other: what another data set has taught is used, never made anew.
    dataset=re.escape(DATASET),
    scene=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    prior=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    geometry=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    field=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    method=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    renderer=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    recipe=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    fold=r"|/fold[0-9]",
    alone=r"|/[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    table="|".join(config["tables"]),
    split=r"train|val|test",
    kind=r"priors|geometry|fields|methods",


def code(stage):
    """Digest what a rule's stage really runs, as one parameter per source file.

    Snakemake names the parameters that changed: so it names the edited file.
    """
    return module_code(f"stages.{stage}")


@functools.cache
def module_code(module):
    return [f"{file} {digest}" for file, digest in _digest.of(module).items()]


def settings(section):
    """Hand one section of the config to a stage, which sees nothing else of it."""
    return json.dumps(config[section], sort_keys=True)


def room_settings(wildcards):
    """Hand a room its settings; how many others there are is none of its business."""
    values = dict(config["synthrooms"])
    frames_train = values.pop("frames_train")
    if wildcards.scene in SPLITS["train"]:
        values["frames"] = frames_train
    counts = ("scenes_train", "scenes_val", "scenes_test")
    return json.dumps({k: v for k, v in values.items() if k not in counts})


def count_settings():
    values = config["synthrooms"].items()
    return json.dumps({k: v for k, v in values if k.startswith("scenes_")})


def results(pattern, **names):
    """Name result files of the chosen data set."""
    return expand(f"results/{DATASET}/{pattern}", **names)


def raw(wildcards, suffix):
    """Name a file of a ScanNet-format scan; test scans live in their own folder."""
    dataset = config["datasets"][wildcards.dataset]
    scans = dataset.get("scans_test", "scans")
    folder = "scans" if wildcards.scene in LABELLED else scans
    return f"{dataset['root']}/{folder}/{wildcards.scene}/{wildcards.scene}{suffix}"


def raw_scan(wildcards):
    """Name the file by which a scan is opened."""
    dataset = config["datasets"][wildcards.dataset]
    if dataset["format"] == "replica":
        return f"{dataset['root']}/{wildcards.scene}/traj_w_c.txt"
    if dataset["format"] == "capture":
        return capture_file(Path(dataset["root"]) / wildcards.scene)
    return raw(wildcards, ".sens")


check_each_group_once(DAG)


@functools.cache
def chunk_of_scene():
    """Deal the scenes of each split into jobs of about equal length, by their files' sizes.

    These grow with the number of frames that were kept, or of raw ones.
    """
    for name in (lambda scene: f"results/{DATASET}/frames/{scene}.h5", raw_scan_of):
        try:
            sizes = {scene: os.stat(name(scene)).st_size for scene in SCENES}
        except (OSError, ValueError):  # not there yet, for some scenes
            continue
        break
    else:
        sizes = dict.fromkeys(SCENES, 1)
    return {
        scene: f"{split}{number:03d}"
        for split, scenes in SPLITS.items()
        for scene, number in deal_out(
            {scene: sizes[scene] for scene in scenes}, config["chunks"]["scenes"]
        ).items()
    }


def raw_scan_of(scene):
    return raw_scan(SimpleNamespace(dataset=DATASET, scene=scene))


def chunk(rule):
    """Name the cluster job that does a rule's work on a scene, and on others' of a chunk."""

    def group(wildcards):
        # Only a profile that packs chunks pays for them: the plan of a run without has to
        # follow no groups, and there are thousands of jobs.
        packed = "chunk" in workflow.group_settings.group_components
        if not packed or config["chunks"]["scenes"] == 1:
            return None
        apart = ("dataset", "scene")
        recipe = [value for key, value in wildcards.items() if key not in apart]
        name = "-".join([rule, *recipe, chunk_of_scene()[wildcards.scene]])
        # Jobs of one name are submitted as one: `group-components` has `chunk` for all
        # the names that are noted here.
        workflow.parent_groupids[name] = "chunk"
        return name

    return group


def growing(amount):
    """Ask for so much, and for so much more with each attempt after one that failed."""
    return lambda wildcards, attempt: amount * attempt


def capture_options(wildcards):
    """Hand a capture what is known of its world: in general, and of this one."""
    dataset = config["datasets"][wildcards.dataset]
    if dataset["format"] != "capture":
        return ""
    own = dataset.get("captures", {}).get(wildcards.scene, {})
    known = json.dumps(dataset["capture"] | own, sort_keys=True)
    return shlex.join(["--capture", known])


def intrinsics_option(wildcards):
    """Let Replica be read with the wrong intrinsics of published systems, if asked."""
    released = config["datasets"][wildcards.dataset].get("released_intrinsics")
    return shlex.join(["--intrinsics", "released"]) if released else ""


def raw_labels(wildcards):
    """Name the files that 2D labels are read from; none for scenes without labels."""
    dataset = config["datasets"][wildcards.dataset]
    if dataset["format"] == "replica" and "label_map" in dataset:
        return {"label_map": dataset["label_map"]}
    if wildcards.scene not in LABELLED or "label_map" not in dataset:
        return {}
    return {
        "labels": raw(wildcards, "_2d-label-filt.zip"),
        "label_map": dataset["label_map"],
    }


def label_options(wildcards, input):
    """Turn the label files into options of a stage."""
    if "label_map" not in input.keys():
        return ""
    accepted = config["datasets"][wildcards.dataset].get("label_map_sha256", [])
    words = ["--labels", input.get("labels", input.scan)]
    words += ["--label-map", input.label_map]
    words += ["--label-map-sha256", *accepted] if accepted else []
    return shlex.join(words)


def raw_mesh(wildcards):
    return raw(wildcards, "_vh_clean_2.ply")


def raw_mesh_labels(wildcards):
    return raw(wildcards, "_vh_clean_2.labels.ply")


def scan_format(wildcards):
    return config["datasets"][wildcards.dataset]["format"]


class Recipes:
    """The recipes of one section of the config, as rules ask for them."""

    def __init__(self, section, wildcard, folder, package=""):
        self.section, self.wildcard, self.folder = section, wildcard, folder
        self.package = package or section

    def __call__(self, wildcards):
        name = getattr(wildcards, self.wildcard)
        check_name("the file asked for", name, self.section)
        return config[self.section][name]

    def module(self, wildcards):
        return self(wildcards)["module"]

    def part(self, name):
        """Hand one part of a recipe to a stage."""
        return lambda wildcards: json.dumps(self(wildcards)[name], sort_keys=True)

    def code(self, wildcards):
        """Digest the module that a recipe names: editing one reruns no other."""
        return module_code(f"gnesf_core.{self.package}.{self.module(wildcards)}")

    def gpus(self, wildcards):
        """Count the GPUs that train a recipe's network."""
        return self(wildcards).get("gpus", 1) if GPUS else 0

    def folded_code(self, stage):
        """Fold all code that runs a recipe: what other code began is not resumed."""

        def fold(wildcards):
            text = "\n".join([*code(stage), *self.code(wildcards)])
            return hashlib.sha256(text.encode()).hexdigest()[:16]

        return fold

    def learned_by(self, name):
        """Name the recipe whose training a recipe uses: its own, or another's."""
        seen = [name]
        while other := config[self.section][name].get("trained_as"):
            name = other
            if name in seen or not learns(config[self.section][name]):
                raise WorkflowError(
                    f"config: {self.section}: {seen[0]}: trained_as: expected a recipe "
                    f"that learns, found {' -> '.join([*seen, name])}; remedy: name "
                    "another"
                )
            seen.append(name)
        return name

    def weights(self, wildcards):
        """Name the weights of a recipe's network; none for recipes without one."""
        recipe = self(wildcards)
        if not learns(recipe):
            return []
        name = getattr(wildcards, self.wildcard)
        if "weights" not in recipe:
            name = self.learned_by(name)
            recipe = config[self.section][name]
        if "weights" in recipe:
            return self.given(name, recipe["weights"])
        if not SPLITS["train"]:
            raise WorkflowError(
                f"config: {self.section}: {name}: expected scenes to train on, found "
                f"none in {DATASET}; remedy: give the recipe `weights`"
            )
        return f"results/{wildcards.dataset}/{self.folder}/{name}/model.safetensors"

    def given(self, name, path):
        """Return the path of weights that a user has, or that were learned elsewhere."""
        if not path.startswith(f"results/{DATASET}/") and not Path(path).exists():
            elsewhere = re.match(r"results/([^/]+)/", path)
            remedy = "put it there, or correct the recipe"
            if elsewhere:
                first = "make demo" if elsewhere[1] == "synthrooms" else "train there"
                remedy = f"{first} first, or name others"
            raise WorkflowError(
                f"config: {self.section}: {name}: weights: expected a file, found no "
                f"{path}; remedy: {remedy}"
            )
        return path

    def trained(self, names):
        """Name the recipes of these that are trained here, if there is what to learn."""
        if not SPLITS["train"]:
            return []
        learned = [
            self.learned_by(name)
            for name in names
            if learns(config[self.section][name])
            and "weights" not in config[self.section][name]
        ]
        return [
            name
            for name in dict.fromkeys(learned)
            if "weights" not in config[self.section][name]
        ]


def one_of(names):
    """Constrain a wildcard to names; to nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def fitted(name):
    """Tell whether a method is fitted to each scene by itself."""
    return config["methods"][name]["per_scene"]


def learns(recipe):
    """Tell whether a recipe has a network that learns, or has learned."""
    votes_by_rule = recipe["settings"].get("vote") in ("mean", "nearest")
    return not votes_by_rule and ("training" in recipe or "weights" in recipe)


prior = Recipes("priors", "prior", "priors")
geometry = Recipes("geometries", "geometry", "geometry")
field = Recipes("fields", "field", "fields")
method = Recipes("methods", "method", "methods", package="views")
for section, names in (
    ("geometries", geometry.trained(config["geometries"])),
    ("fields", field.trained(config["fields"])),
    ("methods", [name for name in method.trained(METHODS) if not fitted(name)]),
):
    for name in names:
        data = config[section][name]["data"]
        held_out, scenes = data["held_out_scenes"], len(SPLITS["train"])
        scenes = min(data.get("scenes") or scenes, scenes)
        if held_out >= scenes:
            raise WorkflowError(
                f"config: {section}: {name}: data: held_out_scenes: expected fewer than "
                f"the {scenes} training scenes, found {held_out}; remedy: hold fewer "
                "out, or train on more"
            )


# Tables and pictures of the priors on the frames that they are judged by.
PRIOR_RESULTS = (
    results("tables/priors_{split}.{kind}", split=PRIOR_SPLITS, kind=["md", "html"])
    + results(
        "figures/priors/{prior}/{scene}.jpg",
        prior=PRIORS,
        scene=PICTURED if PRIOR_SPLITS else [],
    )
    + results("figures/priors/{prior}/training.svg", prior=prior.trained(PRIORS))
)
# Tables and pictures of the geometries on the scenes that they are judged by.
GEOMETRY_RESULTS = (
    results(
        "tables/geometries_{split}.{kind}", split=SCORED_SPLITS, kind=["md", "html"]
    )
    + results("figures/geometry/{scene}.jpg", scene=PICTURED if SCORED_SPLITS else [])
    + results(
        "figures/geometry/{geometry}/training.svg",
        geometry=geometry.trained(GEOMETRIES),
    )
)
# The first field that has learned, or simply the first, is what one looks around in.
PAGED = ([name for name in HEADLINE if learns(config["fields"][name])] + HEADLINE)[:1]
# Tables and pictures of the headline's fields; how its first learned one votes.
FIELD_RESULTS = (
    results("fields/{field}/{scene}.ply", field=HEADLINE, scene=SHOWN)
    + results("tables/{split}.{kind}", split=SCORED_SPLITS, kind=["md", "html"])
    + results("figures/{split}_classes.svg", split=SCORED_SPLITS)
    + results("tables/{split}_scenes.html", split=SCORED_SPLITS)
    + results("figures/scenes/{scene}.jpg", scene=PICTURED if SCORED_SPLITS else [])
    + results("figures/fields/{field}/training.svg", field=field.trained(HEADLINE))
    + results(
        "figures/fields/{field}/{scene}.jpg",
        field=[name for name in PAGED if learns(config["fields"][name])],
        scene=PICTURED if SCORED_SPLITS else [],
    )
    + results("fields/{field}/{scene}.html", field=PAGED, scene=PICTURED)
)
# Novel views of the judged scenes: scores, pictures, and a film of a flight through one.
SHOWN_METHODS = [name for name in HEADLINE_VIEWS if name in METHODS]
VIEW_RESULTS = []
if HEADLINE_VIEWS and SCORED_SPLITS:
    VIEW_RESULTS = (
        results("tables/views_{split}.{kind}", split=SCORED_SPLITS, kind=["md", "html"])
        + results(
            "figures/methods/{method}/training.svg",
            method=method.trained(SHOWN_METHODS),
        )
        + results(
            "figures/flights/{method}/{scene}.webp",
            method=SHOWN_METHODS[:1],
            scene=PICTURED[:1],
        )
    )
