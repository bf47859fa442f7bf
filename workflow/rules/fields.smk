# Semantics of 3D points, by recipe: priors fused by a rule, or votes that are learned.


rule train_semantics:
    input:
        unpack(field_training_inputs),
    output:
        weights="results/{dataset}/fields/{field}/model.safetensors",
        last="results/{dataset}/fields/{field}/last.safetensors",
        metrics="results/{dataset}/fields/{field}/metrics.jsonl",
    log:
        "results/{dataset}/logs/train_semantics/{field}.log",
    benchmark:
        "results/{dataset}/benchmarks/train_semantics/{field}.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    # On a CPU its many small operations gain nothing from more.
    threads: lambda wildcards: network_threads(field.gpus(wildcards))
    resources:
        gpu=field.gpus,
        # Not a parameter: moving to a GPU is no reason to train again.
        device=DEVICE,
        mem_mb=64000 if GPUS else 6000,
        runtime=2880,
    params:
        *code("train_semantics"),
        field=field.code,
        module=field.module,
        recipe=field.part("settings"),
        encoder=field_encoder,
        data=field.part("data"),
        training=field.part("training"),
        version=field.folded_code("train_semantics"),
    message:
        "Training the field {wildcards.field}"
    shell:
        "python -m stages.launch {resources.gpu:q} train_semantics --frames {input.frames:q}"
        " --priors {input.priors:q} --surfaces {input.surfaces:q}"
        " --features {input.features:q} --start {input.start:q}"
        " --out {output.weights:q} --last {output.last:q} --metrics {output.metrics:q}"
        " --module {params.module:q} --recipe {params.recipe:q}"
        " --encoder {params.encoder:q} --data {params.data:q}"
        " --training {params.training:q} --device {resources.device:q}"
        " --code {params.version:q} > {log:q} 2>&1"


rule extract_mesh:
    input:
        unpack(field_inputs),
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/fields/{field}/{scene}.ply",
    log:
        "results/{dataset}/logs/extract_mesh/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/extract_mesh/{field}/{scene}.tsv"
    group:
        chunk("extract_mesh")
    conda:
        "../../environment.yml"
    resources:
        gpu=lambda wildcards, input: GPUS if input.weights else 0,
        device=lambda wildcards, input: DEVICE if input.weights else "cpu",
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(4 if GPUS else 20),
    params:
        *code("extract_mesh"),
        field=field.code,
        module=field.module,
        recipe=field.part("settings"),
        options=field_options,
    message:
        "Labelling the surface of {wildcards.scene} by {wildcards.field}"
    shell:
        "python -m stages.extract_mesh --frames {input.frames:q}"
        " --volume {input.volume:q} --prior {input.prior:q} --out {output:q}"
        " --module {params.module:q} --recipe {params.recipe:q} {params.options}"
        " --device {resources.device:q} > {log:q} 2>&1"


rule export_labels:
    input:
        mesh="results/{dataset}/fields/{field}/{scene}.ply",
        target=raw_mesh,
    output:
        "results/{dataset}/fields/{field}/submission/{scene}.txt",
    log:
        "results/{dataset}/logs/export_labels/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/export_labels/{field}/{scene}.tsv"
    group:
        chunk("export_labels")
    conda:
        "../../environment.yml"
    params:
        *code("export_labels"),
    message:
        "Writing {wildcards.scene} for the ScanNet benchmark"
    shell:
        "python -m stages.export_labels --mesh {input.mesh:q} --target {input.target:q}"
        " --out {output:q} > {log:q} 2>&1"


rule pack_submission:
    input:
        submission_texts,
    output:
        "results/{dataset}/fields/{field}/submission_{split}.zip",
    log:
        "results/{dataset}/logs/pack_submission/{field}_{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/pack_submission/{field}_{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("pack_submission"),
    message:
        "Packing {wildcards.split} for the ScanNet benchmark"
    shell:
        "python -m stages.pack_submission --texts {input:q} --out {output:q}"
        " > {log:q} 2>&1"
