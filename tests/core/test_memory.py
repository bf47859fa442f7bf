import numpy as np
import pytest
import torch

from gnesf_core.geometries.memory import Memory

CPU = torch.device("cpu")
SHAPE = (12, 10, 8)
LOWER = torch.tensor([-4, 3, 0])


def random_box(rng):
    size = rng.integers(1, 6, 3)
    start = rng.integers(0, np.array(SHAPE) - size + 1)
    return torch.from_numpy(start) + LOWER, tuple(size.tolist())


def inside(voxel, lower, shape):
    offset = torch.tensor(voxel) - lower
    return bool(((offset >= 0) & (offset < torch.tensor(shape))).all())


@pytest.mark.parametrize("seed", range(5))
def test_a_memory_is_a_dictionary_of_voxels(seed):
    rng = np.random.default_rng(seed)
    memory, known = Memory(LOWER, SHAPE, 2, CPU), {}
    for _ in range(20):
        lower, shape = random_box(rng)
        mask = torch.from_numpy(rng.random(shape) < 0.4)
        xyz, values = mask.nonzero(), torch.from_numpy(rng.random((int(mask.sum()), 2)))
        memory.replace(lower, shape, xyz, values.float())
        known = {v: known[v] for v in known if not inside(v, lower, shape)}
        voxels = map(tuple, (xyz + lower).tolist())
        known |= dict(zip(voxels, values.float().tolist(), strict=True))
        assert len(memory) == len(known)
        lower, shape = random_box(rng)
        xyz, values = memory.read(lower, shape)
        voxels = map(tuple, (xyz + lower).tolist())
        read = dict(zip(voxels, values.tolist(), strict=True))
        assert read == {v: known[v] for v in known if inside(v, lower, shape)}


def test_what_is_forgotten_makes_room():
    memory = Memory(LOWER, SHAPE, 4, CPU)
    xyz = torch.ones(3, 3, 3).nonzero()
    memory.replace(LOWER, (3, 3, 3), xyz, torch.ones(27, 4))
    before = memory.nbytes
    for _ in range(50):
        memory.replace(LOWER, (3, 3, 3), xyz, torch.ones(27, 4))
    assert memory.nbytes == before and len(memory) == 27


def test_a_box_that_sticks_out_is_refused():
    memory = Memory(LOWER, SHAPE, 1, CPU)
    with pytest.raises(AssertionError):
        memory.read(LOWER - 1, (2, 2, 2))
    with pytest.raises(AssertionError):
        memory.read(LOWER + 10, (4, 4, 4))


def test_no_gradient_reaches_what_came_before():
    memory = Memory(LOWER, SHAPE, 1, CPU)
    values = torch.ones(1, 1, requires_grad=True)
    memory.replace(LOWER, (1, 1, 1), torch.zeros(1, 3, dtype=torch.int64), values)
    assert not memory.read(LOWER, (1, 1, 1))[1].requires_grad
