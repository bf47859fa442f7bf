"""Methods of view synthesis from files to pictures: trained, killed, fitted, filmed."""

import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gnesf_core.views
from gnesf_core.config import FlightConfig, ImageQualityConfig
from gnesf_core.data import store
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.rendered import Views
from gnesf_core.errors import BadInput
from gnesf_core.training.weights import load_into, read_weights, write_weights
from gnesf_core.views.samples import ViewPaths, ViewSamples
from gnesf_core.views.training import ViewTask
from stages import evaluate_views, film_views, render_views, train_views
from tests import field_scenes, room_files, view_scenes
from tests.stages.test_train_sdf import ENVIRONMENT
from tests.view_scenes import DATA, SETTINGS, TRAINING, VIEWS, method_of

ROOT = Path(__file__).parents[2]
SOURCES = replace(view_scenes.SOURCES, frames="kept", views=4)
LONGER = replace(TRAINING, steps=24, state_steps=5, validate_steps=8)
ONE_SCENE = replace(DATA, scenes=1, held_out_scenes=0)
ONCE = replace(TRAINING, steps=1, batch=1, validate_steps=0)
STILL = replace(ONCE, learning_rate=0.0)
FLIGHT = FlightConfig(frames=4, frames_per_second=8.0, width=8, height=6)
SIZE = (VIEWS.width, VIEWS.height)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are to be those of the commands below."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Two rooms that teach and one that judges."""
    folder = tmp_path_factory.mktemp("rooms")
    return [view_scenes.write_scene(folder, name) for name in "abc"]


def training_of(rooms, folder, module, training=LONGER, **changes):
    """Return the arguments of a training; a method that learns one scene gets one."""
    by_heart = module == "semantic_nerf"
    rooms = rooms[:1] if by_heart else rooms
    training = replace(training, validate_steps=0) if by_heart else training
    return {
        "frames": [own.frames for own in rooms],
        "priors": [own.prior for own in rooms],
        "out": folder / "model.safetensors",
        "last": folder / "last.safetensors",
        "metrics": folder / "metrics.jsonl",
        "module": module,
        "recipe": json.dumps(asdict(SETTINGS[module])) if module in SETTINGS else "{}",
        "sources": SOURCES,
        "data": ONE_SCENE if by_heart else DATA,
        "training": training,
    } | changes


def train(*how, **changes):
    arguments = training_of(*how, **changes)
    train_views.main(**arguments)
    return arguments["out"]


def rendering_of(scene, out, weights, module, **changes):
    return {
        "frames": scene.frames,
        "prior": scene.prior,
        "weights": weights,
        "out": out,
        "module": module,
        "recipe": json.dumps(asdict(SETTINGS[module])) if module in SETTINGS else "{}",
        "sources": SOURCES,
        "views": VIEWS,
    } | changes


def render(scene, out, *how, **changes):
    """Render held-out frames; return them, and what the file says of itself."""
    render_views.main(**rendering_of(scene, out, *how, **changes))
    with store.Frames(scene.frames) as frames, Views(out, frames) as views:
        own = {int(p): views.view(n) for n, p in enumerate(views.positions)}
        return own, views.about, views.provenance


def same_views(one, other):
    return one.keys() == other.keys() and all(
        all(map(np.array_equal, one[place], other[place])) for place in one
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    """Return a function that trains a method once; it returns its weights."""
    known = {}

    def weights(module):
        if module not in known:
            folder = tmp_path_factory.mktemp(module)
            known[module] = train(rooms, folder, module)
        return known[module]

    return weights


# Training.


def losses_of(method, arguments):
    """Return the sum of a method's losses on the rays that it learns from.

    Half of the room is seen by a single view, of which IBRNet learns nothing: what it
    says there may get worse.
    """
    paths = [ViewPaths(*own) for own in zip(
        arguments["frames"], arguments["priors"], strict=True
    )]  # fmt: skip
    how = arguments["sources"], arguments["data"], arguments["training"]
    samples = ViewSamples(paths, method, *how)
    batch = samples.collate([samples[number] for number in range(16)])
    torch.manual_seed(0)
    with torch.no_grad():
        losses = ViewTask(method, samples).losses(method.train(), batch)
    return float(sum(losses.values()))


@pytest.mark.slow
@pytest.mark.parametrize("module", SETTINGS)
def test_a_few_steps_lower_the_loss(rooms, trained, tmp_path, module):
    path = trained(module).with_name("last.safetensors")
    arguments = training_of(rooms, tmp_path, module)
    torch.manual_seed(LONGER.seed)
    method = method_of(module)
    if method.of_one_scene:
        with store.Frames(rooms[0].frames) as frames:
            method.fit_to(torch.from_numpy(frames.world_from_camera[:, :3, 3]))
    before = losses_of(method, arguments)
    load_into(method, path)
    assert losses_of(method, arguments) < 0.6 * before
    lines = lines_of(path.with_name("metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, LONGER.steps + 1))
    for line in lines:
        parts = [f"{one}_{of}" for one in ("coarse", "fine")
                 for of in ("color", "semantic")]  # fmt: skip
        assert line["loss"] == pytest.approx(sum(line[own] for own in parts), rel=1e-3)


@pytest.mark.slow
def test_weights_are_the_best_and_the_last_and_say_what_they_were_made_of(
    rooms, trained
):
    path = trained("gnesf_density")
    lines = lines_of(path.with_name("metrics.jsonl"))
    validated = {line["step"]: line["validation"] for line in lines
                 if line.get("validation") is not None}  # fmt: skip
    assert set(validated) == {8, 16, 24}
    tensors, about = read_weights(path)
    last, about_last = read_weights(path.with_name("last.safetensors"))
    assert (
        tensors.keys() == last.keys() == method_of("gnesf_density").state_dict().keys()
    )
    assert int(about["step"]) == min(validated, key=validated.get)
    assert about_last["step"] == "24"
    made_by = json.loads(about["provenance"])
    assert made_by["stage"] == "train_views"
    recipe, inputs = made_by["recipe"], made_by["inputs"]
    assert recipe["module"] == "gnesf_density" and recipe["data"] == asdict(DATA)
    assert recipe["settings"] == asdict(SETTINGS["gnesf_density"])
    assert recipe["sources"] == asdict(SOURCES)
    named = {f"{role} {name}" for role in ("frames", "prior") for name in "abc"}
    assert set(inputs) == named


@pytest.mark.slow
@pytest.mark.parametrize("module", SETTINGS)
def test_fine_tuning_starts_from_the_weights_that_are_given(rooms, tmp_path, module):
    """A step of no length leaves them as they are, wherever the cameras now stand."""
    torch.manual_seed(7)
    method = method_of(module)
    if method.of_one_scene:
        method.fit_to(torch.tensor([[5.0, 6, 7], [8, 9, 9]]).double())
    start = tmp_path / "start.safetensors"
    write_weights(start, method.state_dict(), {})
    fitted = {"frames": [rooms[0].frames], "priors": [rooms[0].prior],
              "data": ONE_SCENE, "training": STILL}  # fmt: skip
    path = train(rooms, tmp_path / "on", module, start=start, **fitted)
    found, about = read_weights(path)
    for name, own in method.state_dict().items():
        torch.testing.assert_close(found[name], own, rtol=0, atol=0, msg=name)
    assert json.loads(about["provenance"])["inputs"]["start"] == sha256_of(start)
    anew, _ = read_weights(train(rooms, tmp_path / "anew", module, **fitted))
    assert any(not torch.equal(anew[name], own) for name, own in found.items())


def test_a_scene_that_is_learned_by_heart_is_where_its_cameras_are(rooms, tmp_path):
    method = method_of("semantic_nerf")
    with store.Frames(rooms[0].frames) as frames:
        method.fit_to(torch.from_numpy(frames.world_from_camera[:, :3, 3]))
    path = train(rooms, tmp_path, "semantic_nerf", STILL)
    found, _ = read_weights(path)
    for name in ("centre_world", "scale_m"):
        torch.testing.assert_close(found[name], getattr(method, name))


def test_weights_of_another_recipe_are_refused(rooms, tmp_path):
    start = tmp_path / "start.safetensors"
    write_weights(start, method_of("gnesf_density", features=6).state_dict(), {})
    with pytest.raises(BadInput, match=r"start\.safetensors: names: .*misshapen"):
        train(rooms, tmp_path / "on", "gnesf_density", start=start)
    with pytest.raises(BadInput, match=r"start\.safetensors: names: .*misshapen"):
        render(rooms[0], tmp_path / "v.h5", start, "gnesf_density")
    assert not list(tmp_path.glob("**/*.h5"))


def test_a_method_that_needs_a_prior_asks_for_one(rooms, tmp_path):
    weights = tmp_path / "w.safetensors"
    for module in ("ibrnet", "gnesf_density"):
        with pytest.raises(BadInput, match="--priors: expected .* found none"):
            train(rooms, tmp_path / "on", module, priors=None)
        write_weights(weights, method_of(module).state_dict(), {})
        with pytest.raises(BadInput, match="--prior: expected .* found none"):
            render(rooms[0], tmp_path / "v.h5", weights, module, prior=None)
        with pytest.raises(BadInput, match="--prior: expected .* found none"):
            film(rooms[0], tmp_path / "v.webp", weights, module, prior=None)
    pseudo = replace(ONE_SCENE, labels="prior")
    with pytest.raises(BadInput, match="--priors: expected .* found none"):
        train(rooms, tmp_path / "on", "semantic_nerf", priors=[], data=pseudo)
    assert not list(tmp_path.glob("**/[mv]*.*"))


def test_pseudo_labels_are_learned_without_true_ones(rooms, tmp_path):
    """The same pictures, of which a prior says that all is one class."""

    def all_bed(position):
        return np.eye(20, dtype=np.float32)[3][:, None, None] * np.ones((24, 32), "f4")

    prior = field_scenes.write_prior(tmp_path / "p.h5", rooms[0].frames, all_bed)
    pseudo = replace(ONE_SCENE, labels="prior")
    training = replace(ONCE, steps=25, learning_rate=0.02)
    path = train(
        rooms, tmp_path, "semantic_nerf", training, priors=[prior], data=pseudo
    )
    views, *_ = render(rooms[0], tmp_path / "v.h5", path, "semantic_nerf", prior=None)
    for own in views.values():
        assert (own.probabilities.argmax(0) == 3).mean() > 0.95


def command(arguments):
    words = [sys.executable, "-m", "stages.train_views"]
    for name, value in arguments.items():
        if hasattr(value, "__dataclass_fields__"):
            value = json.dumps(asdict(value))
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


@pytest.mark.slow
def test_training_killed_on_its_way_ends_with_the_same_weights(
    rooms, trained, tmp_path, monkeypatch
):
    arguments = training_of(rooms, tmp_path, "gnesf_density")
    run = subprocess.Popen(
        command(arguments), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while run.poll() is None and not list(tmp_path.glob("training/state*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    errors = run.communicate(timeout=240)[1].decode()
    assert run.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "model.safetensors").exists()
    asked = []
    sample = ViewSamples.__getitem__

    def note(samples, number):
        asked.append(number)
        return sample(samples, number)

    monkeypatch.setattr(ViewSamples, "__getitem__", note)
    train_views.main(**arguments)
    assert min(asked) >= LONGER.batch * LONGER.state_steps  # it did go on
    whole = trained("gnesf_density").parent
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    told, expected = (lines_of(own / "metrics.jsonl") for own in (tmp_path, whole))
    assert [own["loss"] for own in told] == [own["loss"] for own in expected]


# Rendering.


@pytest.mark.slow
@pytest.mark.parametrize("module", SETTINGS)
def test_a_trained_method_renders_frames_that_are_held_out(
    rooms, trained, tmp_path, module
):
    views, about, made_by = render(rooms[0], tmp_path / "v.h5", trained(module), module)
    with store.Frames(rooms[0].frames) as frames:
        assert not frames.is_key[list(views)].any()
        fingerprint = frames.fingerprint
    assert len(views) == VIEWS.frames
    for own in views.values():
        assert own.known.shape == SIZE[::-1] and own.known.mean() > 0.3
        assert np.isfinite(own.depth_m).all()
        shares = own.probabilities[:, own.known].astype(int).sum(0)
        # The ceiling is void: there the prior says nothing.
        assert ((shares == 0) | (abs(shares - 255) <= 10)).all() and shares.any()
    assert (about["size"], about["geometry"]) == ("12x9", "none")
    inputs = made_by["inputs"]
    assert inputs["weights"] == sha256_of(trained(module))
    assert inputs["frames"] == fingerprint
    assert made_by["recipe"]["settings"] == asdict(SETTINGS[module])


@pytest.mark.slow
def test_the_same_weights_render_the_same_file_twice(rooms, trained, tmp_path):
    paths = [tmp_path / name for name in ("one.h5", "two.h5")]
    for path in paths:
        render(rooms[0], path, trained("ibrnet"), "ibrnet")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_is_learned_by_heart_needs_neither_sources_nor_prior(rooms, tmp_path):
    """Another scene's pictures would do: only the cameras are looked at."""
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    write_weights(weights, method_of("semantic_nerf").state_dict(), {})
    poses = field_scenes.camera_path(12)
    black = view_scenes.ViewPaths(tmp_path / "a.h5", None)
    field_scenes.write_frames(black.frames, "a", poses)
    how = weights, "semantic_nerf"
    one, *_ = render(rooms[0], tmp_path / "one.h5", *how)
    other = replace(SOURCES, frames="kept", views=9, image_width=12)
    two, _, made_by = render(black, tmp_path / "two.h5", *how, sources=other)
    assert same_views(one, two) and all(own.sources == () for own in one.values())
    assert "prior" not in made_by["inputs"]


# A segmenter of what is rendered.


@dataclass(frozen=True)
class Brightness:
    """Settings of a toy segmenter: what is brighter is of another class."""

    threshold: int


class Toy:
    """Stands for a module of priors."""

    Settings = Brightness

    def __init__(self, able=True):
        self.able, self.opened = able, []

    def open_prior(self, config, weights, device):
        self.opened.append((config, weights, device))
        return self if self.able else object()

    def segment(self, picture):
        bright = picture.mean(2) > self.opened[-1][0].threshold
        classes = np.where(bright, 2, 11)
        return (7.0 * (np.arange(20)[:, None, None] == classes)).astype(np.float32)


@pytest.fixture
def segmented(rooms, tmp_path, monkeypatch):
    """Return a function that renders by an IBRNet and a toy segmenter."""
    torch.manual_seed(1)
    settings = replace(SETTINGS["ibrnet"], semantics="nothing")
    weights, own = tmp_path / "ibrnet.safetensors", tmp_path / "toy.safetensors"
    method = method_of("ibrnet", semantics="nothing")
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    write_weights(weights, method.state_dict(), {})
    write_weights(own, {"any": torch.zeros(1)}, {})

    def rendered(toy, module="segment_rendered", **changes):
        monkeypatch.setitem(sys.modules, "gnesf_core.priors.toy", toy)
        monkeypatch.setattr(importlib.import_module("gnesf_core.priors"), "toy", toy,
                            raising=False)  # fmt: skip
        after = {"segmenter": "toy", "segmenter_recipe": '{"threshold": 127}',
                 "segmenter_weights": own} | changes  # fmt: skip
        out = tmp_path / f"{module}.h5"
        recipe = json.dumps(asdict(settings))
        return render(
            rooms[0], out, weights, module, recipe=recipe, prior=None, **after
        )

    return rendered


def test_a_segmenter_says_the_classes_of_what_ibrnet_renders(segmented):
    toy = Toy()
    views, _, made_by = segmented(toy)
    colors, *_ = segmented(toy, "ibrnet")
    ((config, weights, device),) = toy.opened
    assert (config, device) == (Brightness(127), "cpu")
    assert made_by["inputs"]["segmenter"] == sha256_of(weights)
    found = set()
    for place, own in views.items():
        assert not colors[place].probabilities.any()
        np.testing.assert_array_equal(own.color, colors[place].color)
        bright = own.color.mean(2) > 127
        classes = np.where(bright, 2, 11)
        np.testing.assert_array_equal(
            own.probabilities.argmax(0)[own.known], classes[own.known]
        )
        assert (own.probabilities.max(0)[own.known] == 255).all()
        found |= set(classes[own.known].tolist())
    assert found == {2, 11}


@pytest.mark.parametrize(
    ("able", "changes", "found"),
    [(True, {"segmenter": ""}, "none"), (True, {"segmenter_weights": None}, "none"),
     (False, {}, "toy")],
)  # fmt: skip
def test_without_a_segmenter_nothing_is_rendered(
    segmented, tmp_path, able, changes, found
):
    with pytest.raises(BadInput, match=f"segmenter: expected .*, found {found};"):
        segmented(Toy(able), **changes)
    assert not list(tmp_path.glob("*.h5"))


def test_a_scene_without_held_out_frames_is_rendered_and_scored_as_such(tmp_path):
    keys = np.ones(4, bool)
    frames = room_files.write_frames(tmp_path / "f.h5", keys, keys)
    weights = tmp_path / "w.safetensors"
    write_weights(weights, method_of("semantic_nerf").state_dict(), {})
    scene, out = ViewPaths(frames, None), tmp_path / "v.h5"
    views, *_ = render(scene, out, weights, "semantic_nerf", prior=None)
    assert views == {}
    how = {"out": tmp_path / "v.json", "picture": tmp_path / "v.jpg"}
    quality = ImageQualityConfig("gnesf", "", "")
    evaluate_views.main(frames, out, field="f", quality=quality, **how)
    scores = json.loads(how["out"].read_text())
    assert scores["frames"] == [] and scores["semantics"]["points"] == 0
    assert how["picture"].stat().st_size > 0


# A method of one's own.

OWN_METHOD = '''
"""Every ray shows the mean colour of the sources, tinted, and one distribution."""

from dataclasses import dataclass

import torch
from torch import nn

from gnesf_core.views.interface import Method, Rendered, color_errors, cross_entropies

PACKAGES = ("safetensors",)


@dataclass(frozen=True)
class Settings:
    depth_m: float


def build(settings):
    return Mean(settings)


class Mean(Method):
    says = "logits"
    needs = frozenset({"depth", "labels"})

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.tint = nn.Parameter(torch.zeros(3))
        self.classes = nn.Parameter(torch.zeros(20))

    def encode(self, sources, camera):
        assert sources.depth_m.shape == sources.pictures[:, 0].shape
        # What is learned from is not there when it counts.
        assert (sources.labels is None) != torch.is_grad_enabled()
        return sources.pictures.float().mean((0, 2, 3)) / 255

    def render(self, context, rays):
        count = len(rays.origins_world)
        one = torch.ones(count, 1)
        color = (context + self.tint).expand(count, -1)
        semantic = self.classes.expand(count, -1)
        depth_m = self.settings.depth_m * one[:, 0]
        return [Rendered(color, depth_m, semantic, one, one[:, 0] > 0)]

    def losses(self, context, passes, truth):
        (own,) = passes
        classes = cross_entropies(own, truth, self.says)
        return {"color": color_errors(own, truth), "classes": classes}
'''


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """Put a module among those of methods."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mean_color.py").write_text(OWN_METHOD)
    places = [*gnesf_core.views.__path__, str(folder)]
    monkeypatch.setattr(gnesf_core.views, "__path__", places)
    yield "mean_color"
    sys.modules.pop("gnesf_core.views.mean_color", None)
    vars(gnesf_core.views).pop("mean_color", None)


@pytest.mark.slow
def test_a_new_method_is_a_new_file_and_nothing_else(rooms, tmp_path, own_method):
    how = {"recipe": '{"depth_m": 1.25}'}
    training = replace(ONCE, steps=40, learning_rate=0.1, validate_steps=20)
    path = train(rooms, tmp_path, own_method, training, priors=None, **how)
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert lines[-1]["classes"] < 0.5 * lines[0]["classes"]
    with store.Frames(rooms[0].frames) as frames:
        labels = np.concatenate([frames.labels(n).ravel() for n in range(len(frames))])
    commonest = np.bincount(labels[labels < 20]).argmax()
    views, *_ = render(rooms[0], tmp_path / "v.h5", path, own_method, prior=None, **how)
    assert len(views) == VIEWS.frames
    for own in views.values():
        assert own.known.all() and (own.depth_m == 1.25).all() and len(own.sources) > 0
        assert (own.probabilities.argmax(0) == commonest).all()
    with film(
        rooms[0], tmp_path / "v.webp", path, own_method, prior=None, **how
    ) as own:
        assert own.format == "WEBP"


# Films.


def film(scene, out, weights, module, flight=FLIGHT, **changes):
    arguments = rendering_of(scene, out, weights, module, **changes)
    del arguments["views"]
    film_views.main(**arguments, flight=flight)
    return Image.open(out)


@pytest.mark.slow
def test_a_film_shows_colours_beside_classes_there_and_back(rooms, trained, tmp_path):
    path = trained("gnesf_density")
    with film(rooms[0], tmp_path / "f.webp", path, "gnesf_density") as picture:
        assert picture.format == "WEBP" and picture.n_frames == 2 * FLIGHT.frames - 2
        assert picture.info["loop"] == 0
        scale = film_views.SCALE
        assert picture.size == (2 * scale * FLIGHT.width, scale * FLIGHT.height)
        shown, durations = [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            shown.append(np.asarray(picture.convert("RGB")).astype(float))
            durations.append(picture.info["duration"])
    assert sum(durations) == pytest.approx(1000 * len(shown) / 8.0, abs=len(shown))
    apart = [
        [np.abs(one - other).mean() for other in shown]
        for one in shown
    ]  # fmt: skip
    # 0 1 2 3 2 1: the second and the last are one camera's, up to the compression.
    for one, other in ((1, 5), (2, 4)):
        nearest = sorted(range(6), key=lambda place: apart[one][place])[:2]
        assert set(nearest) == {one, other}
    assert min(apart[a][b] for a, b in itertools.combinations(range(4), 2)) > 1
