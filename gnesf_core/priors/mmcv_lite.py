"""mmcv without its compiled operations, and mmdet without transformers.

The wheel `mmcv-lite` has the Python files of `mmcv.ops` but not the module `mmcv._ext`
with the operations in C++ and CUDA that they look up when they are imported.
Mask2Former needs one of them, multi-scale deformable attention, and mmcv itself has
that one in plain PyTorch as well; it takes it for tensors that are not on a GPU.

For models that read text, mmdet and mmengine import transformers where they find it.
It takes seconds, of every job that is to label a scene's pictures.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NoReturn

_COMPILED = "mmcv._ext"


def use_plain_torch_ops() -> None:
    """Let `mmcv.ops` be imported without compiled operations.

    To be called before mmcv.ops, mmdet or mmseg is first imported. Where mmcv has its
    compiled operations nothing happens.
    """
    if _COMPILED not in sys.modules and importlib.util.find_spec(_COMPILED) is None:
        sys.modules[_COMPILED] = _MissingOperations(_COMPILED)
    if isinstance(sys.modules.get(_COMPILED), _MissingOperations):
        attention = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
        attention.IS_CUDA_AVAILABLE = False  # on a GPU it would take the compiled one


@contextlib.contextmanager
def without_transformers() -> Iterator[None]:
    """Let mmcv and mmdet be imported as if there were none, unless it is loaded."""
    if "transformers" in sys.modules:
        yield
        return
    sys.modules["transformers"] = None  # whoever imports it is told that it is missing
    try:
        yield
    finally:
        del sys.modules["transformers"]


class _MissingOperations(ModuleType):
    """Stands for mmcv._ext: operations are found, and fail when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} has no {name}")

        def missing(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(
                f"{name} needs mmcv's compiled operations; mmcv-lite has none"
            )

        return missing
