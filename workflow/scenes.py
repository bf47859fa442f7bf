"""Which scenes a data set has, before any file of theirs is looked at."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPLIT_NAMES = ("train", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def read_splits(dataset: str, config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the scenes of each split; a name that could do harm is refused."""
    described = config["datasets"][dataset]
    if dataset == "synthrooms":
        return _counted(config["synthrooms"])
    if described["format"] == "capture" and not described["splits"]:
        return {"train": [], "val": [], "test": _folders(Path(described["root"]))}
    if isinstance(described["splits"], str):
        return _published(described["splits"])
    splits: dict[str, list[str]] = {}
    for split in SPLIT_NAMES:
        path = described["splits"].get(split)
        splits[split] = _read_list(Path(path)) if path else []
        for other in splits:
            shared = set(splits[other]) & set(splits[split])
            if other != split and shared:
                raise ValueError(
                    f"{path}: expected no scene of the {other} split, found "
                    f"{min(shared)}; remedy: a scene belongs to one split"
                )
    return splits


def evenly_spread(scenes: Sequence[str], most: int) -> list[str]:
    """Return so many scenes, evenly spread over their list; all for 0."""
    most = min(most, len(scenes)) or len(scenes)
    return [scenes[(2 * n + 1) * len(scenes) // (2 * most)] for n in range(most)]


def _published(name: str) -> dict[str, list[str]]:
    """Return ScanNet's scenes as a system's authors list them.

    What they test is judged, as ScanNet's own validation scenes are: all of them have
    labels. Scenes that chose their checkpoints, some of which they test, have no part
    here, where training holds some of its own out: so nothing leaks.
    """
    from gnesf_core.evaluation import view_splits

    lists = view_splits.without_leaks(view_splits.RELEASED_SCENES[name, "scannet"])
    return {"train": list(lists.train), "val": list(lists.test), "test": []}


def _counted(config: Mapping[str, int]) -> dict[str, list[str]]:
    """Number SynthRooms' scenes through: training, then validation, then test."""
    splits: dict[str, list[str]] = {}
    start = 0
    for split in SPLIT_NAMES:
        count = config[f"scenes_{split}"]
        splits[split] = [f"scene{i:04d}_00" for i in range(start, start + count)]
        start += count
    return splits


# What a folder of posed pictures is opened by: the first of these that it has.
CAPTURE_FILES = (
    "transforms.json",
    *(
        f"{folder}images{suffix}"
        for folder in ("sparse/0/", "sparse/", "")
        for suffix in (".bin", ".txt")
    ),
    "intrinsics.txt",
    "intrinsic_color.txt",
    "intrinsic/intrinsic_color.txt",
)


def capture_file(folder: Path) -> str:
    """Name the file by which a folder of posed pictures is opened."""
    for name in CAPTURE_FILES:
        if (folder / name).is_file():
            return str(folder / name)
    # Whoever opens captures knows what is amiss; it takes long to import.
    from gnesf_core.data import captures
    from gnesf_core.errors import BadInput

    try:
        return str(captures.capture_file(folder))
    except BadInput as error:
        raise ValueError(str(error)) from None


def _folders(root: Path) -> list[str]:
    """Name the folders below `root`, each of which is one person's capture."""
    found = root.iterdir() if root.is_dir() else ()
    names = [path.name for path in found if path.is_dir() and path.name[0] != "."]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{root}: expected folders named by letters, digits, _ and -, found "
                f"{name[:80]!r}; remedy: rename it"
            )
    if not names:
        raise ValueError(
            f"{root}: expected a folder of posed pictures for each scene, found none; "
            "remedy: put them there, or correct `root` of the data set in the config"
        )
    return sorted(names)


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(
            f"{path}: expected a list of scenes, found no such file; "
            "remedy: correct `splits` in the config"
        )
    names: dict[str, None] = {}  # ordered, without duplicates
    for number, line in enumerate(
        path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1
    ):
        name = line.strip()
        if not name:
            continue
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{path}: line {number}: expected a scene's name, found {name[:80]!r}; "
                "remedy: one name of letters, digits, _ and - per line"
            )
        names[name] = None
    return list(names)
