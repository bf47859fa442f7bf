"""Shape annotations, checked in tests; plain placeholders where jaxtyping is absent.

A bare GPU node has torch, numpy and h5py but no jaxtyping: there an annotation such as
`Float[Tensor, "points 3"]` must still evaluate, so it stands for its array type.
"""

try:
    from jaxtyping import (
        Bool,
        Float,
        Float32,
        Float64,
        Int,
        Int32,
        Int64,
        Integer,
        Shaped,
        UInt8,
        UInt16,
    )
except ImportError:

    class _Unchecked:
        """Return the array type, whatever the shape says."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Float = Float32 = Float64 = Shaped = _Unchecked
    Int = Int32 = Int64 = Integer = UInt8 = UInt16 = _Unchecked

__all__ = [
    "Bool",
    "Float",
    "Float32",
    "Float64",
    "Int",
    "Int32",
    "Int64",
    "Integer",
    "Shaped",
    "UInt8",
    "UInt16",
]
