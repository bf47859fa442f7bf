"""The page and the GLB of a floor of strips, where everything is known exactly."""

import base64
import gzip
import io
import itertools
import json
from html.parser import HTMLParser

import numpy as np
import open3d
import pytest
import trimesh

from gnesf_core.data.meshes import LabelledMesh, write_mesh
from gnesf_core.data.scannet import write_mesh_labels
from gnesf_core.labels import CLASS_NAMES, IGNORE, PALETTE, nyu40_from_train_ids
from gnesf_core.viz.picture import UNLABELLED
from gnesf_core.viz.scene_page import scene_page
from stages import view_scene
from tests import chromium

SCENE, FIELD = "scene0000_00", "gnesf"
SIDE_M, CELLS = 4.0, 80
FLOOR, SOFA, TABLE = (CLASS_NAMES.index(name) for name in ("floor", "sofa", "table"))
STRIPS = (FLOOR, TABLE, SOFA, IGNORE)  # one a metre along x
CHAIR_NYU40 = 5
HOSTILE = "</script><script>document.body.dataset.owned = 1</script><b \"'&[MESH]"
needs_browser = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="no chromium on this machine"
)


def floor(cells=CELLS):
    """Return a square floor in strips; confidence rises along y from 0 to 1."""
    x, y = np.meshgrid(*2 * [np.linspace(0, SIDE_M, cells + 1)], indexing="ij")
    vertices = np.stack([x, y, 0.05 * np.sin(3 * x)], axis=-1).reshape(-1, 3)
    first = np.arange((cells + 1) ** 2).reshape(cells + 1, -1)
    a, b, c, d = first[:-1, :-1], first[1:, :-1], first[1:, 1:], first[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)
    strip = np.minimum(vertices[:, 0], SIDE_M - 1).astype(int)
    return LabelledMesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        np.array(STRIPS, np.uint8)[strip],
        (vertices[:, 1] / SIDE_M).astype(np.float32),
        np.full((len(vertices), 3), (150, 40, 30), np.uint8),
    )


def pole():
    """Return an upright pole in the middle of everything."""
    box = trimesh.creation.box([0.1, 0.1, 2.0])
    count = len(box.vertices)
    return LabelledMesh(
        box.vertices.astype(np.float32),
        box.faces.astype(np.int32),
        np.full(count, SOFA, np.uint8),
        np.ones(count, np.float32),
        np.zeros((count, 3), np.uint8),
    )


def truth_at(confidence, said):
    """Return the true class by the rule of `true_nyu40`, from the confidence."""
    if confidence < 0.5:
        return said
    return "chair" if confidence < 0.89 else "no class"


def true_nyu40(mesh):
    """Return the truth: as predicted, then chair, then nothing along y."""
    said, share = nyu40_from_train_ids(mesh.label), mesh.confidence
    return np.where(share < 0.89, np.where(share < 0.5, said, CHAIR_NYU40), 0)


def make(folder, mesh, with_truth=True):
    write_mesh(folder / "mesh.ply", SCENE, mesh, {"inputs": {}})
    truth = folder / "truth.ply" if with_truth else None
    if with_truth:
        write_mesh_labels(truth, mesh.vertices_world, mesh.faces, true_nyu40(mesh))
    out, glb = folder / "page.html", folder / "mesh.glb"
    view_scene.main(folder / "mesh.ply", out, glb, FIELD, truth)
    return out, glb


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scene"), floor())


class Parsed(HTMLParser):
    """What a browser makes of a page: elements, and the text of those with an id."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self._open = dict(attributes).get("id", tag)
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        self.texts[self._open] = self.texts.get(self._open, "") + data


def embedded(path):
    """Unpack the mesh of a page, and the true classes."""
    texts = Parsed(path).texts
    about = json.loads(texts["about"])
    data = gzip.decompress(base64.b64decode(texts["mesh"], validate=True))
    vertices, triangles, place = about["vertices"], about["triangles"], 0
    columns = []
    for count in [vertices] * 3 + [triangles] * 3 + [vertices] * (5 + about["judged"]):
        low_first = np.frombuffer(data, np.uint8, 4 * count, place).reshape(4, -1)
        step = (low_first.astype(np.int64) << [[0], [8], [16], [24]]).sum(axis=0)
        columns.append(np.cumsum(np.where(step % 2, -(step + 1) // 2, step // 2)))
        place += 4 * count
    assert place == len(data)
    mesh = LabelledMesh(
        np.stack(columns[:3], axis=1).astype(np.float32) / 1000,
        np.stack(columns[3:6], axis=1).astype(np.int32),
        columns[6].astype(np.uint8),
        columns[7].astype(np.float32) / 255,
        np.stack(columns[8:11], axis=1).astype(np.uint8),
    )
    return mesh, columns[11].astype(np.uint8) if about["judged"] else None


def loaded(glb):
    (mesh,) = trimesh.load(io.BytesIO(glb), file_type="glb", process=False).dump()
    return mesh


def back_in_world(points):
    return points @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])


def assert_same(seen, mesh):
    np.testing.assert_array_equal(back_in_world(seen.vertices), mesh.vertices_world)
    np.testing.assert_array_equal(seen.faces, mesh.faces)
    own = seen.vertex_attributes
    np.testing.assert_array_equal(np.ravel(own["_CLASS"]), mesh.label)
    np.testing.assert_array_equal(np.ravel(own["_CONFIDENCE"]), mesh.confidence)
    np.testing.assert_array_equal(own["_PHOTO"][:, :3], mesh.color)


def test_the_page_holds_the_mesh_and_its_truth(made):
    (seen, truth), mesh = embedded(made[0]), floor()
    # Half a millimetre, and half a step of a byte.
    np.testing.assert_allclose(seen.vertices_world, mesh.vertices_world, atol=5.1e-4)
    np.testing.assert_allclose(seen.confidence, mesh.confidence, atol=0.51 / 255)
    for name in ("faces", "label", "color"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(mesh, name))
    named = [CLASS_NAMES[i] if i != IGNORE else "no class" for i in truth]
    said = [CLASS_NAMES[i] if i != IGNORE else "no class" for i in mesh.label]
    pairs = zip(mesh.confidence.astype(float), said, strict=True)
    assert named == [truth_at(*pair) for pair in pairs]


def test_the_glb_holds_the_mesh_without_the_truth(made):
    seen = loaded(made[1].read_bytes())
    assert_same(seen, floor())
    assert "_TRUTH" not in seen.vertex_attributes


def test_open3d_reads_the_same_vertices_with_y_up(made):
    seen, mesh = open3d.io.read_triangle_mesh(str(made[1])), floor()
    points, faces = np.asarray(seen.vertices), np.asarray(seen.triangles)
    corners = mesh.vertices_world[mesh.faces]  # Open3D numbers vertices anew
    np.testing.assert_array_equal(back_in_world(points)[faces], corners)
    assert np.ptp(points[:, 1]) < 0.2 < np.ptp(points[:, 2])
    assert seen.has_vertex_colors()


def test_the_page_loads_nothing_from_anywhere(made):
    page = Parsed(made[0])
    asked = {"src", "href", "srcset", "data", "action", "poster"}
    assert not [e for e in page.elements if asked & e[1].keys()]
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.split(";")[0] == "default-src 'none'"
    assert "http" not in policy and "url(" not in page.texts["style"]


def test_a_phone_is_told_the_width(made):
    named = [e[1] for e in Parsed(made[0]).elements if e[1].get("name") == "viewport"]
    assert named == [
        {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    ]


def test_hostile_names_stay_text(made, tmp_path):
    about = json.loads(Parsed(made[0]).texts["about"])
    about["classes"][FLOOR]["name"] = about["note"] = HOSTILE
    out = tmp_path / "page.html"
    out.write_text(scene_page(HOSTILE, about, *embedded(made[0])))
    hostile, harmless = Parsed(out), Parsed(made[0])
    assert hostile.elements == harmless.elements
    assert json.loads(hostile.texts["about"]) == about
    assert hostile.texts["title"] == hostile.texts["h1"] == HOSTILE


def test_equal_meshes_give_equal_pages(made, tmp_path):
    for old, new in zip(made, make(tmp_path, floor()), strict=True):
        assert new.read_bytes() == old.read_bytes()


def test_big_meshes_are_simplified_on_the_page_which_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(view_scene, "MOST_FACES", 2000)
    mesh = floor()
    page, glb = make(tmp_path, mesh)
    seen, _ = embedded(page)
    assert 1000 < len(seen.faces) <= 2000
    assert f"of {len(mesh.faces):,} triangles" in Parsed(page).texts["about"]
    assert_same(loaded(glb.read_bytes()), mesh)
    # Strips keep their places but for a cell's width.
    points = seen.vertices_world
    inside = np.abs(points[:, 0] - np.rint(points[:, 0])) > 1.5 * SIDE_M / CELLS
    strip = np.array(STRIPS)[np.clip(points[:, 0].astype(int), 0, 3)]
    np.testing.assert_array_equal(seen.label[inside], strip[inside])


def test_a_scene_without_surface_has_a_page_and_a_valid_glb(tmp_path):
    mesh, nothing = floor(), slice(0, 0)
    columns = (getattr(mesh, name)[nothing] for name in mesh.__dataclass_fields__)
    page, glb = make(tmp_path, LabelledMesh(*columns))
    assert Parsed(page).texts["title"] == f"{SCENE}, {FIELD}"
    assert not trimesh.load(glb).geometry


@pytest.mark.slow
def test_the_biggest_page_is_below_four_megabytes(tmp_path):
    mesh = floor(387)  # 300,000 triangles
    rough = np.random.default_rng(0).normal(0, 0.01, mesh.vertices_world.shape)
    mesh.vertices_world[:] += rough
    mesh.confidence[:] = np.random.default_rng(1).random(len(mesh.confidence))
    page, _ = make(tmp_path, mesh)
    assert len(embedded(page)[0].faces) == len(mesh.faces)
    assert page.stat().st_size < 4e6


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(browser, page, size=(900, 700), **how):
    browser.open(page, *size, **how)
    browser.wait("document.body.dataset.drawn === 'class'")
    return browser


def buttons(browser, where):
    script = f"[...document.querySelectorAll('{where} button')].map(b => b.innerText)"
    return browser.value(script)


def press(browser, where, start):
    script = f"[...document.querySelectorAll('{where} button')]"
    browser.value(f"{script}.find(b => b.innerText.startsWith('{start}')).click()")


def drawing(browser):
    """Return the pixels of the room, without what lies above them."""
    above = "document.querySelectorAll('header, footer, #told')"
    for visibility in ("hidden", "visible"):
        browser.value(f"{above}.forEach(e => e.style.visibility = '{visibility}')")
        if visibility == "hidden":
            picture = browser.picture()
    return picture


def coloured(picture, color):
    """Tell which pixels of the surface are a shade of a colour."""
    pixels, color = picture.astype(float), np.asarray(color, float)
    shade = pixels @ color / (color @ color)
    off = np.abs(pixels - shade[..., None] * color).max(axis=-1)
    return (off < 4) & (shade > 0.6) & (picture != 255).any(axis=-1)


def middle_of(where):
    """Return the pixel (x, y) of a set that is most surely inside."""
    rows, columns = np.nonzero(where)
    best = np.argmin(np.hypot(rows - np.median(rows), columns - np.median(columns)))
    return int(columns[best]), int(rows[best])


def told_at(browser, x, y):
    browser.point_at(x, y)
    browser.wait("document.querySelector('#told').textContent !== ''")
    return browser.value("document.querySelector('#told').textContent")


@needs_browser
@pytest.mark.slow
def test_every_view_draws_something_else_and_asks_for_nothing(made, browser):
    opened(browser, made[0])
    views = buttons(browser, "nav")
    assert views == ["class", "colour", "confidence", "ground truth", "error", "shape"]
    pictures = []
    for view in views:
        press(browser, "nav", view)
        browser.wait(f"document.body.dataset.drawn === '{view}'")
        pictures.append(drawing(browser))
    surface = (pictures[-1] != 255).any(axis=-1).sum()
    assert surface > 50_000
    for place, picture in enumerate(pictures):
        for other in pictures[:place]:
            differs = (np.abs(picture.astype(int) - other) > 8).any(axis=-1)
            assert differs.sum() > 0.1 * surface
    colour, error = pictures[1], pictures[4]
    assert coloured(colour, (150, 40, 30)).sum() > 0.95 * surface
    verdicts = [coloured(error, color) for color in view_scene.VERDICTS.values()]
    assert sum(where.sum() for where in verdicts) > 0.95 * surface
    for where, verdict in zip(verdicts, view_scene.VERDICTS, strict=True):
        told = told_at(browser, *middle_of(where)).replace("ground truth: ", "")
        said, truth = (line.split(", ")[0] for line in told.split("\n"))
        judged = "right" if said == truth else "wrong"
        assert verdict == ("not judged" if truth == "no class" else judged)
    assert {url.split(":")[0] for url in browser.requested} <= {"file", "blob"}
    assert browser.complaints == []


@needs_browser
@pytest.mark.slow
def test_the_pointer_names_what_is_drawn_under_it(made, browser):
    opened(browser, made[0])
    legend, picture = buttons(browser, "#legend"), drawing(browser)
    assert {text.rsplit(" ", 2)[0] for text in legend} == {
        "floor", "table", "sofa", "no class",
    }  # fmt: skip
    for name, label in (("floor", FLOOR), ("table", TABLE), ("sofa", SOFA)):
        where = coloured(picture, PALETTE[label])
        assert where.sum() > 5000
        x, y = middle_of(where)
        for step in (-60, 0, 60):
            if not where[y + step, x]:
                continue
            said, truth = told_at(browser, x, y + step).split("\n")
            assert said.startswith(f"{name}, ") and said.endswith(" %")
            confidence = int(said.split(", ")[1][:-2]) / 100
            if min(abs(confidence - 0.5), abs(confidence - 0.89)) > 0.03:
                assert truth == f"ground truth: {truth_at(confidence, name)}"
    browser.point_at(*middle_of((picture == 255).all(axis=-1) & _far_up(picture)))
    browser.wait("document.querySelector('#told').textContent === ''")


def _far_up(picture):
    """Tell which pixels are well above the surface, within the canvas."""
    top = np.nonzero((picture != 255).any(axis=(1, 2)))[0][0]
    return (np.arange(len(picture)) == top - 5)[:, None]


@needs_browser
@pytest.mark.slow
def test_two_classes_never_mix_into_a_third(tmp_path, browser):
    page, _ = make(tmp_path, floor(cells=8))  # three of eight columns are borders
    picture = drawing(opened(browser, page))
    surface = (picture != 255).any(axis=-1).sum()
    colors = [*PALETTE[[FLOOR, TABLE, SOFA]], UNLABELLED]
    assert sum(coloured(picture, color).sum() for color in colors) > 0.97 * surface


@needs_browser
@pytest.mark.slow
def test_a_chosen_class_stands_out_until_it_is_chosen_again(made, browser):
    opened(browser, made[0])
    before = drawing(browser)
    press(browser, "#legend", "table")
    chosen = drawing(browser)
    assert coloured(chosen, PALETTE[TABLE]).sum() > 5000
    assert coloured(chosen, PALETTE[SOFA]).sum() == 0
    press(browser, "#legend", "table")
    np.testing.assert_array_equal(drawing(browser), before)


@needs_browser
@pytest.mark.slow
def test_dragging_turns_the_room_and_keeps_it_upright(tmp_path, browser):
    page, _ = make(tmp_path, pole(), with_truth=False)
    opened(browser, page)
    pictures = [drawing(browser)]
    for end in ((560, 350), (520, 260), (450, 420), (300, 500)):
        browser.drag((450, 350), end)
        browser.wait("new Promise(r => requestAnimationFrame(() => r(true)))")
        pictures.append(drawing(browser))
    for before, after in itertools.pairwise(pictures):
        assert (before != after).any()
        columns = np.nonzero((after != 255).any(axis=-1))[1]
        assert len(columns) > 1000
        assert np.abs(columns - 449.5).max() < 40


@needs_browser
@pytest.mark.slow
def test_two_fingers_zoom_and_one_turns(tmp_path, browser):
    page, _ = make(tmp_path, pole(), with_truth=False)
    opened(browser, page, (390, 800), touch=True)
    pictures = [drawing(browser)]
    for fingers in (
        [[(195, 360), (195, 440)], [(195, 300), (195, 500)]],
        [[(150, 400)], [(260, 420)]],
    ):
        browser.touch(*fingers)
        browser.wait("new Promise(r => requestAnimationFrame(() => r(true)))")
        pictures.append(drawing(browser))
    small, large, turned = (np.nonzero((p != 255).any(axis=-1))[0] for p in pictures)
    assert np.ptp(large) > 1.5 * np.ptp(small)
    assert (pictures[1] != pictures[2]).any() and len(turned) > 1000


@needs_browser
@pytest.mark.slow
def test_on_a_phone_everything_fits_and_a_tap_tells(made, browser):
    opened(browser, made[0], (390, 800), touch=True)
    assert browser.value("document.documentElement.scrollWidth") <= 390
    for where in ("nav", "#note"):
        box = f"document.querySelector('{where}').getBoundingClientRect()"
        edges = browser.value(f"[{box}.left, 390 - {box}.right, {box}.top]")
        assert min(*edges, 800 - browser.value(f"{box}.bottom")) >= 0
    x, y = middle_of(coloured(drawing(browser), PALETTE[TABLE]))
    browser.tap(x, y)
    browser.wait("document.querySelector('#told').textContent.startsWith('table')")


@needs_browser
@pytest.mark.slow
def test_a_capture_without_truth_has_no_views_of_it(tmp_path, browser):
    page, _ = make(tmp_path, floor(), with_truth=False)
    opened(browser, page)
    assert buttons(browser, "nav") == ["class", "colour", "confidence", "shape"]
    where = coloured(drawing(browser), PALETTE[SOFA])
    told = told_at(browser, *middle_of(where))
    assert told.startswith("sofa, ") and "truth" not in told


@needs_browser
@pytest.mark.slow
def test_a_browser_shows_hostile_names_as_they_are(made, tmp_path, browser):
    page = Parsed(made[0])
    about = json.loads(page.texts["about"])
    about["classes"][FLOOR]["name"] = HOSTILE
    out = tmp_path / "page.html"
    out.write_text(scene_page(HOSTILE, about, *embedded(made[0])))
    opened(browser, out)
    assert browser.value("document.body.dataset.owned") is None
    assert browser.value("document.title") == HOSTILE
    assert any(text.startswith(HOSTILE) for text in buttons(browser, "#legend"))


@needs_browser
@pytest.mark.slow
def test_a_scene_without_surface_says_so(tmp_path, browser):
    mesh, nothing = floor(), slice(0, 0)
    columns = (getattr(mesh, name)[nothing] for name in mesh.__dataclass_fields__)
    page, _ = make(tmp_path, LabelledMesh(*columns))
    browser.open(page, 900, 700)
    browser.wait("document.body.innerText.includes('no surface')")
    assert browser.value("document.title") == f"{SCENE}, {FIELD}"
