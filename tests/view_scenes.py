"""Tiny methods of view synthesis, for the rooms of `field_scenes`."""

from dataclasses import replace

from gnesf_core.config import (
    GnesfDensityConfig,
    IbrnetConfig,
    NovelViewsConfig,
    SemanticNerfConfig,
    SourceViewsConfig,
    ViewDataConfig,
)
from gnesf_core.views.gnesf_density import GnesfDensity
from gnesf_core.views.ibrnet import Ibrnet
from gnesf_core.views.samples import ViewPaths
from gnesf_core.views.semantic_nerf import SemanticNerf
from tests import field_scenes

SOURCES = SourceViewsConfig(
    frames="keys", views=3, overlap=0.1, image_width=48, image_height=36
)
DATA = ViewDataConfig(
    scenes=0, held_out_scenes=1, frames="kept", rays=64, exclude_target=True,
    labels="truth",
)  # fmt: skip
TRAINING = replace(field_scenes.TRAINING, learning_rate=2e-3, weight_decay=0.0)
VIEWS = NovelViewsConfig(
    protocol="held-out", frames=2, training_scenes=1, width=12, height=9
)
IBRNET = IbrnetConfig(
    semantics="voted", encoder_blocks=[1, 1, 1], encoder_widths=[4, 6, 8], features=4,
    mask="keys", semantic_loss="cross-entropy", near_m=0.2, far_m=5.0,
    coarse_samples=16, fine_samples=8, color_weight=1.0, semantic_weight=0.5,
)  # fmt: skip
GNESF_DENSITY = GnesfDensityConfig(
    encoder_blocks=[1, 1, 1], encoder_widths=[4, 6, 8], features=4, volume=[8, 6, 10],
    volume_channels=4, widths=[8, 8], near_m=0.2, far_m=5.0, coarse_samples=16,
    fine_samples=8, color_weight=1.0, semantic_weight=0.5,
)  # fmt: skip
SEMANTIC_NERF = SemanticNerfConfig(
    layers=4, width=24, position_frequencies=4, direction_frequencies=2,
    density_noise=0.0, near_m=0.2, far_m=5.0, coarse_samples=16, fine_samples=8,
    color_weight=1.0, semantic_weight=0.1,
)  # fmt: skip
SETTINGS = {
    "ibrnet": IBRNET, "gnesf_density": GNESF_DENSITY, "semantic_nerf": SEMANTIC_NERF
}  # fmt: skip
KINDS = {
    "ibrnet": Ibrnet, "gnesf_density": GnesfDensity, "semantic_nerf": SemanticNerf
}  # fmt: skip


def method_of(module, **changes):
    """Return a method as chance makes it."""
    return KINDS[module](replace(SETTINGS[module], **changes))


def write_scene(folder, scene, frames=12, **how):
    """Write a room's frames and prior under a name; return their paths."""
    poses = field_scenes.camera_path(frames)
    path = folder / f"{scene}.h5"
    field_scenes.write_frames(path, scene, poses, *field_scenes.filmed(poses))
    prior = field_scenes.write_prior(folder / f"{scene}.prior.h5", path, **how)
    return ViewPaths(path, prior)
