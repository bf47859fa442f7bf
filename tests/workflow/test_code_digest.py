"""The digest must change with the code a stage runs, and with nothing else."""

import pytest

from workflow.code_digest import CodeDigest

FILES = {
    "stages/__init__.py": "",
    "stages/fuse.py": "from core import volume\nfrom core.mesh import save\n"
    "def main():\n    save(volume.fuse(2))\n",
    "stages/score.py": "def main():\n    from core.score import iou\n    iou()\n",
    "core/__init__.py": "",
    "core/volume.py": "from core.camera import project\nLIMIT = 3\n"
    "def fuse(n):\n    return helper(project(n)) + LIMIT\n"
    "def helper(n):\n    return n\n"
    "def unused(n):\n    return n\n",
    "core/camera.py": 'def project(n):\n    """Say."""\n    return n\n',
    "core/mesh.py": "class Mesh:\n    def __init__(self):\n        self.a = 1\n"
    "def save(x):\n    Mesh()\n",
    "core/score.py": "def iou():\n    return 1\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
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
        ("core/volume.py", "helper(n):\n    return n", "helper(n):\n    return 0",
         {"fuse"}),
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
