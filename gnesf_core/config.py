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
class CaptureConfig:
    """What is known of the world of somebody's capture."""

    up: str  # auto, or the axis of the capture's world: x, y, z, -x, -y or -z
    metres_per_unit: float  # of the capture's world; 0 = as its files say or show
    floor_m: float | None  # its height along up, in the capture's units; null = find it


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
class Mask2FormerConfig:
    """A Mask2Former, by whichever library; sizes are those of the published papers."""

    model: str  # a library's own model instead of the sizes below; "" = build these
    start_from: str  # checkpoint to fine-tune from; "" = random weights
    image_width: int  # the network's input: whole frames are resized to it
    image_height: int
    backbone: str  # resnet (basic blocks) or swin
    backbone_width: int  # channels of the first stage; each of the four doubles them
    backbone_depths: list[int]  # blocks per stage
    backbone_heads: list[int]  # swin: attention heads per stage
    window: int  # swin: edge of the attention windows
    drop_path: float  # swin: stochastic depth
    hidden: int  # channels of the pixel decoder and of the queries
    mask_channels: int
    heads: int
    feedforward: int
    encoder_layers: int  # deformable attention over three scales
    decoder_layers: int
    queries: int
    points: int  # sampled per mask for the losses
    matching: str  # hungarian, or class: query i is class i (then queries = 20)
    class_weight: float
    mask_weight: float
    dice_weight: float
    no_object_weight: float
    pixel_weight: float  # cross-entropy of the final class map; 0 in the papers
    batch: int  # frames at once when caching
    logits: bool  # cache the logarithm of the class scores as well


@dataclass(frozen=True)
class SegmentationDataConfig:
    """Which frames a segmenter is trained on, and how they are varied."""

    frames: str  # keys, views, or kept (both)
    balance: float  # 0: every frame alike ... 1: by the rarity of its classes
    scale_min: float  # the frame is resized by a factor in this range, then cropped
    scale_max: float
    flip: float  # probability
    color_jitter: float  # brightness, contrast, saturation: 1 +- this


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop, the same for everything that is learned."""

    seed: int
    steps: int
    batch: int  # items per step, over all processes
    learning_rate: float
    backbone_rate: float  # learning rate of pretrained parts, relative
    weight_decay: float
    schedule: str  # constant, poly (power 0.9), cosine or halving, after the warm-up
    warmup_steps: int
    clip_norm: float  # 0 = none
    precision: str  # on CUDA: float32 or bf16
    workers: int  # processes that load data; 0 = the training process itself
    report_steps: int  # a line of progress and of metrics every so often
    state_steps: int  # resumable state is written every so often
    validate_steps: int  # held-out scenes are tried every so often; 0 = never


@dataclass(frozen=True)
class LabelsPriorConfig:
    """Ground-truth labels as if a segmenter had found them: the upper bound."""

    map_width: int
    map_height: int


@dataclass(frozen=True)
class NoisyLabelsConfig:
    """Ground-truth labels spoilt as segmenters do, reproducibly."""

    map_width: int
    map_height: int
    seed: int
    confusion: float  # probability that a region gets a look-alike's class in a frame
    boundary_px: float  # colour pixels by which outlines are displaced
    doubt: float  # probability that goes to other classes, everywhere


@dataclass(frozen=True)
class FolderPriorConfig:
    """A user's own per-frame maps, from any segmenter."""

    root: str
    pattern: str  # file of a frame, such as {scene}/{index:05d}.png or .npy
    ids: str  # table from their ids to class names; "" = ids are 0..19


@dataclass(frozen=True)
class NeuconConfig:
    """Geometry learned coarse to fine from fragments of key frames: three levels."""

    image_width: int  # the network's input: frames are resized to it
    image_height: int
    encoder_width: float  # MnasNet's width multiplier
    encoder_weights: str  # torchvision's ImageNet checkpoint to start from; "" = none
    channels: int  # of the finest level's encoding; doubled on each coarser one
    voxel_size_m: float  # finest level; doubled on each coarser one
    truncation_m: float  # of the finest level, as of the targets' finest; doubled too
    volume_x: int  # voxels of a fragment's volume, finest level
    volume_y: int
    volume_z: int
    volume_bottom_m: float  # world z where volumes begin: up is known, not learned
    view_range_m: float  # volumes are centred on what the views see up to here
    statistics: str  # of views in a voxel: mean-variance, or mean-depth (released code)
    fusion: str  # gru: fragments share a memory; none: their results are averaged
    occupancy_threshold: float  # voxels that are surely emptier are not refined
    positive_weight: float  # of occupied voxels, relative to all empty ones together
    coarser_weight: float  # of a level's losses, relative to the next coarser one's
    sparse_engine: str  # auto, gather, dense, implicit or torchsparse


@dataclass(frozen=True)
class FragmentDataConfig:
    """Which fragments geometry is trained on, and how they are varied."""

    scenes: int  # training scenes, evenly spread over their list; 0 = all
    held_out_scenes: int  # of these, scenes that only choose the best weights
    rotation_deg: float  # worlds turn about the vertical by up to this, either way
    shift_m: float  # and move by up to this along each axis
    color_jitter: float  # brightness, contrast, saturation: 1 +- this
    min_weight: int  # frames that must have seen a voxel, to learn from it
    max_voxels: int  # of a fragment at the finest level, others are left out by chance
    sequence_from_step: int  # single fragments before; then sequences with a memory
    sequence_fragments: int


@dataclass(frozen=True)
class PlaneSweepConfig:
    """Depth of key frames by comparing pictures, nothing learned, then fused."""

    image_width: int  # pictures are compared at this size
    image_height: int
    patch: int  # edge of the compared patches, pixels
    depths: int  # hypotheses, evenly spaced in inverse depth
    near_m: float
    far_m: float
    neighbours: int  # other key frames that a key frame is compared with
    baseline_m: float  # their distance at best
    min_score: float  # normalized cross-correlation below which no depth is known
    voxel_size_m: float
    truncation_voxels: float


@dataclass(frozen=True)
class FusedDepthConfig:
    """The sensor's depth, fused: the paper's rows with ground-truth geometry."""

    level: int  # of the targets' pyramid; 0 is the finest


@dataclass(frozen=True)
class FusionConfig:
    """A prior voted onto the fused surface without learning anything."""

    rule: str  # mean, nearest, or running-average
    depth_tolerance_m: float  # a view sees a point that its depth meets this closely
    max_depth_m: float
    max_weight: float  # running-average: weight at which old views start to fade


@dataclass(frozen=True)
class GnesfConfig:
    """A field on which source views vote, as the paper has it or as its code has."""

    vote: str  # learned, direct (no vote: Table 4's first row), mean or nearest
    network: str  # paper, or released: the voting network of the authors' code
    payload: str  # what is voted with: probabilities or logits
    informed: bool  # a vote also sees what its own view says, and how surely
    displacement: str  # a vote sees the vector from the camera, or only the depth
    feature_channels: list[int]  # of F, from each level of the pyramid, finest first
    widths: list[int]  # of the voting network's first layers
    source_frames: str  # views that vote: keys, views or kept frames (both)
    voters: str  # nearest; or fragments: the key frames of each among themselves
    views: int  # at most so many of them vote on a point
    view_overlap: float  # share of a target's frustum that a useful view has in sight
    visibility: str  # sdf, ten-samples or none
    unobserved: str  # skip: it hides nothing and shows nothing; free: it is empty space
    vote_at: str  # samples of rays, or voxels, between which they are interpolated
    near_m: float  # rays are sampled from here
    far_m: float  # to here, and views see no further
    sampler: str  # by-weight, or error-bound: VolSDF's, as in the released code
    coarse_samples: int
    fine_samples: int
    render_truncation_m: float  # tr of Eq. 8
    render_reach_m: float  # samples count up to so far behind the first surface


@dataclass(frozen=True)
class RayDataConfig:
    """Which rays a field is trained on, and what it costs to be wrong."""

    scenes: int  # training scenes, evenly spread over their list; 0 = all
    held_out_scenes: int  # of these, scenes that only choose the best weights
    frames: str  # rays start in: keys, views or kept frames (both)
    order: str  # of samples: random, or fragments: one by one, scene by scene
    rays: int  # of one frame of one scene, per sample
    exclude_target: bool  # whether the frame that rays start in does not vote itself
    semantic_loss: str  # cross-entropy, or one-minus-probability
    color_loss: str  # squared or absolute
    semantic_weight: float
    color_weight: float


@dataclass(frozen=True)
class SourceViewsConfig:
    """What a method of view synthesis looks at, beside the rays that it renders."""

    frames: str  # keys, views or kept frames (both)
    views: int  # so many of them, the nearest useful ones
    overlap: float  # share of the target's frustum that a useful one has in sight
    image_width: int  # they are resized to it
    image_height: int


@dataclass(frozen=True)
class IbrnetConfig:
    """IBRNet, and what can be said of classes by it."""

    semantics: str  # nothing, predicted (a head on it) or voted (the prior's maps)
    encoder_blocks: list[int]  # residual blocks of each stage
    encoder_widths: list[int]  # channels of each stage
    features: int  # channels of a pass's picture features
    mask: str  # keys: who sees nothing is left out; queries: heard, as in released code
    semantic_loss: str  # cross-entropy, or one-minus-probability (of those that vote)
    near_m: float
    far_m: float
    coarse_samples: int
    fine_samples: int
    color_weight: float
    semantic_weight: float


@dataclass(frozen=True)
class GnesfDensityConfig:
    """The paper's field of densities: soft votes, an encoding volume, Eq. 7."""

    encoder_blocks: list[int]  # residual blocks of each stage
    encoder_widths: list[int]  # channels of each stage
    features: int  # channels of F
    volume: list[int]  # voxels across, down and along the target's view
    volume_channels: int  # of M
    widths: list[int]  # of the voting network's first layers
    near_m: float
    far_m: float
    coarse_samples: int
    fine_samples: int
    color_weight: float
    semantic_weight: float


@dataclass(frozen=True)
class SemanticNerfConfig:
    """A scene learned by heart: colours, densities and classes of its points."""

    layers: int
    width: int
    position_frequencies: int
    direction_frequencies: int
    density_noise: float  # while it learns, standard deviation
    near_m: float
    far_m: float
    coarse_samples: int
    fine_samples: int
    color_weight: float
    semantic_weight: float


@dataclass(frozen=True)
class ViewDataConfig:
    """Which rays a method of view synthesis is trained on."""

    scenes: int  # training scenes, evenly spread over their list; 0 = all
    held_out_scenes: int  # of these, scenes that only choose the best weights
    frames: str  # rays start in: keys, views or kept frames (both)
    rays: int  # of one frame of one scene, per sample
    exclude_target: bool  # whether the frame that rays start in is no source itself
    labels: str  # truth, or prior: what classes are learned from


@dataclass(frozen=True)
class NovelViewsConfig:
    """Which frames fields render that they were not shown, and how finely."""

    protocol: str  # held-out, or a published system's, released or clean
    frames: int  # of each scene, evenly spread; published protocols say it themselves
    training_scenes: int  # that tables of "novel views" score, evenly spread
    width: int  # pixels of the rendered maps
    height: int


@dataclass(frozen=True)
class ImageQualityConfig:
    """How rendered colours are compared with pictures."""

    protocol: str  # gnesf, sray, gsnerf or gpnerf: windows, ranges, masks
    vgg: str  # LPIPS: torchvision's VGG16, a file of the user's; "" = no LPIPS
    linear: str  # LPIPS: its own layers, weights/v0.1/vgg.pth of the package lpips


@dataclass(frozen=True)
class FlightConfig:
    """A film of a flight along the key frames, there and back."""

    frames: int  # that are rendered, evenly timed
    frames_per_second: float
    width: int
    height: int


@dataclass(frozen=True)
class EvaluationConfig:
    """Protocol constants of the scores."""

    threshold_m: float  # precision, recall and F-score
    coarse_threshold_m: float  # the same, more forgiving: for geometries
    down_sample_m: float
    trim_tolerance_m: float  # seen = not further behind the sensor's depth than this
    trim_depth_m: float  # and not further from the camera
    depth_max_m: float  # depth metrics ignore truth beyond
