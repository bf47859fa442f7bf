import functools
import hashlib
import json
import os
import re
import shlex
import sys

from snakemake.utils import validate

ROOT = Path(workflow.current_basedir).parent.parent
sys.path.insert(0, str(ROOT / "workflow"))

from code_digest import CodeDigest
from recipes import resolve
from scenes import read_splits

for section in ("priors", "fields"):
    try:
        config[section] = resolve(section, config.get(section) or {})
    except ValueError as error:
        raise WorkflowError(str(error)) from None
validate(config, str(ROOT / "workflow" / "schemas" / "config.schema.yaml"))

DATASET = config["dataset"]
if DATASET not in config["datasets"]:
    raise WorkflowError(
        f"config: dataset: expected one of {sorted(config['datasets'])}, "
        f"found {DATASET!r}; remedy: describe it under `datasets`"
    )
SPLITS = read_splits(DATASET, config)
SCENES = [scene for scenes in SPLITS.values() for scene in scenes]
# Scenes whose labels may be read; those of the test split carry none.
LABELLED = set(SPLITS["train"]) | set(SPLITS["val"])
FORMAT = config["datasets"][DATASET]["format"]
LABEL_MAP = config["datasets"][DATASET].get("label_map")
# Only ScanNet's format comes with meshes to score and a benchmark to submit to.
SCORED_SPLITS = ["val"] if SPLITS["val"] and FORMAT == "scannet" else []
SUBMITTED_SPLITS = ["test"] if SPLITS["test"] and FORMAT == "scannet" else []
# Splits whose frames come with labels to judge a prior by.
PRIOR_SPLITS = ["val"] if SPLITS["val"] and LABEL_MAP else []
PRIORS = list(config["priors"])
FIELDS = list(config["fields"])
for field, recipe in config["fields"].items():
    if recipe["prior"] not in PRIORS:
        raise WorkflowError(
            f"config: fields: {field}: prior: expected one of {PRIORS}, "
            f"found {recipe['prior']!r}; remedy: describe it under `priors`"
        )
DEVICE = config["device"]
# GPUs of a job that runs a network.
GPUS = 1 if DEVICE == "cuda" else 0
RESULTS = "results/{dataset}"
SYNTHROOMS = config["datasets"]["synthrooms"]["root"]

_digest = CodeDigest(ROOT)

# Stages find their packages from any --directory, and parallel jobs do not crowd the
# cores: each gets the threads that its rule asked for.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(ROOT))} PYTHONNOUSERSITE=1; "
)


# A name is a plain word: it cannot climb out of a folder or speak to a shell.
wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    scene=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    prior=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    field=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    split=r"train|val|test",


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
    return raw(wildcards, ".sens")


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


def prior_recipe(wildcards):
    return config["priors"][wildcards.prior]


def prior_module(wildcards):
    return prior_recipe(wildcards)["module"]


def prior_section(name):
    """Hand one section of a prior's recipe to a stage."""
    return lambda wildcards: json.dumps(prior_recipe(wildcards)[name], sort_keys=True)


def prior_code(wildcards):
    """Digest the module that a prior's recipe names: editing one reruns no other."""
    return module_code(f"gnesf_core.priors.{prior_module(wildcards)}")


def training_settings(wildcards):
    """Hand training a network's settings; what only caching reads stays constant."""
    only_for_caching = {"batch": 1, "logits": False}
    return json.dumps(prior_recipe(wildcards)["settings"] | only_for_caching)


def folded_code(stage):
    """Fold all code of a stage that runs a prior: what other code began is not resumed."""

    def fold(wildcards):
        text = "\n".join([*code(stage), *prior_code(wildcards)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    return fold


def prior_start(wildcards):
    """Name the files that training starts from, if it does not start from nothing."""
    chosen = prior_recipe(wildcards)["settings"]
    files = [chosen["start_from"]] if chosen["start_from"] else []
    if chosen["model"] and prior_module(wildcards) == "mask2former_transformers":
        files.append(chosen["model"])
    return files


def prior_weights(wildcards):
    """Name the weights of a prior's network; none for priors without one."""
    recipe = prior_recipe(wildcards)
    if "weights" in recipe:
        return recipe["weights"]
    if "training" in recipe and not SPLITS["train"]:
        raise WorkflowError(
            f"config: priors: {wildcards.prior}: expected scenes to train on, found "
            f"none in {DATASET}; remedy: give the recipe `weights`"
        )
    if "training" in recipe:
        return f"results/{wildcards.dataset}/priors/{wildcards.prior}/model.safetensors"
    return []


def prior_files(wildcards):
    """Name a user's own files that a prior is made of."""
    recipe = prior_recipe(wildcards)
    if recipe["module"] != "folder":
        return []
    chosen = recipe["settings"]
    pattern = re.sub(r"{index[^}]*}", "*", chosen["pattern"])
    pattern = re.sub(r"{scene[^}]*}", wildcards.scene, pattern)
    maps = sorted(str(path) for path in Path(chosen["root"]).glob(pattern))
    return maps + ([chosen["ids"]] if chosen["ids"] else [])


def weights_option(wildcards, input):
    return shlex.join(["--weights", input.weights]) if input.weights else ""


def prior_maps(wildcards):
    prior = config["fields"][wildcards.field]["prior"]
    return f"results/{wildcards.dataset}/priors/{prior}/{wildcards.scene}.h5"


def prior_scores(wildcards):
    """Name what a split's priors scored, and what they cost, in the config's order."""
    return {
        kind: expand(
            "results/{dataset}/priors/{prior}/{scene}{suffix}",
            dataset=wildcards.dataset,
            prior=PRIORS,
            scene=SPLITS[wildcards.split],
            suffix=suffix,
        )
        for kind, suffix in (("scores", ".json"), ("costs", ".cost.json"))
    }


def field_module(wildcards):
    return config["fields"][wildcards.field]["module"]


def field_settings(wildcards):
    return json.dumps(config["fields"][wildcards.field]["settings"], sort_keys=True)


def field_code(wildcards):
    return module_code(f"gnesf_core.fields.{field_module(wildcards)}")


def submission_texts(wildcards):
    return expand(
        "results/{dataset}/fields/{field}/submission/{scene}.txt",
        dataset=wildcards.dataset,
        field=wildcards.field,
        scene=SPLITS[wildcards.split],
    )


def split_scores(wildcards):
    return expand(
        "results/{dataset}/fields/{field}/{scene}.json",
        dataset=wildcards.dataset,
        field=FIELDS,
        scene=SPLITS[wildcards.split],
    )


# Tables and pictures of the priors on the frames that they are judged by.
PRIOR_RESULTS = (
    results("tables/priors_{split}.{kind}", split=PRIOR_SPLITS, kind=["md", "html"])
    + results(
        "figures/priors/{prior}/{scene}.png",
        prior=PRIORS,
        scene=SPLITS["val"] if PRIOR_SPLITS else [],
    )
    + results(
        "figures/priors/{prior}/training.svg",
        prior=[
            name
            for name, recipe in config["priors"].items()
            if "training" in recipe and "weights" not in recipe
        ],
    )
)
