"""Read a small file from outside without letting its size surprise us."""

from pathlib import Path

from gnesf_core.errors import BadInput


def read_bounded(path: Path, limit: int, remedy: str) -> bytes:
    """Return a file's content; refuse what is unreadable or longer than `limit`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadInput(
            path, "file", expected="a readable file", found=error, remedy=remedy
        ) from None
    if len(data) > limit:
        expected = f"at most {limit} bytes"
        raise BadInput(path, "size", expected=expected, found="more", remedy=remedy)
    return data
