"""A few linear layers with ELUs between them."""

from torch import nn


def mlp(*widths: int, last: nn.Module | None = None) -> nn.Sequential:
    """Return layers from the first width to the last, and what comes after them."""
    modules: list[nn.Module] = []
    for inner, outer in zip(widths[:-1], widths[1:], strict=True):
        modules += [nn.Linear(inner, outer), nn.ELU()]
    return nn.Sequential(*modules[:-1], *([last] if last else []))
