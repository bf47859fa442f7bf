# Names for people: each brings one chapter up to date.


rule frames:
    input:
        results("frames/{scene}.h5", scene=SCENES),


rule targets:
    input:
        results("targets/{scene}.h5", scene=SCENES),


# All scenes' maps, for whatever comes after; tables and pictures of the judged ones.
rule priors:
    input:
        results("priors/{prior}/{scene}.h5", prior=PRIORS, scene=SCENES),
        PRIOR_RESULTS,


# The same for surfaces.
rule geometry:
    input:
        results("geometry/{geometry}/{scene}.h5", geometry=GEOMETRIES, scene=SCENES),
        GEOMETRY_RESULTS,


rule meshes:
    input:
        results("fields/{field}/{scene}.ply", field=HEADLINE, scene=SHOWN),


# Meshes to look around in, and as GLB, of every scene and field of the headline.
rule pages:
    input:
        results("fields/{field}/{scene}.html", field=HEADLINE, scene=SHOWN),


rule evaluation:
    input:
        results("tables/{split}.{kind}", split=SCORED_SPLITS, kind=["md", "html"]),


rule figures:
    input:
        results("figures/{split}_classes.svg", split=SCORED_SPLITS),
        results("tables/{split}_scenes.html", split=SCORED_SPLITS),
        results("figures/scenes/{scene}.jpg", scene=PICTURED if SCORED_SPLITS else []),


# The tables of the paper, ours beside the published figures.
rule table2:
    input:
        results("tables/paper/table2_{split}.md", split=SCORED_SPLITS),


rule table3:
    input:
        results("tables/paper/table3_{split}.md", split=SCORED_SPLITS),


rule table4:
    input:
        results("tables/paper/table4_{split}.md", split=SCORED_SPLITS),


rule views:
    input:
        results("tables/paper/views_{split}.md", split=SCORED_SPLITS),


rule scenes:
    input:
        results("tables/paper/scenes_{split}.md", split=SCORED_SPLITS),


# Rendered frames that no view of the headline's fields was taken from.
rule novel_views:
    input:
        results("tables/views_{split}.{kind}", split=SCORED_SPLITS, kind=["md", "html"]),


rule submission:
    input:
        results(
            "fields/{field}/submission_{split}.zip",
            field=HEADLINE,
            split=SUBMITTED_SPLITS,
        ),


rule verify:
    log:
        f"results/{DATASET}/logs/verify.log",
    conda:
        "../../environment.yml"
    params:
        folder=f"results/{DATASET}",
    message:
        "Checking every result against its checksum"
    shell:
        "python -m stages.verify --results {params.folder:q} > {log:q} 2>&1 && cat {log:q}"
