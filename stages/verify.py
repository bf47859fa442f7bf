"""Check every published file below a folder against its checksum."""

import logging
from pathlib import Path

from gnesf_core.data.publish import verify
from gnesf_core.errors import BadInput
from stages.cli import run

log = logging.getLogger("stages")


def main(results: Path) -> None:
    """Name each file that changed since it was written; fail if there is one."""
    sidecars = sorted(results.rglob(".*.sha256"))
    damaged = []
    for sidecar in sidecars:
        path = sidecar.with_name(sidecar.name[1 : -len(".sha256")])
        complaint = verify(path)
        if complaint is not None:
            damaged.append(path)
            log.error("%s: %s: %s", path, *complaint)
    log.info("%d files checked, %d damaged or missing", len(sidecars), len(damaged))
    if damaged:
        raise BadInput(
            results,
            "checksums",
            expected="every file as it was published",
            found=f"{len(damaged)} damaged or missing",
            remedy="delete the files named above and run snakemake again",
        )


if __name__ == "__main__":
    run(main)
