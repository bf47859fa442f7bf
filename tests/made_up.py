"""Frames files of made-up pictures, for tests that need no room."""

import numpy as np

from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.geometry.camera import look_at


def write_frames_file(
    folder, scene, frames=3, size=(97, 61), labels=None, labelled=True, seed=0
):
    """Write `frames` random pictures (every other one a key frame); return the path."""
    rng = np.random.default_rng([seed, *scene.encode()])
    width, height = size
    depth_size = (32, 24)
    info = ScanInfo(
        folder / f"{scene}.sens", frames, width, height, *depth_size,
        np.array([[0.8 * width, 0, (width - 1) / 2],
                  [0, 0.8 * width, (height - 1) / 2], [0, 0, 1]]),
        np.array([[25.0, 0, 15.5], [0, 25, 11.5], [0, 0, 1]]),
        1000.0, "png", "zlib",
    )  # fmt: skip
    poses = np.stack(
        [look_at((0.1 * i, 0, 1.5), (3, 0.2 * i, 1)) for i in range(frames)]
    )
    index = np.arange(frames)
    selection = store.Selection(
        index, index % 2 == 0, index % 2 == 1, np.full((1, 9), -1)
    )
    path = folder / f"{scene}.h5"
    status = np.zeros(frames, np.uint8)
    made_by = provenance("test", {"seed": seed}, {"scan": scene})
    with store.write_frames(
        path, scene, info, poses, status, selection, labelled, made_by
    ) as writer:
        for number in range(frames):
            blocks = rng.integers(0, 20, (height // 8 + 1, width // 8 + 1))
            own = np.kron(blocks, np.ones((8, 8)))[:height, :width].astype(np.uint8)
            own = own if labels is None else labels[number]
            rgb = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
            depth = rng.integers(500, 3000, depth_size[::-1], dtype=np.uint16)
            writer.add(images.encode_png(rgb), depth, own if labelled else None)
    return path
