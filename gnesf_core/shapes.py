"""Shape annotations, checked in tests; elsewhere plain placeholders.

Tests load jaxtyping before anything else. A job is spared its import, and a bare GPU
node has none: there an annotation such as `Float[Tensor, "points 3"]` must still
evaluate, so it stands for its array type.

`AnyTensor` is the tensor of Torch for code that works on NumPy arrays too: Torch takes
seconds to import, which stages that need none of it are spared.
"""

import sys
from types import ModuleType

import numpy as np

if sys.modules.get("jaxtyping"):
    from jaxtyping import (
        Bool,
        Float,
        Float32,
        Float64,
        Int,
        Int8,
        Int32,
        Int64,
        Integer,
        Shaped,
        UInt8,
        UInt16,
    )
else:

    class _Unchecked:
        """Return the array type, whatever the shape says."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Float = Float32 = Float64 = Shaped = _Unchecked
    Int = Int8 = Int32 = Int64 = Integer = UInt8 = UInt16 = _Unchecked


class _TensorType(type):
    def __instancecheck__(cls, value: object) -> bool:
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(value, torch.Tensor)


class AnyTensor(metaclass=_TensorType):
    """Torch's tensor; nothing is one before somebody has imported Torch."""


def array_library(values: object) -> ModuleType:
    """Return the library whose functions take `values`: NumPy or Torch."""
    if not isinstance(values, AnyTensor):
        return np
    import torch

    return torch


__all__ = [
    "AnyTensor",
    "Bool",
    "Float",
    "Float32",
    "Float64",
    "Int",
    "Int8",
    "Int32",
    "Int64",
    "Integer",
    "Shaped",
    "UInt8",
    "UInt16",
    "array_library",
]
