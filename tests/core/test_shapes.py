"""The canary: a wrong shape must be caught, or no annotation means anything."""

import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from gnesf_core.geometry.camera import transform


def test_a_wrong_shape_is_refused_while_tests_run():
    with pytest.raises(TypeCheckError):
        transform(np.eye(4), np.zeros((3, 5)))


def test_the_core_imports_on_a_bare_node():
    # A GPU node has torch, numpy and h5py; everything else must be imported late.
    absent = ("jaxtyping", "beartype", "PIL", "isal", "numba", "open3d", "scipy",
              "skimage", "trimesh", "pandas", "matplotlib", "snakemake", "yaml",
              "argparse", "mmcv", "mmengine", "mmseg", "mmdet", "transformers",
              "safetensors", "tensorboard", "triton", "torchsparse")  # fmt: skip
    # These are about such a library, and are imported only where it is used.
    late = ("__init__", "compiled", "tsdf_numba", "back_projection_numba",
            "back_projection_triton", "visibility_numba", "implicit",
            "mask2former_mmseg", "mask2former_transformers", "voting_numba",
            "layers_numba", "map_sampling_numba")  # fmt: skip
    program = f"""
import pathlib, sys
import torch, numpy, h5py
for name in [n for n in sys.modules if n.split(".")[0] in {absent!r}]:
    del sys.modules[name]
for name in {absent!r}:
    sys.modules[name] = None
root = pathlib.Path("gnesf_core")
for path in sorted(root.rglob("*.py")):
    if path.stem not in {late!r}:
        __import__(".".join(path.with_suffix("").parts))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
