"""Semantic classes: NYU40 ids, the benchmark's 20 classes, ScanNet's label map.

Three numberings meet here. ScanNet ids (16 bit) stand in the 2D label images, nyu40
ids (0..40) in label meshes and evaluation files, train ids (0..19, `IGNORE` for the
rest) everywhere inside. No lookup falls back to a class: what is unknown is ignored.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Integer, UInt8

IGNORE = 255

NYU40_NAMES = (
    "unannotated",
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
    "otherprop",
)
NYU40_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
CLASS_NAMES = tuple(NYU40_NAMES[nyu40] for nyu40 in NYU40_IDS)

PALETTE = np.array(
    [
        (174, 199, 232),
        (152, 223, 138),
        (31, 119, 180),
        (255, 187, 120),
        (188, 189, 34),
        (140, 86, 75),
        (255, 152, 150),
        (214, 39, 40),
        (197, 176, 213),
        (148, 103, 189),
        (196, 156, 148),
        (23, 190, 207),
        (247, 182, 210),
        (219, 219, 141),
        (255, 127, 14),
        (158, 218, 229),
        (44, 160, 44),
        (112, 128, 144),
        (227, 119, 194),
        (82, 84, 163),
    ],
    dtype=np.uint8,
)
PALETTE.setflags(write=False)

# ScanNet's map gives these ids two nyu40 ids, once for the singular and once for the
# plural of the raw category. Label images hold only the id, so the row with more
# annotated instances decides and most pixels come out right:
#   107 pipe 25 x 40 (otherprop), pipes 8 x 38 (otherstructure)
#   188 shower door 19 x 8 (door), shower doors 3 x 38 (otherstructure)
#   385 cabinet door 3 x 8 (door), cabinet doors 3 x 3 (cabinet): a tie; the door of a
#       cabinet is a part of it, and tools in which the later row wins say so too.
# Raw categories are never ambiguous, so labels of meshes are exact.
AMBIGUOUS = {107: (40, {38, 40}), 188: (8, {8, 38}), 385: (3, {3, 8})}

_ID_COUNT = 1 << 16
_MAX_BYTES = 4 << 20
_COLUMNS = ("id", "raw_category", "nyu40id")
_REMEDY = "use the scannetv2-labels.combined.tsv that ScanNet distributes"

_TRAIN_FROM_NYU40 = np.full(_ID_COUNT, IGNORE, np.uint8)
_TRAIN_FROM_NYU40[list(NYU40_IDS)] = np.arange(len(NYU40_IDS))
_NYU40_FROM_TRAIN = np.zeros(256, np.uint8)
_NYU40_FROM_TRAIN[: len(NYU40_IDS)] = NYU40_IDS


def train_ids_from_nyu40(
    nyu40: Integer[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"]:
    """Return classes 0..19; every other id (0, 40, 50, 149, -1) becomes `IGNORE`."""
    nyu40 = np.asarray(nyu40)
    if nyu40.dtype not in (np.uint8, np.uint16):
        known = (nyu40 >= 0) & (nyu40 < _ID_COUNT)
        nyu40 = np.where(known, nyu40, 0).astype(np.uint16)
    return _TRAIN_FROM_NYU40[nyu40]


def nyu40_from_train_ids(
    train_ids: UInt8[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"]:
    """Return benchmark ids; `IGNORE` and anything above 19 become 0, unannotated."""
    return _NYU40_FROM_TRAIN[np.asarray(train_ids, np.uint8)]


@dataclass(frozen=True)
class LabelMap:
    """What ScanNet's ids and free-text categories mean in nyu40 ids."""

    nyu40_from_id: UInt8[np.ndarray, " 65536"]  # 0 where the map has no such id
    nyu40_from_category: dict[str, int]

    @property
    def train_ids_from_id(self) -> UInt8[np.ndarray, " 65536"]:
        """Return the lookup from ScanNet ids to train ids; unknown ids to `IGNORE`."""
        return _TRAIN_FROM_NYU40[self.nyu40_from_id]

    @classmethod
    def read(cls, path: Path, sha256: tuple[str, ...] | None = None) -> "LabelMap":
        """Read a table in the columns of scannetv2-labels.combined.tsv.

        Args:
            path: The table; a byte order mark, CRLF line ends, blank lines and
                trailing blanks are folded away.
            sha256: Accepted digests as `label_map_digest` computes them; none given
                means that any content is accepted.

        Raises:
            BadInput: A row or the digest is not what it should be.
        """
        data = read_bounded(path, _MAX_BYTES, _REMEDY)
        if sha256 and (found := label_map_digest(data)) not in sha256:
            raise BadInput(
                path,
                "sha256 of the folded text",
                expected=" or ".join(sha256),
                found=found,
                remedy=f"{_REMEDY}, or add the digest to the configuration",
            )
        rows = list(_rows(path, data))
        nyu40_from_id = np.zeros(_ID_COUNT, np.uint8)
        for scannet_id, meanings in _grouped(rows, key=0).items():
            nyu40_from_id[scannet_id] = _decide(path, scannet_id, meanings)
        nyu40_from_id.setflags(write=False)
        nyu40_from_category = {
            category: _decide(path, category, meanings)
            for category, meanings in _grouped(rows, key=1).items()
        }
        return cls(nyu40_from_id, nyu40_from_category)


def label_map_digest(data: bytes) -> str:
    """Return the SHA-256 of a label map without its accidents of transport.

    Copies in circulation differ in line ends, trailing blanks and empty last cells;
    the digest does not.
    """
    text = data.decode("utf-8-sig", errors="replace")
    folded = "".join(f"{line}\n" for _, line in _folded_lines(text))
    return hashlib.sha256(folded.encode()).hexdigest()


def _folded_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold something, with their numbers in the file."""
    for number, line in enumerate(re.split(r"\r*\n|\r", text), start=1):
        folded = "\t".join(cell.rstrip() for cell in line.split("\t")).rstrip()
        if folded:
            yield number, folded


def _rows(path: Path, data: bytes) -> Iterator[tuple[int, str, int, int]]:
    """Yield (ScanNet id, raw category, nyu40 id, line number) of every row."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            path, f"line {line}", expected="UTF-8 text", found=error, remedy=_REMEDY
        ) from None
    lines = _folded_lines(text)
    header_number, header = next(lines, (1, ""))
    names = header.split("\t")
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise BadInput(
            path,
            f"line {header_number}",
            expected=f"the tab-separated columns {', '.join(_COLUMNS)}",
            found=f"no column {', '.join(missing)}",
            remedy=_REMEDY,
        )
    id_column, category_column, nyu40_column = map(names.index, _COLUMNS)
    for number, line in lines:
        cells = line.split("\t")
        cells += [""] * (len(names) - len(cells))
        scannet_id = _integer(path, number, "id", cells[id_column], 1, _ID_COUNT - 1)
        nyu40 = _integer(path, number, "nyu40id", cells[nyu40_column], 0, 40)
        yield scannet_id, cells[category_column].strip(), nyu40, number


def _integer(
    path: Path, line: int, column: str, cell: str, lowest: int, highest: int
) -> int:
    """Return the cell's value; short digits only, so that no cell is slow to parse."""
    if re.fullmatch(r"[0-9]{1,9}", cell) and lowest <= int(cell) <= highest:
        return int(cell)
    raise BadInput(
        path,
        f"line {line}, column {column}",
        expected=f"an integer in {lowest}..{highest}",
        found=repr(cell[:40]),
        remedy=_REMEDY,
    )


def _grouped(
    rows: list[tuple[int, str, int, int]], key: int
) -> dict[int | str, dict[int, list[int]]]:
    """Return {key: {nyu40 id: lines that say so}}."""
    grouped: dict = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row[key]][row[2]].append(row[3])
    return grouped


def _decide(path: Path, name: int | str, meanings: dict[int, list[int]]) -> int:
    if len(meanings) == 1:
        return next(iter(meanings))
    decided, options = AMBIGUOUS.get(name, (0, set()))
    if set(meanings) == options:
        return decided
    lines = sorted(line for lines in meanings.values() for line in lines)
    raise BadInput(
        path,
        f"lines {', '.join(map(str, lines))}",
        expected=f"one nyu40id for {name!r}",
        found=sorted(meanings),
        remedy=_REMEDY,
    )
