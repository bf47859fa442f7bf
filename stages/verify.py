"""Check every published file below a folder against its checksum."""

import logging
from pathlib import Path

from gnesf_core.data.publish import verify
from gnesf_core.errors import BadInput
from stages.cli import run

UNPUBLISHED = {"logs", "benchmarks", "training"}  # they grow while work goes on
log = logging.getLogger("stages")


def main(results: Path) -> None:
    """Name each file that changed since it was written; fail if there is one."""
    paths = {path.with_name(path.name[1:-7]) for path in results.rglob(".*.sha256")}
    for path in results.rglob("*"):
        published = path.is_file() and not path.name.startswith(".")
        if published and not UNPUBLISHED & set(path.relative_to(results).parts):
            paths.add(path)
    damaged = []
    for path in sorted(paths):
        complaint = verify(path)
        if complaint is not None:
            damaged.append(path)
            log.error("%s: %s: %s", path, *complaint)
    log.info("%d files checked, %d damaged or missing", len(paths), len(damaged))
    if damaged or not paths:
        raise BadInput(
            results,
            "checksums",
            expected="every file as it was published",
            found=f"{len(damaged)} of {len(paths)} damaged or missing",
            remedy="delete what is named above (and its .sha256), run snakemake again",
        )


if __name__ == "__main__":
    run(main)
