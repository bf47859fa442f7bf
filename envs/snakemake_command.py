"""Snakemake's command, with `--cores` allowed to stand alone.

Its help says "If N is omitted or `all`, the limit is set to the number of available CPU
cores", but the parser refuses an omitted N. `make env` puts this in the environment, so
that `snakemake --cores` and `snakemake --cores frames` do what the help says.
"""

import re
import sys

from snakemake.cli import main


def with_core_count(arguments: list[str]) -> list[str]:
    """Write `all` behind every `--cores` that no number follows."""
    completed = []
    for position, argument in enumerate(arguments, 1):
        following = arguments[position] if position < len(arguments) else ""
        completed.append(argument)
        if argument in ("--cores", "-c") and not re.fullmatch(r"\d+|all", following):
            completed.append("all")
    return completed


if __name__ == "__main__":
    sys.exit(main(with_core_count(sys.argv[1:])))
