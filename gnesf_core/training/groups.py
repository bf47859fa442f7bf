"""Which parameters learn at which rate."""

from collections.abc import Iterable

from torch import nn

from gnesf_core.config import TrainingConfig


def parameter_groups(
    model: nn.Module, backbone: Iterable[nn.Parameter], config: TrainingConfig
) -> list[dict[str, object]]:
    """Let the backbone learn at its own rate, and spare norms and biases decay."""
    slower = {id(parameter) for parameter in backbone}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        rate = config.backbone_rate if id(parameter) in slower else 1.0
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": config.learning_rate * rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
