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


# The tables of the paper, ours beside the published figures. Where it has novel views as
# well as novel scenes, ours are of training scenes as well.
rule table1:
    input:
        results("tables/paper/table1_{split}.md", split=VIEW_SPLITS),


rule table2:
    input:
        results("tables/paper/table2_{split}.md", split=SCORED_SPLITS),


rule table3:
    input:
        results("tables/paper/table3_{split}.md", split=SCORED_SPLITS),


rule table4:
    input:
        results("tables/paper/table4_{split}.md", split=SCORED_SPLITS),


rule supplement1:
    input:
        results("tables/paper/supplement1_{split}.md", split=SCORED_SPLITS),


rule supplement2:
    input:
        results("tables/paper/supplement2_{split}.md", split=VIEW_SPLITS),


rule supplement3:
    input:
        results("tables/paper/supplement3_{split}.md", split=VIEW_SPLITS),


rule supplement4:
    input:
        results("tables/paper/supplement4_{split}.md", split=SCORED_SPLITS),


# The supplement's tables 3 and 2 by fields, on their surfaces.
rule views:
    input:
        results("tables/paper/views_{split}.md", split=SCORED_SPLITS),


rule scenes:
    input:
        results("tables/paper/scenes_{split}.md", split=SCORED_SPLITS),


# Rendered frames that no view was taken from, by `headline_views`, and a film.
rule novel_views:
    input:
        VIEW_RESULTS,


# A film through the first pictured scene by every method of table 1.
rule flights:
    input:
        results(
            "figures/flights/{method}/{scene}.webp",
            method=[name for name in config["tables"]["table1"] if name in METHODS],
            scene=PICTURED[:1] if SCORED_SPLITS else [],
        ),


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
