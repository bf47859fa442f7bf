# Raw scan -> kept frames -> training targets, one file per scene each.


rule extract_frames:
    input:
        unpack(raw_labels),
        scan=raw_scan,
    output:
        "results/{dataset}/frames/{scene}.h5",
    log:
        "results/{dataset}/logs/extract_frames/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/extract_frames/{scene}.tsv"
    group:
        chunk("extract_frames")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(6),
    params:
        *code("extract_frames"),
        config=settings("frames"),
        format=scan_format,
        labels=label_options,
        capture=capture_options,
        intrinsics=intrinsics_option,
    message:
        "Extracting the frames of {wildcards.scene}"
    shell:
        "python -m stages.extract_frames --scan {input.scan:q} --out {output:q}"
        " --scene {wildcards.scene:q} --format {params.format:q} {params.labels}"
        " {params.capture} {params.intrinsics} --config {params.config:q}"
        " > {log:q} 2>&1"


rule fuse_targets:
    input:
        scan=raw_scan,
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/targets/{scene}.h5",
    log:
        "results/{dataset}/logs/fuse_targets/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/fuse_targets/{scene}.tsv"
    group:
        chunk("fuse_targets")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(10),
    params:
        *code("fuse_targets"),
        config=settings("targets"),
        format=scan_format,
        intrinsics=intrinsics_option,
    message:
        "Fusing the depth of {wildcards.scene}"
    shell:
        "python -m stages.fuse_targets --scan {input.scan:q} --frames {input.frames:q}"
        " --out {output:q} --format {params.format:q} {params.intrinsics}"
        " --config {params.config:q} > {log:q} 2>&1"
