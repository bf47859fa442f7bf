# Where surfaces are: learned once from the training split, then every scene's volume is
# made once, and everything after reads it from one file per scene.


rule train_sdf:
    input:
        unpack(geometry_training_inputs),
        start=geometry_start,
    output:
        weights="results/{dataset}/geometry/{geometry}/model.safetensors",
        last="results/{dataset}/geometry/{geometry}/last.safetensors",
        metrics="results/{dataset}/geometry/{geometry}/metrics.jsonl",
    log:
        "results/{dataset}/logs/train_sdf/{geometry}.log",
    benchmark:
        "results/{dataset}/benchmarks/train_sdf/{geometry}.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    # On a CPU its many small operations gain nothing from more.
    threads: lambda wildcards: network_threads(geometry.gpus(wildcards))
    resources:
        gpu=geometry.gpus,
        # Not a parameter: moving to a GPU is no reason to train again.
        device=DEVICE,
        mem_mb=64000 if GPUS else 8000,
        runtime=2880,
    params:
        *code("train_sdf"),
        geometry=geometry.code,
        module=geometry.module,
        recipe=geometry.part("settings"),
        data=geometry.part("data"),
        training=geometry.part("training"),
        version=geometry.folded_code("train_sdf"),
    message:
        "Training the geometry {wildcards.geometry}"
    shell:
        "python -m stages.launch {resources.gpu:q} train_sdf --frames {input.frames:q}"
        " --targets {input.targets:q} --out {output.weights:q} --last {output.last:q}"
        " --metrics {output.metrics:q} --module {params.module:q}"
        " --recipe {params.recipe:q} --data {params.data:q}"
        " --training {params.training:q} --device {resources.device:q}"
        " --code {params.version:q} > {log:q} 2>&1"


rule fuse_features:
    input:
        frames="results/{dataset}/frames/{scene}.h5",
        targets=geometry_targets,
        weights=geometry.weights,
    output:
        "results/{dataset}/geometry/{geometry}/{scene}.h5",
    log:
        "results/{dataset}/logs/fuse_features/{geometry}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/fuse_features/{geometry}/{scene}.tsv"
    group:
        chunk("fuse_features")
    conda:
        "../../environment.yml"
    resources:
        gpu=lambda wildcards, input: GPUS if input.weights else 0,
        device=lambda wildcards, input: DEVICE if input.weights else "cpu",
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(4 if GPUS else 60),
    params:
        *code("fuse_features"),
        geometry=geometry.code,
        module=geometry.module,
        recipe=geometry.part("settings"),
        targets=targets_option,
        weights=weights_option,
    message:
        "Making the volume {wildcards.geometry} of {wildcards.scene}"
    shell:
        "python -m stages.fuse_features --frames {input.frames:q} --out {output:q}"
        " --module {params.module:q} --recipe {params.recipe:q} {params.targets}"
        " {params.weights} --device {resources.device:q} > {log:q} 2>&1"


rule evaluate_geometry:
    input:
        volume="results/{dataset}/geometry/{geometry}/{scene}.h5",
        frames="results/{dataset}/frames/{scene}.h5",
        targets="results/{dataset}/targets/{scene}.h5",
        truth=raw_mesh_labels,
    output:
        "results/{dataset}/geometry/{geometry}/{scene}.json",
    log:
        "results/{dataset}/logs/evaluate_geometry/{geometry}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/evaluate_geometry/{geometry}/{scene}.tsv"
    group:
        chunk("evaluate_geometry")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(4),
    params:
        *code("evaluate_geometry"),
        config=settings("evaluation"),
    message:
        "Scoring the geometry {wildcards.geometry} of {wildcards.scene}"
    shell:
        "python -m stages.evaluate_geometry --volume {input.volume:q}"
        " --frames {input.frames:q} --targets {input.targets:q} --truth {input.truth:q}"
        " --out {output:q} --geometry {wildcards.geometry:q}"
        " --config {params.config:q} > {log:q} 2>&1"


rule summarize_geometries:
    input:
        geometry_scores,
    output:
        markdown="results/{dataset}/tables/geometries_{split}.md",
        html=report(
            "results/{dataset}/tables/geometries_{split}.html",
            caption="../report/geometries.rst",
            category="Summary",
            labels={"split": "{split}", "table": "geometry"},
        ),
        geometries="results/{dataset}/tables/geometries_{split}.csv",
        scenes="results/{dataset}/tables/geometries_{split}_scenes.csv",
    log:
        "results/{dataset}/logs/summarize_geometries/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/summarize_geometries/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("summarize_geometries"),
    message:
        "Summing up the geometries on the {wildcards.split} split of {wildcards.dataset}"
    shell:
        "python -m stages.summarize_geometries --scores {input:q}"
        " --dataset {wildcards.dataset:q} --split {wildcards.split:q}"
        " --geometries {output.geometries:q} --scenes {output.scenes:q}"
        " --markdown {output.markdown:q} --html {output.html:q} > {log:q} 2>&1"


rule plot_geometry:
    input:
        volumes=expand(
            "results/{dataset}/geometry/{geometry}/{scene}.h5",
            geometry=GEOMETRIES,
            allow_missing=True,
        ),
        frames="results/{dataset}/frames/{scene}.h5",
        truth=raw_mesh_labels,
    output:
        report(
            "results/{dataset}/figures/geometry/{scene}.jpg",
            caption="../report/geometry.rst",
            category="Geometry",
            labels={"scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/plot_geometry/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_geometry/{scene}.tsv"
    group:
        chunk("plot_geometry")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(6),
    params:
        *code("plot_geometry"),
        geometries=GEOMETRIES,
        config=settings("evaluation"),
    message:
        "Picturing every geometry of {wildcards.scene}"
    shell:
        "python -m stages.plot_geometry --volumes {input.volumes:q}"
        " --frames {input.frames:q} --truth {input.truth:q} --out {output:q}"
        " --geometries {params.geometries:q} --config {params.config:q}"
        " > {log:q} 2>&1"
