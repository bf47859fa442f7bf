"""Weights on disk: safetensors of ours, and checkpoints of others read without trust.

A pickled checkpoint is read by an unpickler that knows tensors, and leaves out a few
harmless things beside them, so that opening somebody's file never runs somebody's code.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gnesf_core.data.publish import checksum_path, publish, verify
from gnesf_core.errors import BadInput

_PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_AGAIN = "get another copy"
_CONVERT = (
    "get another copy; or, if you trust it, torch.load it with weights_only off, and "
    "safetensors.torch.save_file the dict of its tensors"
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _LeftOut:
    """What stands in a checkpoint for something that is no tensor; it does nothing."""

    def __new__(cls, *_values: object) -> "_LeftOut":
        return super().__new__(cls)

    def __init__(self, *_values: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _method(owner: object, _name: object) -> _LeftOut:
    """Stand for a method of something left out, which `getattr` is asked for."""
    if owner is not _LeftOut:
        raise pickle.UnpicklingError("GLOBAL getattr")
    return _LeftOut()


def _list(*_values: object) -> list[object]:
    return []


# What mmengine keeps in "message_hub" beside the weights, and how that is pickled. None
# of these names means what it says: each stands for something inert.
_INERT = [
    (_LeftOut, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_LeftOut, "mmengine.logging.message_hub.MessageHub"),
    (_LeftOut, "numpy.ndarray"),
    (_LeftOut, "numpy.dtype"),
    (_LeftOut, "numpy.core.multiarray._reconstruct"),
    (_LeftOut, "numpy.core.multiarray.scalar"),
    (_LeftOut, "numpy._core.multiarray._reconstruct"),
    (_LeftOut, "numpy._core.multiarray.scalar"),
    (_list, "collections.deque"),
    (_method, "builtins.getattr"),
]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a weights file.

    A checkpoint is a state dict, or has one under "state_dict" or "model". If a
    checksum lies beside the file, the file must agree with it.
    """
    path = Path(path)
    if not path.is_file():
        _refuse(path, "file", "weights", "no such file", "correct the path")
    if checksum_path(path).is_file() and (complaint := verify(path)):
        whole = "the bytes that were published"
        _refuse(path, complaint[0], whole, complaint[1], _AGAIN)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in _PICKLED:
        kinds = f"a name that ends in .safetensors {' '.join(_PICKLED)}"
        _refuse(path, "file name", kinds, path.name, "rename it, or convert it")
    content = read_pickled(path)
    if not isinstance(content, dict):
        _refuse(path, "content", "a dict of tensors", type(content).__name__)
    inner = [content.get(name) for name in ("state_dict", "model")]
    content = next((part for part in inner if isinstance(part, dict)), content)
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            _refuse(path, f"entry {name!r}", "a tensor", type(value).__name__)
    return {name: value.detach() for name, value in content.items()}, {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        _refuse(path, "content", "safetensors", error, _AGAIN)


def read_pickled(path: Path) -> Any:
    """Load what `torch.save` wrote, if it is plain values and tensors alone.

    What mmengine logs beside them is left out.
    """
    try:
        with torch.serialization.safe_globals(_INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of a stranger fail in every way there is
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a pickle that asks for {code[1]}" if code else type(error).__name__
        _refuse(path, "content", "an intact checkpoint of tensors alone", found)


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Publish tensors and texts as safetensors; equal content gives equal bytes."""
    from safetensors.torch import save

    # Each entry gets memory of its own: the format knows no views and no sharing.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    data = memoryview(save(copies, dict(metadata)))
    end = 8 + int.from_bytes(data[:8], "little")
    # The library leaves the order of the metadata to chance.
    header = json.dumps(json.loads(bytes(data[8:end])), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with publish(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.write(data[end:])


def load_into(module: nn.Module, path: Path) -> dict[str, str]:
    """Give a module the weights of a file, all of them; return the file's metadata."""
    tensors, metadata = read_weights(path)
    if complaint := misfit(module, tensors):
        expected = f"the weights of {type(module).__name__}"
        _refuse(path, "names", expected, complaint, "take weights of the same recipe")
    module.load_state_dict(tensors)
    return metadata


def misfit(module: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """Say which tensors a module lacks, does not know, or cannot take."""
    own = module.state_dict()
    both = [name for name in own if name in tensors]
    flaws = {name: flaw(tensors[name], own[name]) for name in both}
    lists = {
        "missing": [name for name in own if name not in tensors],
        "unexpected": [name for name in tensors if name not in own],
        "unusable": [f"{name} ({why})" for name, why in flaws.items() if why],
        "misshapen": [
            f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}"
            for name in both
            if not flaws[name] and tensors[name].shape != own[name].shape
        ],
    }
    parts = [
        f"{why} {', '.join(names[:3])}"
        + (f" and {len(names) - 3} more" * (len(names) > 3))
        for why, names in lists.items()
        if names
    ]
    return "; ".join(parts) or None


def flaw(tensor: Tensor, own: Tensor) -> str | None:
    """Say why a tensor cannot be the values of a module's own, shapes aside."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        return "not a dense tensor with values"
    real = own.is_floating_point()
    if real != tensor.is_floating_point() or (real and tensor.dtype not in _FLOATS):
        return f"{tensor.dtype} for {own.dtype}"
    if tensor.shape == own.shape and not tensor.to(own.dtype).isfinite().all():
        return "not finite"
    return None


def _refuse(
    path: Path, place: str, expected: str, found: object, remedy: str = _CONVERT
) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=remedy)
