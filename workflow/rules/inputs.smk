# What the rules about recipes are given, by their wildcards.


def prior_training_settings(wildcards):
    """Hand training a network's settings; what only caching reads stays constant."""
    only_for_caching = {"batch": 1, "logits": False}
    return json.dumps(prior(wildcards)["settings"] | only_for_caching)


def prior_start(wildcards):
    """Name the files that training starts from, if it does not start from nothing."""
    chosen = prior(wildcards)["settings"]
    files = [chosen["start_from"]] if chosen["start_from"] else []
    if chosen["model"] and prior.module(wildcards) == "mask2former_transformers":
        files.append(chosen["model"])
    return files


def prior_files(wildcards):
    """Name a user's own files that a prior is made of."""
    recipe = prior(wildcards)
    if recipe["module"] != "folder":
        return []
    chosen = recipe["settings"]
    pattern = re.sub(r"{index[^}]*}", "*", chosen["pattern"])
    pattern = re.sub(r"{scene[^}]*}", wildcards.scene, pattern)
    maps = sorted(str(path) for path in Path(chosen["root"]).glob(pattern))
    return maps + ([chosen["ids"]] if chosen["ids"] else [])


def fold_of(wildcards):
    """Tell which fold of a prior's segmenters has not seen a training scene."""
    folds = prior(wildcards).get("folds")
    if folds is None:
        return None
    if wildcards.scene not in SPLITS["train"]:
        raise WorkflowError(
            f"config: priors: {wildcards.prior}: expected a training scene, found "
            f"{wildcards.scene}; remedy: a prior with folds is for training alone"
        )
    return folds * SPLITS["train"].index(wildcards.scene) // len(SPLITS["train"])


def prior_training_scenes(wildcards):
    """Name the scenes that a segmenter learns from: all, or those of other folds."""
    scenes = SPLITS["train"]
    if wildcards.fold:
        fold, folds = int(wildcards.fold[-1]), prior(wildcards)["folds"]
        count = len(scenes)
        if count < folds:
            raise WorkflowError(
                f"config: priors: {wildcards.prior}: folds: expected at most the {count} "
                f"training scenes, found {folds}; remedy: train on more, or lower it"
            )
        scenes = [s for place, s in enumerate(scenes) if folds * place // count != fold]
    return expand(
        "results/{dataset}/frames/{scene}.h5", dataset=wildcards.dataset, scene=scenes
    )


def prior_weights(wildcards):
    """Name the weights that a scene's maps are made by."""
    fold = fold_of(wildcards)
    if fold is None:
        return prior.weights(wildcards)
    if "weights" in prior(wildcards):
        raise WorkflowError(
            f"config: priors: {wildcards.prior}: weights: expected none, as a prior with "
            "folds is trained on parts of the scenes; remedy: describe its training"
        )
    folder = f"results/{wildcards.dataset}/priors/{wildcards.prior}/fold{fold}"
    return f"{folder}/model.safetensors"


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


def geometry_training_inputs(wildcards):
    """Name what a geometry learns from, scene by scene."""
    data = geometry(wildcards)["data"]
    return {
        role: expand(
            "results/{dataset}/{role}/{scene}.h5",
            dataset=wildcards.dataset,
            role=role,
            scene=evenly_spread(SPLITS["train"], data["scenes"]),
        )
        for role in ("frames", "targets")
    }


def geometry_start(wildcards):
    """Name the file that the picture encoder starts from, if it is not random."""
    return geometry(wildcards)["settings"]["encoder_weights"] or []


def geometry_targets(wildcards):
    """Name the fused depth, for the one geometry that is made of it."""
    if geometry.module(wildcards) != "fused_depth":
        return []
    return f"results/{wildcards.dataset}/targets/{wildcards.scene}.h5"


def targets_option(wildcards, input):
    return shlex.join(["--targets", input.targets]) if input.targets else ""


def geometry_scores(wildcards):
    return expand(
        "results/{dataset}/geometry/{geometry}/{scene}.json",
        dataset=wildcards.dataset,
        geometry=GEOMETRIES,
        scene=SPLITS[wildcards.split],
    )


def field_inputs(wildcards):
    """Name the maps and the geometry that a field's recipe builds on."""
    recipe, where = field(wildcards), f"results/{wildcards.dataset}"
    if recipe["settings"].get("payload") == "logits":
        for name in {recipe["prior"], recipe.get("training_prior", recipe["prior"])}:
            if not config["priors"][name]["settings"].get("logits"):
                raise WorkflowError(
                    f"config: priors: {name}: settings: logits: expected true, as "
                    f"{wildcards.field} votes with logits, found false; remedy: set it"
                )
    inputs = {
        "prior": f"{where}/priors/{recipe['prior']}/{wildcards.scene}.h5",
        "volume": f"{where}/geometry/{recipe['geometry']}/{wildcards.scene}.h5",
        "weights": field.weights(wildcards),
        "features": [],
    }
    if inputs["weights"]:
        features = f"{where}/geometry/{recipe['features']}/{wildcards.scene}.h5"
        inputs["features"] = features
    return inputs


def field_options(wildcards, input):
    """Turn what only learned fields have into options of a stage."""
    words = ["--encoder", field_encoder(wildcards)] if field_encoder(wildcards) else []
    words += ["--features", input.features] if input.features else []
    words += ["--weights", input.weights] if input.weights else []
    return shlex.join(words)


def field_encoder(wildcards):
    """Hand a field the recipe of the network that looks at its pictures."""
    recipe = field(wildcards)
    if "features" not in recipe:
        return ""
    settings = config["geometries"][recipe["features"]]["settings"]
    return json.dumps(settings, sort_keys=True)


def field_training_inputs(wildcards):
    """Name what a field learns from, scene by scene, and what it starts with."""
    recipe, where = field(wildcards), f"results/{wildcards.dataset}"
    scenes = evenly_spread(SPLITS["train"], recipe["data"]["scenes"])
    folders = {
        "frames": f"{where}/frames",
        "priors": f"{where}/priors/{recipe['training_prior']}",
        "surfaces": f"{where}/geometry/{recipe['training_geometry']}",
        "features": f"{where}/geometry/{recipe['features']}",
    }
    files = {
        role: expand(f"{folder}/{{scene}}.h5", scene=scenes)
        for role, folder in folders.items()
    }
    features = config["geometries"][recipe["features"]]
    own = f"{where}/geometry/{recipe['features']}/model.safetensors"
    return files | {"start": features.get("weights", own)}


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
        field=HEADLINE,
        scene=SPLITS[wildcards.split],
    )


def votes_alike(fields):
    """Name the fields whose views count alike: they show what the prior alone gives."""
    return [
        name
        for name in fields
        if config["fields"][name]["settings"].get("vote") == "mean"
    ]


def view_scores(wildcards):
    """Name the 2D scores of the headline's fields that can be rendered."""
    return expand(
        "results/{dataset}/fields/{field}/views/{scene}.json",
        dataset=wildcards.dataset,
        field=[name for name in HEADLINE if "features" in config["fields"][name]],
        scene=SPLITS[wildcards.split],
    )


def paper_table_scores(wildcards):
    """Name what a table of the paper is filled with; some are about novel views."""
    names = {
        "dataset": wildcards.dataset,
        "field": list(config["tables"][wildcards.table]),
        "scene": SPLITS[wildcards.split],
    }
    about_views = wildcards.table in ("views", "scenes")
    in_2d = "results/{dataset}/fields/{field}/views/{scene}.json"
    return {
        "scores": expand("results/{dataset}/fields/{field}/{scene}.json", **names),
        "views": expand(in_2d, **names) if about_views else [],
    }


def scene_truth(wildcards):
    """Name the labelled mesh of a scene that has one."""
    if FORMAT != "scannet" or wildcards.scene not in LABELLED:
        return {}
    return {"truth": raw_mesh_labels(wildcards)}


def truth_option(wildcards, input):
    return shlex.join(["--truth", input.truth]) if "truth" in input.keys() else ""


def weights_option(wildcards, input):
    return shlex.join(["--weights", input.weights]) if input.weights else ""


def comparable_option(wildcards):
    """Say as which data set the paper knows this one, if it does."""
    name = config["datasets"][wildcards.dataset].get("paper_name")
    return shlex.join(["--comparable", name]) if name else ""
