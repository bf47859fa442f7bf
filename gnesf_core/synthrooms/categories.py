"""The label map of SynthRooms, in the columns of ScanNet's own.

As in ScanNet, several raw categories mean the same class, many belong to no class of
the benchmark, and ids run far beyond 40.
"""

from gnesf_core.labels import NYU40_NAMES

# id, raw category, nyu40 id
CATEGORIES: tuple[tuple[int, str, int], ...] = (
    (1, "wall", 1),
    (2, "chair", 5),
    (3, "floor", 2),
    (7, "cabinet", 3),
    (5, "door", 8),
    (6, "couch", 6),
    (9, "desk", 14),
    (10, "office chair", 5),
    (11, "bed", 4),
    (13, "pillow", 18),
    (14, "sink", 34),
    (15, "picture", 11),
    (16, "window", 9),
    (17, "toilet", 33),
    (18, "bookshelf", 10),
    (19, "monitor", 40),
    (21, "curtain", 16),
    (22, "books", 23),
    (23, "armchair", 5),
    (24, "coffee table", 7),
    (26, "box", 29),
    (27, "refrigerator", 24),
    (28, "lamp", 35),
    (29, "kitchen cabinets", 3),
    (31, "towel", 27),
    (33, "tv", 25),
    (34, "nightstand", 32),
    (36, "dresser", 17),
    (40, "plant", 40),
    (41, "ceiling", 22),
    (42, "bathtub", 36),
    (43, "end table", 7),
    (44, "dining table", 7),
    (46, "keyboard", 40),
    (47, "bag", 37),
    (50, "tv stand", 3),
    (52, "whiteboard", 30),
    (54, "shower curtain", 28),
    (55, "trash can", 39),
    (59, "microwave", 40),
    (62, "stove", 38),
    (67, "ottoman", 39),
    (71, "mirror", 19),
    (75, "file cabinet", 3),
    (89, "radiator", 39),
    (97, "bottle", 40),
    (105, "rug", 20),
    (276, "wardrobe", 3),
    (357, "kitchen counter", 12),
    (399, "kitchen cabinet", 3),
    (460, "bathroom counter", 12),
    (1163, "bathroom vanity", 3),
)

ID_FROM_CATEGORY = {name: label for label, name, _ in CATEGORIES}
NYU40_FROM_CATEGORY = {name: nyu40 for _, name, nyu40 in CATEGORIES}


def label_rows() -> list[dict[str, str]]:
    """Return the rows of the label map, with the columns that ScanNet's has."""
    return [
        {
            "id": str(label),
            "raw_category": name,
            "category": name,
            "count": "1",
            "nyu40id": str(nyu40),
            "eigen13id": "",
            "nyuClass": NYU40_NAMES[nyu40],
            "nyu40class": NYU40_NAMES[nyu40],
            "eigen13class": "",
            "ModelNet40": "",
            "ModelNet10": "",
            "ShapeNetCore55": "",
            "synsetoffset": "",
            "wnsynsetid": "",
            "wnsynsetkey": "",
            "mpcat40": "",
            "mpcat40index": "",
        }
        for label, name, nyu40 in CATEGORIES
    ]
