# What cameras see that were never there: by fields near their surfaces, and by methods
# of view synthesis, which are trained on the training split or fitted to each scene.


# On the training split, or (`alone`) on one scene.
rule train_views:
    input:
        unpack(view_training_inputs),
    output:
        weights="results/{dataset}/methods/{method}{alone}/model.safetensors",
        last="results/{dataset}/methods/{method}{alone}/last.safetensors",
        metrics="results/{dataset}/methods/{method}{alone}/metrics.jsonl",
    log:
        "results/{dataset}/logs/train_views/{method}{alone}.log",
    benchmark:
        "results/{dataset}/benchmarks/train_views/{method}{alone}.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    threads: lambda wildcards: network_threads(method.gpus(wildcards))
    resources:
        gpu=method.gpus,
        # Not a parameter: moving to a GPU is no reason to train again.
        device=DEVICE,
        mem_mb=64000 if GPUS else 6000,
        runtime=2880,
    params:
        *code("train_views"),
        method=method.code,
        module=method.module,
        recipe=method.part("settings"),
        sources=method.part("sources"),
        data=method.part("data"),
        training=method.part("training"),
        start=start_option,
        judged=judged_option,
        version=method.folded_code("train_views"),
    message:
        "Training the method {wildcards.method}{wildcards.alone}"
    shell:
        "python -m stages.launch {resources.gpu:q} train_views --frames {input.frames:q}"
        " --priors {input.priors:q} {params.start} {params.judged}"
        " --out {output.weights:q} --last {output.last:q} --metrics {output.metrics:q}"
        " --module {params.module:q} --recipe {params.recipe:q}"
        " --sources {params.sources:q} --data {params.data:q}"
        " --training {params.training:q} --device {resources.device:q}"
        " --code {params.version:q} > {log:q} 2>&1"


rule render_field:
    input:
        unpack(field_inputs),
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/views/{field}/{scene}.h5",
    log:
        "results/{dataset}/logs/render_field/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/render_field/{field}/{scene}.tsv"
    wildcard_constraints:
        field=one_of(RENDERING_FIELDS),
    group:
        chunk("render_field")
    conda:
        "../../environment.yml"
    resources:
        gpu=lambda wildcards, input: GPUS if input.weights else 0,
        device=lambda wildcards, input: DEVICE if input.weights else "cpu",
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(10 if GPUS else 60),
    params:
        *code("render_field"),
        field=field.code,
        module=field.module,
        recipe=field.part("settings"),
        geometry=field.part("geometry"),
        options=field_options,
        views=settings("novel_views"),
    message:
        "Rendering held-out frames of {wildcards.scene} by {wildcards.field}"
    shell:
        "python -m stages.render_field --frames {input.frames:q}"
        " --volume {input.volume:q} --prior {input.prior:q} --out {output:q}"
        " --geometry {params.geometry:q} --module {params.module:q}"
        " --recipe {params.recipe:q} --views {params.views:q} {params.options}"
        " --device {resources.device:q} > {log:q} 2>&1"


rule render_views:
    input:
        unpack(view_inputs),
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/views/{method}/{scene}.h5",
    log:
        "results/{dataset}/logs/render_views/{method}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/render_views/{method}/{scene}.tsv"
    wildcard_constraints:
        method=one_of(METHODS),
    group:
        chunk("render_views")
    conda:
        "../../environment.yml"
    resources:
        gpu=GPUS,
        device=DEVICE,
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(10 if GPUS else 60),
    params:
        *code("render_views"),
        method=method.code,
        module=method.module,
        recipe=method.part("settings"),
        sources=method.part("sources"),
        options=view_options,
        views=settings("novel_views"),
    message:
        "Rendering held-out frames of {wildcards.scene} by {wildcards.method}"
    shell:
        "python -m stages.render_views --frames {input.frames:q}"
        " --weights {input.weights:q} --out {output:q} --module {params.module:q}"
        " --recipe {params.recipe:q} --sources {params.sources:q}"
        " --views {params.views:q} {params.options}"
        " --device {resources.device:q} > {log:q} 2>&1"


rule film_views:
    input:
        unpack(view_inputs),
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        report(
            "results/{dataset}/figures/flights/{method}/{scene}.webp",
            caption="../report/flight.rst",
            category="Novel views",
            labels={"method": "{method}", "scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/film_views/{method}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/film_views/{method}/{scene}.tsv"
    wildcard_constraints:
        method=one_of(METHODS),
    group:
        chunk("film_views")
    conda:
        "../../environment.yml"
    resources:
        gpu=GPUS,
        device=DEVICE,
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(20 if GPUS else 120),
    params:
        *code("film_views"),
        method=method.code,
        module=method.module,
        recipe=method.part("settings"),
        sources=method.part("sources"),
        options=view_options,
        flight=settings("flight"),
    message:
        "Filming a flight through {wildcards.scene} by {wildcards.method}"
    shell:
        "python -m stages.film_views --frames {input.frames:q}"
        " --weights {input.weights:q} --out {output:q} --module {params.module:q}"
        " --recipe {params.recipe:q} --sources {params.sources:q}"
        " --flight {params.flight:q} {params.options}"
        " --device {resources.device:q} > {log:q} 2>&1"


rule evaluate_views:
    input:
        lpips=LPIPS_FILES,
        frames="results/{dataset}/frames/{scene}.h5",
        views=rendered_views,
    output:
        scores="results/{dataset}/views/{renderer}/{scene}.json",
        picture=report(
            "results/{dataset}/figures/views/{renderer}/{scene}.jpg",
            caption="../report/views.rst",
            category="Novel views",
            labels={"field": "{renderer}", "scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/evaluate_views/{renderer}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/evaluate_views/{renderer}/{scene}.tsv"
    group:
        chunk("evaluate_views")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        *code("evaluate_views"),
        quality=settings("image_quality"),
    message:
        "Scoring the views of {wildcards.scene} by {wildcards.renderer}"
    shell:
        "python -m stages.evaluate_views --frames {input.frames:q}"
        " --views {input.views:q} --out {output.scores:q}"
        " --picture {output.picture:q} --field {wildcards.renderer:q}"
        " --quality {params.quality:q} > {log:q} 2>&1"
