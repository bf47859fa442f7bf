"""The digest must change with the code a stage runs, and with nothing else."""

import pytest

from workflow.code_digest import CodeDigest

FILES = {
    "stages/__init__.py": "",
    "stages/fuse.py": "from core import volume\nfrom core.mesh import save\n"
    "from core.order import X\nimport core.deep.inner\n"
    "def main():\n    save(volume.fuse(X + core.deep.inner.f()))\n",
    "stages/score.py": "def main():\n    from core.score import iou\n    iou()\n",
    "core/__init__.py": "",
    "core/volume.py": "import zlib\nfrom core.camera import project\nLIMIT = 3\n"
    "def fuse(n):\n    return helper(project(n)) + LIMIT\n"
    "def helper(n):\n    return zlib.crc32(n)\n"
    "def unused(n):\n    return n\n",
    "core/order.py": "X = 1\nX += 1\nX *= 2\n",
    "core/deep/__init__.py": "",
    "core/deep/inner.py": "def f():\n    return 1\n",
    "core/camera.py": 'def project(n):\n    """Say."""\n    return n\n',
    "core/mesh.py": "class Mesh:\n    def __init__(self):\n        self.a = 1\n"
    "def save(x):\n    Mesh()\n",
    "core/score.py": "def iou():\n    return 1\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(name, old, new):
        path = tmp_path / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def changed_stages(name, old, new):
        before = {s: CodeDigest(tmp_path).of(f"stages.{s}") for s in ("fuse", "score")}
        edit(name, old, new)
        after = {s: CodeDigest(tmp_path).of(f"stages.{s}") for s in ("fuse", "score")}
        return {s for s in before if before[s] != after[s]}

    return changed_stages


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("core/camera.py", "return n", "return n + 1", {"fuse"}),
        ("core/volume.py", "LIMIT = 3", "LIMIT = 4", {"fuse"}),
        ("core/volume.py", "zlib.crc32(n)", "zlib.adler32(n)", {"fuse"}),
        ("core/volume.py", "import zlib", "import bz2 as zlib", {"fuse"}),
        ("core/volume.py", "import zlib", "import zlib\nimport unneeded", set()),
        ("core/order.py", "X = 1\nX += 1\nX *= 2", "X = 1\nX *= 2\nX += 1",
         {"fuse"}),
        ("core/deep/inner.py", "return 1", "return 2", {"fuse"}),
        ("core/volume.py", "unused(n):\n    return n", "unused(n):\n    return 0",
         set()),
        ("core/mesh.py", "self.a = 1", "self.a = 2", {"fuse"}),
        ("core/score.py", "return 1", "return 2", {"score"}),
        ("core/score.py", "return 1", "return 1  # one", set()),
        ("core/camera.py", '"""Say."""', '"""Say it better."""', set()),
        ("core/camera.py", 'def project(n):\n', 'def project(\n    n,\n):\n', set()),
        ("core/volume.py", "LIMIT = 3\n", "LIMIT = 3\nLIMIT += 1\n", {"fuse"}),
    ],
)  # fmt: skip
def test_exactly_the_stages_that_run_an_edited_definition_change(
    tree, name, old, new, expected
):
    assert tree(name, old, new) == expected


def test_the_changed_file_is_named(tmp_path, tree):
    before = CodeDigest(tmp_path).of("stages.fuse")
    tree("core/camera.py", "return n", "return n + 1")
    after = CodeDigest(tmp_path).of("stages.fuse")
    assert {f for f in before if before[f] != after[f]} == {"core/camera.py"}


def test_a_recipe_that_names_no_module_is_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="core.orcale: no such module"):
        CodeDigest(tmp_path).of("stages.fuse", "core.orcale")
