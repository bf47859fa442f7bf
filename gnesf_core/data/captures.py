"""Open a capture and its 2D labels by the name of its format.

`scannet`: one `.sens` file, labels in `<scene>_2d-label-filt.zip` by ScanNet id.
`replica`: a folder as Semantic-NeRF renders it, named by its `traj_w_c.txt`, labels in
`semantic_class/` by class id. Both meet the 20 classes through a label map.
`capture`: anybody's folder of posed pictures, without labels, named by the file that
`capture_file` finds.
"""

import hashlib
from pathlib import Path

import numpy as np

from gnesf_core.data import colmap, nerfstudio, posed_folder
from gnesf_core.data.label_zip import LabelZip
from gnesf_core.data.posed_images import Capture, PosedImages
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.replica import ReplicaScan
from gnesf_core.data.scan import Scan
from gnesf_core.data.sens import SensReader
from gnesf_core.errors import BadInput
from gnesf_core.labels import LabelMap
from gnesf_core.shapes import UInt8


def open_scan(format: str, path: Path, released_intrinsics: bool = False) -> Scan:
    """Open the raw capture at `path`; the caller closes it.

    Published systems read Replica with a wrong intrinsic; see `ReplicaScan`.
    """
    if format == "scannet":
        return SensReader(path)
    if format == "replica":
        return ReplicaScan(Path(path).parent, released_intrinsics)
    if format == "capture":
        return PosedImages(_read_capture(Path(path)))
    raise BadInput(
        path,
        "format",
        expected="scannet, replica or capture",
        found=format,
        remedy="correct `format` of the data set in the config",
    )


def capture_file(folder: Path) -> Path:
    """Return the file that a folder of posed pictures is opened by."""
    models = [
        folder / model / f"images{suffix}"
        for model in colmap.MODEL_FOLDERS
        for suffix in (".bin", ".txt")
    ]
    for path in (folder / nerfstudio.TRANSFORMS, *models):
        if path.is_file():
            return path
    intrinsics = posed_folder.intrinsics_of(folder)
    if intrinsics is not None:
        return intrinsics
    if posed_folder.is_posed_folder(folder):
        posed_folder.missing_intrinsics(folder)
    raise BadInput(
        folder,
        "folder",
        expected="transforms.json (nerfstudio), sparse/0/images.bin (COLMAP), or "
        "pictures with pose files and intrinsics.txt",
        found="none of these",
        remedy="name the folder that holds one of them; docs/captures.md shows each",
    )


def _read_capture(path: Path) -> Capture:
    """Read the capture of a folder, or of the file that stands for it."""
    if not path.is_file():
        path = capture_file(path if path.is_dir() else path.parent)
    if path.name == nerfstudio.TRANSFORMS:
        return nerfstudio.read_nerfstudio(path)
    if path.name in ("images.bin", "images.txt"):
        return colmap.read_colmap(path)
    return posed_folder.read_posed_folder(path)


class ScanNetLabels:
    """ScanNet's rendered label images, mapped to the 20 classes."""

    def __init__(self, archive: Path, label_map: LabelMap, scan: Scan) -> None:
        self._zip = LabelZip(archive)
        self._indices = set(self._zip.indices)
        self._classes = label_map.train_ids_from_id
        self._size = scan.info.color_height, scan.info.color_width
        self._archive = archive

    def read(self, index: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return class ids at the colour camera's size; None where none are kept."""
        if index not in self._indices:
            return None
        ids = self._zip.read(index)
        _check_size(self._archive, index, ids.shape, self._size)
        return self._classes[ids]

    def fingerprint(self) -> str:
        """Return the digest of the archive."""
        return sha256_of(self._archive)

    def __enter__(self) -> "ScanNetLabels":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


class ReplicaLabels:
    """Replica's rendered class images, mapped to the 20 classes."""

    def __init__(self, scan: ReplicaScan, label_map: LabelMap) -> None:
        self._scan = scan
        self._classes = label_map.train_ids_from_id

    def read(self, index: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return class ids at the camera's size."""
        return self._classes[self._scan.semantic_ids(index)]

    def fingerprint(self) -> str:
        """Return the digest of all class images."""
        digest = hashlib.sha256()
        for index in range(self._scan.info.frame_count):
            digest.update(self._scan.semantic_ids(index).tobytes())
        return digest.hexdigest()

    def __enter__(self) -> "ReplicaLabels":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_labels(
    archive: Path, label_map: LabelMap, scan: Scan
) -> ScanNetLabels | ReplicaLabels:
    """Open the 2D labels that belong to `scan`."""
    if isinstance(scan, ReplicaScan):
        return ReplicaLabels(scan, label_map)
    return ScanNetLabels(archive, label_map, scan)


def _check_size(
    archive: Path, index: int, found: tuple[int, ...], expected: tuple[int, int]
) -> None:
    if found != expected:
        raise BadInput(
            archive,
            f"label image {index}",
            expected=f"{expected[1]}x{expected[0]} pixels, the colour camera's size",
            found=f"{found[1]}x{found[0]}",
            remedy="take the label archive that belongs to this release of the scan",
        )
