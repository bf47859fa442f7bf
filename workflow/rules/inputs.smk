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
    if "weights" in features:
        own = geometry.given(recipe["features"], features["weights"])
    return files | {"start": own}


def start_option(wildcards, input):
    return shlex.join(["--start", input.start]) if input.start else ""


def judged_option(wildcards):
    """Keep what is judged out of what a method learns from, or is fitted to."""
    words = ["--judged-by", config["novel_views"]["protocol"]]
    return shlex.join(
        words + (["--fitted-to", wildcards.alone[1:]] * bool(wildcards.alone))
    )


def view_training_inputs(wildcards):
    """Name what a method learns from: scenes, and another's weights if it goes on."""
    recipe, where = method(wildcards), f"results/{wildcards.dataset}"
    if recipe["per_scene"] != bool(wildcards.alone):
        wanted = "scenes, one by one" if recipe["per_scene"] else "the training split"
        raise WorkflowError(
            f"config: methods: {wildcards.method}: per_scene: expected weights of "
            f"{wanted}, found others asked for; remedy: ask for those, or change it"
        )
    scenes = [wildcards.alone[1:]] if wildcards.alone else SPLITS["train"]
    if not wildcards.alone:
        scenes = evenly_spread(scenes, recipe["data"]["scenes"])
    maps = f"{where}/priors/{recipe['prior']}/{{scene}}.h5"
    start = SimpleNamespace(dataset=wildcards.dataset, method=recipe["start"])
    return {
        "frames": expand(f"{where}/frames/{{scene}}.h5", scene=scenes),
        "priors": expand(maps, scene=scenes) if recipe["prior"] else [],
        "start": method.weights(start) if recipe["start"] else [],
    }


def view_inputs(wildcards):
    """Name what a method renders a scene from, beside its frames."""
    recipe, where = method(wildcards), f"results/{wildcards.dataset}"
    weights = method.weights(wildcards)
    if recipe["per_scene"]:
        learner = method.learned_by(wildcards.method)
        weights = f"{where}/methods/{learner}/{wildcards.scene}/model.safetensors"
    segmenter = SimpleNamespace(**dict(wildcards), prior=recipe.get("segmenter"))
    maps = f"{where}/priors/{recipe['prior']}/{wildcards.scene}.h5"
    return {
        "weights": weights,
        "prior": maps if recipe["prior"] else [],
        "segmenter": prior.weights(segmenter) if recipe.get("segmenter") else [],
    }


def rendered_views(wildcards):
    """Name the views that are scored; nothing else renders."""
    known = [*RENDERING_FIELDS, *METHODS]
    if wildcards.renderer not in known:
        raise WorkflowError(
            f"config: the file asked for: expected one of {known}, found "
            f"{wildcards.renderer!r}; remedy: describe it under `methods` or `fields`"
        )
    return (
        f"results/{wildcards.dataset}/views/{wildcards.renderer}/{wildcards.scene}.h5"
    )


def view_options(wildcards, input):
    """Turn what only some methods have into options of a stage."""
    recipe = method(wildcards)
    words = ["--prior", input.prior] if input.prior else []
    if recipe.get("segmenter"):
        chosen = config["priors"][recipe["segmenter"]]
        words += ["--segmenter", chosen["module"]]
        words += ["--segmenter-recipe", json.dumps(chosen["settings"], sort_keys=True)]
        words += ["--segmenter-weights", input.segmenter]
    return shlex.join(words)


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
    """Name the 2D scores of what renders the novel views that are shown."""
    return expand(
        "results/{dataset}/views/{renderer}/{scene}.json",
        dataset=wildcards.dataset,
        renderer=HEADLINE_VIEWS,
        scene=SPLITS[wildcards.split],
    )


def paper_table_inputs(wildcards):
    """Name what a table of the paper is filled with; some are about novel views."""
    rows = table_rows(wildcards.table, wildcards.split)
    scenes = table_scenes(wildcards)
    in_3d, in_2d = (
        f"results/{wildcards.dataset}/{where}"
        for where in ("fields/{name}/{scene}.json", "views/{name}/{scene}.json")
    )
    only_2d = wildcards.table in VIEW_TABLES and wildcards.table not in FIELD_TABLES
    return {
        "scores": [] if only_2d else expand(in_3d, name=rows, scene=scenes),
        "views": (
            expand(in_2d, name=rows, scene=scenes)
            if wildcards.table in VIEW_TABLES
            else []
        ),
        "costs": [
            file
            for own in paper_table_costs(wildcards).values()
            for pattern in own.values()
            for file in dict.fromkeys(expand(pattern, scene=scenes))
        ],
    }


def table_rows(table, split):
    """Give each field or method its row in a table.

    A scene whose true labels were learned is not a novel one: its views are shown among
    those of training scenes alone. A field that learns has learned from all kept frames
    of those, the judged ones too, and is not shown there.
    """

    def is_fair(name):
        if split == "train":
            return name in METHODS or not learns(config["fields"][name])
        return not (name in METHODS and learns_true_labels(name))

    return {n: label for n, label in config["tables"][table].items() if is_fair(n)}


def learns_true_labels(name):
    """Tell whether a method is fitted to the true labels of each scene."""
    learner = config["methods"][method.learned_by(name)]
    return fitted(name) and learner["data"]["labels"] == "truth"


def table_scenes(wildcards):
    """Name the scenes of a table: of training scenes some that all its rows have seen."""
    scenes = SPLITS[wildcards.split]
    if wildcards.table == "supplement4":  # as many as the paper drew
        scenes = evenly_spread(scenes, 20)
    if wildcards.table not in VIEW_TABLES or wildcards.split != "train":
        return scenes
    seen = [set(seen_in_training(name)) for name in config["tables"][wildcards.table]]
    common = [scene for scene in scenes if all(scene in own for own in seen)]
    if not common:
        raise WorkflowError(
            f"config: tables: {wildcards.table}: expected rows that have learned from "
            "some of the same training scenes, found none; remedy: train them on odd "
            "multiples of each other's number of scenes, which have them in common"
        )
    return evenly_spread(common, config["novel_views"]["training_scenes"])


def seen_in_training(name):
    """Name the training scenes that a row has learned from, or can be fitted to."""
    recipes = method if name in METHODS else field
    recipe = config[recipes.section][name]
    if not learns(recipe) or recipe.get("per_scene"):
        return SPLITS["train"]
    learner = config[recipes.section][recipes.learned_by(name)]
    if "weights" in recipe or "weights" in learner:  # which do not say
        return SPLITS["train"]
    data = learner["data"]
    scenes = evenly_spread(SPLITS["train"], data["scenes"])
    only_chosen_by = data["held_out_scenes"]
    held_out = evenly_spread(scenes, only_chosen_by) if only_chosen_by else []
    return [scene for scene in scenes if scene not in held_out]


def paper_table_costs(wildcards):
    """Name where Snakemake has noted what methods took, for the table about time."""
    if wildcards.table != "supplement4":
        return {}
    where, costs = f"results/{wildcards.dataset}/benchmarks", {}
    for name in table_rows(wildcards.table, wildcards.split):
        if name not in METHODS:
            continue
        learner, alone = method.learned_by(name), fitted(name)
        trained = not alone and "weights" not in config["methods"][learner]
        costs[name] = {"rendering": f"{where}/render_views/{name}/{{scene}}.tsv"}
        if trained:
            costs[name]["training"] = f"{where}/train_views/{learner}.tsv"
        if alone:
            costs[name]["fitting"] = f"{where}/train_views/{learner}/{{scene}}.tsv"
    return costs


def cost_option(wildcards):
    costs = paper_table_costs(wildcards)
    return shlex.join(["--costs", json.dumps(costs)]) if costs else ""


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


# The user's own files that pictures are compared by, if there are any.
LPIPS_FILES = [
    config["image_quality"][name]
    for name in ("vgg", "linear")
    if config["image_quality"][name]
]
