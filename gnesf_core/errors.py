"""How this project says that it cannot go on."""

from pathlib import Path


class BadInput(ValueError):
    """A file or setting given by the user cannot be used.

    The message is one line that names the file, the place in it, what was expected,
    what was found, and the remedy. Commands print it without a traceback.
    """

    def __init__(
        self, file: Path | str, place: str, *, expected: str, found: object, remedy: str
    ) -> None:
        self.file = str(file)
        self.place = place
        message = (
            f"{file}: {place}: expected {expected}, found {found}; remedy: {remedy}"
        )
        super().__init__(" ".join(message.split()))


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A training was asked to stop and did; its state is on disk."""


class Diverged(ArithmeticError):
    """A loss or a gradient of a training is not finite."""
