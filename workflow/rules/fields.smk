# Semantics of 3D points, by recipe: today, priors voted onto a surface.


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
    conda:
        "../../environment.yml"
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        *code("extract_mesh"),
        field=field.code,
        module=field.module,
        recipe=field.part("settings"),
    message:
        "Labelling the surface of {wildcards.scene} by {wildcards.field}"
    shell:
        "python -m stages.extract_mesh --frames {input.frames:q}"
        " --volume {input.volume:q} --prior {input.prior:q} --out {output:q}"
        " --module {params.module:q} --recipe {params.recipe:q} > {log:q} 2>&1"


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
    conda:
        "../../environment.yml"
    params:
        *code("pack_submission"),
    message:
        "Packing {wildcards.split} for the ScanNet benchmark"
    shell:
        "python -m stages.pack_submission --texts {input:q} --out {output:q}"
        " > {log:q} 2>&1"
