# Class probabilities of frames: a network learns them once, sees each frame once, and
# everything after reads them from one file per scene.


rule train_prior:
    input:
        start=prior_start,
        frames=prior_training_scenes,
    output:
        weights="results/{dataset}/priors/{prior}{fold}/model.safetensors",
        metrics="results/{dataset}/priors/{prior}{fold}/metrics.jsonl",
    log:
        "results/{dataset}/logs/train_prior/{prior}{fold}.log",
    benchmark:
        "results/{dataset}/benchmarks/train_prior/{prior}{fold}.tsv"
    # Most others wait for it.
    priority: 10
    conda:
        "../../environment.yml"
    # On a CPU a small network gains little from more, and others train beside it.
    threads: lambda wildcards: network_threads(prior.gpus(wildcards))
    resources:
        gpu=prior.gpus,
        # Not a parameter: moving to a GPU is no reason to train again.
        device=DEVICE,
        mem_mb=32000 if GPUS else 8000,
        runtime=2880,
    params:
        *code("train_prior"),
        prior=prior.code,
        module=prior.module,
        recipe=prior_training_settings,
        data=prior.part("data"),
        training=prior.part("training"),
        version=prior.folded_code("train_prior"),
    message:
        "Training the prior {wildcards.prior}{wildcards.fold}"
    shell:
        "python -m stages.launch {resources.gpu:q} train_prior --frames {input.frames:q} --out {output.weights:q}"
        " --metrics {output.metrics:q} --module {params.module:q}"
        " --recipe {params.recipe:q} --data {params.data:q}"
        " --training {params.training:q} --device {resources.device:q}"
        " --code {params.version:q} > {log:q} 2>&1"


rule cache_prior:
    input:
        prior_files,
        frames="results/{dataset}/frames/{scene}.h5",
        weights=prior_weights,
    output:
        maps="results/{dataset}/priors/{prior}/{scene}.h5",
        cost="results/{dataset}/priors/{prior}/{scene}.cost.json",
    log:
        "results/{dataset}/logs/cache_prior/{prior}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/cache_prior/{prior}/{scene}.tsv"
    group:
        chunk("cache_prior")
    conda:
        "../../environment.yml"
    # Pictures are decoded ahead of a GPU by so many threads.
    threads: lambda wildcards: network_threads(GPUS if prior.weights(wildcards) else 0)
    resources:
        gpu=lambda wildcards, input: GPUS if input.weights else 0,
        device=lambda wildcards, input: DEVICE if input.weights else "cpu",
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(5 if GPUS else 60),
    params:
        *code("cache_prior"),
        prior=prior.code,
        module=prior.module,
        recipe=prior.part("settings"),
        weights=weights_option,
        version=prior.folded_code("cache_prior"),
    message:
        "Caching the prior {wildcards.prior} of {wildcards.scene}"
    shell:
        "python -m stages.cache_prior --frames {input.frames:q} --out {output.maps:q}"
        " --cost {output.cost:q} --prior {wildcards.prior:q} --module {params.module:q}"
        " --recipe {params.recipe:q} {params.weights} --device {resources.device:q}"
        " --code {params.version:q} > {log:q} 2>&1"


rule evaluate_prior:
    input:
        maps="results/{dataset}/priors/{prior}/{scene}.h5",
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/priors/{prior}/{scene}.json",
    log:
        "results/{dataset}/logs/evaluate_prior/{prior}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/evaluate_prior/{prior}/{scene}.tsv"
    group:
        chunk("evaluate_prior")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(4),
    params:
        *code("evaluate_prior"),
    message:
        "Scoring the prior {wildcards.prior} on {wildcards.scene}"
    shell:
        "python -m stages.evaluate_prior --prior-file {input.maps:q}"
        " --frames {input.frames:q} --out {output:q} --prior {wildcards.prior:q}"
        " > {log:q} 2>&1"


rule summarize_priors:
    input:
        unpack(prior_scores),
    output:
        markdown="results/{dataset}/tables/priors_{split}.md",
        html=report(
            "results/{dataset}/tables/priors_{split}.html",
            caption="../report/priors.rst",
            category="Summary",
            labels={"split": "{split}", "table": "priors in 2D"},
        ),
        priors="results/{dataset}/tables/priors_{split}.csv",
        classes="results/{dataset}/tables/priors_{split}_classes.csv",
        frames="results/{dataset}/tables/priors_{split}_frames.csv",
    log:
        "results/{dataset}/logs/summarize_priors/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/summarize_priors/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("summarize_priors"),
    message:
        "Summing up the priors on the {wildcards.split} split of {wildcards.dataset}"
    shell:
        "python -m stages.summarize_priors --scores {input.scores:q}"
        " --costs {input.costs:q} --dataset {wildcards.dataset:q}"
        " --split {wildcards.split:q} --priors {output.priors:q}"
        " --classes {output.classes:q} --frames {output.frames:q}"
        " --markdown {output.markdown:q} --html {output.html:q} > {log:q} 2>&1"


rule plot_prior:
    input:
        maps="results/{dataset}/priors/{prior}/{scene}.h5",
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        report(
            "results/{dataset}/figures/priors/{prior}/{scene}.jpg",
            caption="../report/prior.rst",
            category="Priors",
            labels={"prior": "{prior}", "scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/plot_prior/{prior}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_prior/{prior}/{scene}.tsv"
    group:
        chunk("plot_prior")
    conda:
        "../../environment.yml"
    params:
        *code("plot_prior"),
    message:
        "Picturing the prior {wildcards.prior} on {wildcards.scene}"
    shell:
        "python -m stages.plot_prior --prior-file {input.maps:q}"
        " --frames {input.frames:q} --out {output:q} --prior {wildcards.prior:q}"
        " > {log:q} 2>&1"
