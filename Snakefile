# From raw scans to semantics of 3D points nobody labelled, and to the numbers that a
# paper would print. Which file needs which file stands in workflow/rules; what a step
# computes, in stages/ and gnesf_core/.
#
#   snakemake --cores            bring the tables, meshes and pictures up to date
#   snakemake --cores frames     one chapter only: frames targets priors geometry meshes evaluation ...
#   snakemake --report report.html
import os
import subprocess
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


configfile: Path(workflow.current_basedir) / "config" / "config.yaml"


report: "workflow/report/workflow.rst"


# Snakemake takes no notice of a profile that is not there.
for word in sys.argv:
    name = word.removeprefix("--workflow-profile=")
    if name.startswith("profiles/"):
        started_in = os.environ.get("PWD", ".")
        if not any(Path(own, name).exists() for own in (workflow.basedir, started_in)):
            raise WorkflowError(
                f"command line: --workflow-profile: expected a folder, found no {name}; "
                "remedy: name one of profiles/"
            )


include: "workflow/rules/common.smk"


rule all:
    input:
        results("frames/{scene}.h5", scene=SCENES),
        PRIOR_RESULTS,
        GEOMETRY_RESULTS,
        FIELD_RESULTS,
        VIEW_RESULTS,
        results("tables/run.html"),
    message:
        "Everything of {DATASET} is up to date"


include: "workflow/rules/inputs.smk"
include: "workflow/rules/synthrooms.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/priors.smk"
include: "workflow/rules/geometry.smk"
include: "workflow/rules/fields.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/targets.smk"


onstart:
    # Where there is no Slurm the executor would wait for ever.
    if workflow.executor_plugin.name == "slurm":
        try:
            subprocess.run(["sinfo"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise WorkflowError(
                "profiles/slurm: expected a Slurm that answers here, found that sinfo "
                f"does not: {error}; remedy: run on the cluster's login node, or without "
                "--workflow-profile"
            ) from None
