"""Settings of every stage, as frozen dataclasses without defaults.

The values live in `config/*.yaml` and their bounds in `workflow/schemas`; a test holds
the three sets of names equal. Names carry units.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SynthRoomsCounts:
    """How many scenes each split of the embedded data set has."""

    scenes_train: int
    scenes_val: int
    scenes_test: int


@dataclass(frozen=True)
class SynthRoomsConfig:
    """How a room of the embedded data set is filmed, whichever split it is in."""

    seed: int
    frames: int  # raw frames per scene
    color_width: int
    color_height: int
    depth_width: int
    depth_height: int
    mesh_edge_m: float  # edge length of the ground-truth mesh
    depth_range_m: float  # the depth sensor sees nothing beyond
    jpeg_quality: int


@dataclass(frozen=True)
class FramesConfig:
    """Which frames of a scan are kept, and how key frames form fragments."""

    key_angle_deg: float
    key_distance_m: float
    fragment_views: int
    released_fragments: bool  # restart and tail as NeuralRecon's released code has them
    view_stride: int  # every n-th raw frame is kept for view synthesis; 0 = none
    view_offset: int


@dataclass(frozen=True)
class TargetsConfig:
    """The TSDF pyramid that geometry is trained on."""

    voxel_size_m: float  # finest level
    levels: int  # each level doubles the voxel
    truncation_voxels: float
    max_depth_m: float


@dataclass(frozen=True)
class OracleConfig:
    """The oracle field: ground-truth 2D labels voted onto the fused surface."""

    depth_tolerance_m: float  # a view votes where its depth meets the surface
    max_depth_m: float


@dataclass(frozen=True)
class EvaluationConfig:
    """Protocol constants of the scores."""

    threshold_m: float  # precision, recall and F-score
    down_sample_m: float
    trim_tolerance_m: float  # seen = not further behind the sensor's depth than this
    trim_depth_m: float  # and not further from the camera
    depth_max_m: float  # depth metrics ignore truth beyond
