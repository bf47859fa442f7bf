# The embedded data set, in ScanNet's own file formats. These rules are the only ones
# that know it: from here on it is a data set like any other.


rule synthesize_label_map:
    output:
        f"{SYNTHROOMS}/scannetv2-labels.combined.tsv",
    log:
        "results/synthrooms/logs/synthesize_label_map.log",
    benchmark:
        "results/synthrooms/benchmarks/synthesize_label_map.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("synthesize_label_map"),
    message:
        "Writing SynthRooms' label map"
    shell:
        "python -m stages.synthesize_label_map --out {output:q} > {log:q} 2>&1"


rule synthesize_lists:
    output:
        train=f"{SYNTHROOMS}/scannetv2_train.txt",
        val=f"{SYNTHROOMS}/scannetv2_val.txt",
        test=f"{SYNTHROOMS}/scannetv2_test.txt",
    log:
        "results/synthrooms/logs/synthesize_lists.log",
    benchmark:
        "results/synthrooms/benchmarks/synthesize_lists.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("synthesize_lists"),
        config=count_settings(),
        folder=subpath(output.train, parent=True),
    message:
        "Writing SynthRooms' scene lists"
    shell:
        "python -m stages.synthesize_lists --out {params.folder:q}"
        " --config {params.config:q} > {log:q} 2>&1"


rule synthesize_scene:
    output:
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}.sens",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}.txt",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}_vh_clean_2.ply",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}_vh_clean_2.labels.ply",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}_vh_clean_2.0.010000.segs.json",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}.aggregation.json",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}_2d-label-filt.zip",
        f"{SYNTHROOMS}/scans/{{scene}}/{{scene}}_2d-instance-filt.zip",
    log:
        "results/synthrooms/logs/synthesize_scene/{scene}.log",
    benchmark:
        "results/synthrooms/benchmarks/synthesize_scene/{scene}.tsv"
    group:
        chunk("synthesize_scene")
    conda:
        "../../environment.yml"
    params:
        *code("synthesize_scene"),
        config=room_settings,
        folder=subpath(output[0], parent=True),
        labelled=1,
    message:
        "Furnishing and filming {wildcards.scene}"
    shell:
        "python -m stages.synthesize_scene --out {params.folder:q}"
        " --scene {wildcards.scene:q} --labelled {params.labelled}"
        " --config {params.config:q} > {log:q} 2>&1"


# Test scenes come without labels, as ScanNet's do.
use rule synthesize_scene as synthesize_test_scene with:
    output:
        f"{SYNTHROOMS}/scans_test/{{scene}}/{{scene}}.sens",
        f"{SYNTHROOMS}/scans_test/{{scene}}/{{scene}}.txt",
        f"{SYNTHROOMS}/scans_test/{{scene}}/{{scene}}_vh_clean_2.ply",
    params:
        *code("synthesize_scene"),
        config=room_settings,
        folder=subpath(output[0], parent=True),
        labelled=0,
