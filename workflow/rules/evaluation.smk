# Scores per scene (integer counts), then tables (sums before ratios), then pictures.


rule evaluate_scene:
    input:
        mesh="results/{dataset}/fields/{field}/{scene}.ply",
        truth=raw_mesh_labels,
        frames="results/{dataset}/frames/{scene}.h5",
    output:
        "results/{dataset}/fields/{field}/{scene}.json",
    log:
        "results/{dataset}/logs/evaluate_scene/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/evaluate_scene/{field}/{scene}.tsv"
    group:
        chunk("evaluate_scene")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(4),
    params:
        *code("evaluate_scene"),
        config=settings("evaluation"),
    message:
        "Scoring {wildcards.field} on {wildcards.scene}"
    shell:
        "python -m stages.evaluate_scene --mesh {input.mesh:q} --truth {input.truth:q}"
        " --frames {input.frames:q} --out {output:q} --field {wildcards.field:q}"
        " --config {params.config:q} > {log:q} 2>&1"


rule summarize:
    input:
        split_scores,
    output:
        markdown="results/{dataset}/tables/{split}.md",
        html=report(
            "results/{dataset}/tables/{split}.html",
            caption="../report/table.rst",
            category="Summary",
            labels={"split": "{split}", "table": "all fields"},
        ),
        fields="results/{dataset}/tables/{split}.csv",
        classes="results/{dataset}/tables/{split}_classes.csv",
        scenes="results/{dataset}/tables/{split}_scenes.csv",
    log:
        "results/{dataset}/logs/summarize/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/summarize/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("summarize"),
    message:
        "Summing up the {wildcards.split} split of {wildcards.dataset}"
    shell:
        "python -m stages.summarize --scores {input:q} --dataset {wildcards.dataset:q}"
        " --split {wildcards.split:q} --fields {output.fields:q}"
        " --classes {output.classes:q} --scenes {output.scenes:q}"
        " --markdown {output.markdown:q} --html {output.html:q} > {log:q} 2>&1"


rule rank_scenes:
    input:
        scores=split_scores,
        pictures=results("figures/scenes/{scene}.jpg", scene=PICTURED),
    output:
        report(
            "results/{dataset}/tables/{split}_scenes.html",
            caption="../report/scenes.rst",
            category="Scenes",
            labels={"scene": "all of {split}, worst first"},
        ),
    log:
        "results/{dataset}/logs/rank_scenes/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/rank_scenes/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("rank_scenes"),
        field=PAGED,
        plain=votes_alike(HEADLINE),
    message:
        "Ordering the scenes of {wildcards.split} from worst to best"
    shell:
        "python -m stages.rank_scenes --scores {input.scores:q}"
        " --pictures {input.pictures:q} --dataset {wildcards.dataset:q}"
        " --split {wildcards.split:q} --field {params.field:q}"
        " --plain {params.plain:q} --out {output:q} > {log:q} 2>&1"


rule summarize_views:
    input:
        view_scores,
    output:
        markdown="results/{dataset}/tables/views_{split}.md",
        html=report(
            "results/{dataset}/tables/views_{split}.html",
            caption="../report/views_table.rst",
            category="Summary",
            labels={"split": "{split}", "table": "novel views in 2D"},
        ),
        fields="results/{dataset}/tables/views_{split}.csv",
        classes="results/{dataset}/tables/views_{split}_classes.csv",
        frames="results/{dataset}/tables/views_{split}_frames.csv",
    log:
        "results/{dataset}/logs/summarize_views/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/summarize_views/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("summarize_views"),
    message:
        "Summing up novel views of the {wildcards.split} split of {wildcards.dataset}"
    shell:
        "python -m stages.summarize_views --scores {input:q}"
        " --dataset {wildcards.dataset:q} --split {wildcards.split:q}"
        " --fields {output.fields:q} --classes {output.classes:q}"
        " --frames {output.frames:q} --markdown {output.markdown:q}"
        " --html {output.html:q} > {log:q} 2>&1"


rule print_paper_table:
    input:
        unpack(paper_table_inputs),
    output:
        markdown="results/{dataset}/tables/paper/{table}_{split}.md",
        html=report(
            "results/{dataset}/tables/paper/{table}_{split}.html",
            caption="../report/paper_table.rst",
            category="The paper's tables",
            labels={"table": "{table}", "split": "{split}"},
        ),
        csv="results/{dataset}/tables/paper/{table}_{split}.csv",
    log:
        "results/{dataset}/logs/print_paper_table/{table}_{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/print_paper_table/{table}_{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("print_paper_table"),
        rows=lambda wildcards: json.dumps(table_rows(wildcards.table, wildcards.split)),
        comparable=comparable_option,
        costs=cost_option,
    message:
        "Putting our figures beside the paper's {wildcards.table}"
    shell:
        "python -m stages.print_paper_table --table {wildcards.table:q}"
        " --dataset {wildcards.dataset:q} --split {wildcards.split:q}"
        " --scores {input.scores:q} --views {input.views:q} --rows {params.rows:q}"
        " {params.comparable} {params.costs} --markdown {output.markdown:q}"
        " --html {output.html:q} --csv {output.csv:q} > {log:q} 2>&1 && cat {log:q}"


rule view_scene:
    input:
        unpack(scene_truth),
        mesh="results/{dataset}/fields/{field}/{scene}.ply",
    output:
        page=report(
            "results/{dataset}/fields/{field}/{scene}.html",
            caption="../report/page.rst",
            category="Scenes in 3D",
            labels={"field": "{field}", "scene": "{scene}"},
        ),
        glb="results/{dataset}/fields/{field}/{scene}.glb",
    log:
        "results/{dataset}/logs/view_scene/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/view_scene/{field}/{scene}.tsv"
    group:
        chunk("view_scene")
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(4),
    params:
        *code("view_scene"),
        template=PAGE_TEMPLATE,
        truth=truth_option,
    message:
        "Making a page to look around {wildcards.scene}, by {wildcards.field}"
    shell:
        "python -m stages.view_scene --mesh {input.mesh:q} {params.truth}"
        " --out {output.page:q} --glb {output.glb:q} --field {wildcards.field:q}"
        " > {log:q} 2>&1"


rule describe_run:
    input:
        PRIOR_RESULTS,
        GEOMETRY_RESULTS,
        FIELD_RESULTS,
        VIEW_RESULTS,
        results(
            "views/{renderer}/{scene}.json",
            renderer=HEADLINE_VIEWS,
            scene=SHOWN if SCORED_SPLITS else [],
        ),
        results(
            "fields/{field}/{scene}.json",
            field=HEADLINE,
            scene=SHOWN if SCORED_SPLITS else [],
        ),
    output:
        markdown="results/{dataset}/tables/run.md",
        html=report(
            "results/{dataset}/tables/run.html",
            caption="../report/run.rst",
            category="Cost and origin",
            labels={"table": "time, memory, disk, versions, configuration"},
        ),
        costs="results/{dataset}/tables/costs.csv",
        front="results/{dataset}/tables/front.html",
    log:
        "results/{dataset}/logs/describe_run.log",
    benchmark:
        "results/{dataset}/benchmarks/describe_run.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("describe_run"),
        folder="results/{dataset}",
        # Not as it stands: what is in braces there is no wildcard.
        config=lambda wildcards: json.dumps(config),
        scenes=json.dumps({split: len(scenes) for split, scenes in SPLITS.items()}),
        judged=json.dumps({split: SPLITS[split] for split in SCORED_SPLITS}),
    message:
        "Telling what came of it, what it cost and what it was made with"
    shell:
        "python -m stages.describe_run --results {params.folder:q}"
        " --config {params.config:q} --scenes {params.scenes:q}"
        " --judged {params.judged:q} --costs {output.costs:q}"
        " --markdown {output.markdown:q} --html {output.html:q}"
        " --front {output.front:q} > {log:q} 2>&1"


rule plot_classes:
    input:
        "results/{dataset}/tables/{split}_classes.csv",
    output:
        report(
            "results/{dataset}/figures/{split}_classes.svg",
            caption="../report/classes.rst",
            category="Semantics",
            labels={"split": "{split}", "figure": "IoU per class"},
        ),
    log:
        "results/{dataset}/logs/plot_classes/{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_classes/{split}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("plot_classes"),
    message:
        "Drawing the classes of {wildcards.split}"
    shell:
        "python -m stages.plot_classes --classes {input:q} --out {output:q}"
        " > {log:q} 2>&1"


rule plot_scene:
    input:
        meshes=expand(
            "results/{dataset}/fields/{field}/{scene}.ply",
            field=HEADLINE,
            allow_missing=True,
        ),
        truth=raw_mesh_labels,
    output:
        report(
            "results/{dataset}/figures/scenes/{scene}.jpg",
            caption="../report/scene.rst",
            category="Scenes",
            labels={"scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/plot_scene/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_scene/{scene}.tsv"
    group:
        chunk("plot_scene")
    conda:
        "../../environment.yml"
    params:
        *code("plot_scene"),
        fields=HEADLINE,
    message:
        "Picturing every field on {wildcards.scene}"
    shell:
        "python -m stages.plot_scene --meshes {input.meshes:q} --truth {input.truth:q}"
        " --out {output:q} --fields {params.fields:q} > {log:q} 2>&1"


rule plot_field:
    input:
        unpack(field_inputs),
        frames="results/{dataset}/frames/{scene}.h5",
        mesh="results/{dataset}/fields/{field}/{scene}.ply",
        truth=raw_mesh_labels,
    output:
        report(
            "results/{dataset}/figures/fields/{field}/{scene}.jpg",
            caption="../report/field.rst",
            category="Fields",
            labels={"field": "{field}", "scene": "{scene}"},
        ),
    log:
        "results/{dataset}/logs/plot_field/{field}/{scene}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_field/{field}/{scene}.tsv"
    group:
        chunk("plot_field")
    conda:
        "../../environment.yml"
    resources:
        gpu=lambda wildcards, input: GPUS if input.weights else 0,
        device=lambda wildcards, input: DEVICE if input.weights else "cpu",
        mem_mb=growing(16000 if GPUS else 4000),
        runtime=growing(6 if GPUS else 20),
    params:
        *code("plot_field"),
        field=field.code,
        module=field.module,
        recipe=field.part("settings"),
        options=field_options,
    message:
        "Picturing what {wildcards.field} makes of its prior in {wildcards.scene}"
    shell:
        "python -m stages.plot_field --frames {input.frames:q}"
        " --volume {input.volume:q} --prior {input.prior:q} --mesh {input.mesh:q}"
        " --truth {input.truth:q} --out {output:q} --field {wildcards.field:q}"
        " --module {params.module:q} --recipe {params.recipe:q} {params.options}"
        " --device {resources.device:q} > {log:q} 2>&1"


rule plot_training:
    input:
        "results/{dataset}/{kind}/{recipe}/metrics.jsonl",
    output:
        report(
            "results/{dataset}/figures/{kind}/{recipe}/training.svg",
            caption="../report/training.rst",
            category="Training",
            labels={"kind": "{kind}", "recipe": "{recipe}"},
        ),
    log:
        "results/{dataset}/logs/plot_training/{kind}_{recipe}.log",
    benchmark:
        "results/{dataset}/benchmarks/plot_training/{kind}_{recipe}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        *code("plot_training"),
    message:
        "Drawing the training of {wildcards.recipe}"
    shell:
        "python -m stages.plot_training --metrics {input:q} --out {output:q}"
        " --name {wildcards.recipe:q} > {log:q} 2>&1"
