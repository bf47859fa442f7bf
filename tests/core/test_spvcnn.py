import pytest
import torch
from torch import nn

from gnesf_core.nets.gru import ConvGru
from gnesf_core.nets.norm import BatchNorm
from gnesf_core.nets.spvcnn import Residual, Spvcnn, interpolate, mean_by
from gnesf_core.sparse.engine import engine
from gnesf_core.sparse.sites import Sites

ENGINE = engine("gather", torch.device("cpu"))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def random_sites(seed, count=200, extent=16, batch=1):
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(0, extent, (count, 3), generator=generator)
    first = torch.randint(0, batch, (count, 1), generator=generator)
    return torch.cat([first, xyz], 1).unique(dim=0)


@pytest.mark.parametrize(
    ("inputs", "channels", "aggregation", "memory"),
    [(81, 96, 4_517_248, 1_548_576), (139, 48, 1_173_152, 387_216),
     (75, 24, 295_120, 96_840)],
)  # fmt: skip
def test_the_networks_have_the_published_number_of_parameters(
    inputs, channels, aggregation, memory
):
    # NeuralRecon's released levels, counted there.
    assert parameters(Spvcnn(inputs, channels, ENGINE)) == aggregation
    assert parameters(ConvGru(channels, ENGINE)) == memory


def eval_network(seed=0):
    torch.manual_seed(seed)
    return Spvcnn(5, 6, ENGINE).double().eval()


def test_moving_everything_by_a_coarsest_voxel_changes_nothing():
    batch_xyz, network = random_sites(1), eval_network()
    features = torch.randn(len(batch_xyz), 5, dtype=torch.float64)
    moved = batch_xyz + torch.tensor([0, 4, -8, 12])
    with torch.no_grad():
        here = network(features, Sites(batch_xyz))
        there = network(features, Sites(moved))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_neighbours_in_the_batch_do_not_matter():
    batch_xyz, network = random_sites(2, batch=2), eval_network()
    features = torch.randn(len(batch_xyz), 5, dtype=torch.float64)
    first = batch_xyz[:, 0] == 0
    with torch.no_grad():
        together = network(features, Sites(batch_xyz))[first]
        alone = network(features[first], Sites(batch_xyz[first]))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_rows_may_come_in_any_order():
    batch_xyz, network = random_sites(3), eval_network()
    features = torch.randn(len(batch_xyz), 5, dtype=torch.float64)
    order = torch.randperm(len(batch_xyz))
    with torch.no_grad():
        straight = network(features, Sites(batch_xyz))
        shuffled = network(features[order], Sites(batch_xyz[order]))
    torch.testing.assert_close(straight[order], shuffled, rtol=0, atol=1e-12)


def test_a_residual_block_is_the_dense_one_where_everything_is_active():
    torch.manual_seed(0)
    block = Residual(3, 4, ENGINE).double().train()
    batch_xyz = torch.ones(1, 5, 4, 6).nonzero()
    features = torch.randn(len(batch_xyz), 3, dtype=torch.float64)

    def dense_conv(weight):
        inputs, outputs = weight.shape[1:]
        conv = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False).double()
        with torch.no_grad():
            conv.weight.copy_(weight.permute(2, 1, 0).reshape(outputs, inputs, 3, 3, 3))
        return conv

    def norm(values):
        return nn.functional.batch_norm(values, None, None, training=True)

    grid = features.T.reshape(1, 3, 5, 4, 6)
    with torch.no_grad():
        inner = norm(dense_conv(block.first.conv.weight)(grid)).relu()
        outer = norm(dense_conv(block.second.conv.weight)(inner))
        linear = block.around[0].weight[:, :, None, None, None]
        around = norm(nn.functional.conv3d(grid, linear))
        expected = (outer + around).relu().flatten(2)[0].T
        found = block(features, Sites(batch_xyz))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert isinstance(block.around[1], BatchNorm)


def test_interpolation_between_full_voxels_keeps_a_slope():
    coarse = torch.ones(1, 4, 4, 4).nonzero()
    fine = torch.ones(1, 9, 9, 9).nonzero()  # the last lies on the last coarse voxel
    slope = torch.tensor([1.0, 2.0, -3.0])
    values = (coarse[:, 1:].float() * 4) @ slope
    found = interpolate(values[:, None], Sites(coarse), Sites(fine), 4)
    torch.testing.assert_close(found[:, 0], fine[:, 1:].float() @ slope)


def test_means_of_groups_and_of_nothing():
    values = torch.tensor([[1.0], [3.0], [5.0]])
    means = mean_by(values, torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[2.0], [0.0], [5.0]]


def test_a_lonely_voxel_is_remembered_as_cho_et_al_wrote():
    torch.manual_seed(1)
    unit = ConvGru(2, ENGINE).double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter)
    h, x = torch.randn(1, 2).double(), torch.randn(1, 2).double()

    def gate(part, left, right):
        weight = part.conv.weight[13].T + part.point.weight
        return weight @ torch.cat([left, right], 1)[0] + part.point.bias

    with torch.no_grad():
        z, r = gate(unit.update, h, x).sigmoid(), gate(unit.reset, h, x).sigmoid()
        q = gate(unit.candidate, r * h, x).tanh()
        found = unit(h, x, Sites(torch.zeros(1, 4, dtype=torch.int64)))[0]
    torch.testing.assert_close(found, (1 - z) * h[0] + z * q)


def test_an_untrained_memory_takes_what_is_seen_and_keeps_what_is_not():
    torch.manual_seed(2)
    unit = ConvGru(12, ENGINE)
    batch_xyz = random_sites(4)
    # As the network's features are: sums of rectified numbers.
    seen = (
        torch.randn(len(batch_xyz), 12).relu() + torch.randn(len(batch_xyz), 12).relu()
    )
    seen *= 1.4
    remembered = torch.rand(len(batch_xyz), 12) - 0.5
    unseen = torch.arange(len(batch_xyz)) % 3 == 0
    seen[unseen] = 0
    with torch.no_grad():
        kept = unit(remembered, seen, Sites(batch_xyz))
        fresh = unit(torch.zeros_like(seen), seen, Sites(batch_xyz))
    torch.testing.assert_close(kept[unseen], remembered[unseen], atol=0.1, rtol=0.15)
    squashed = seen[~unseen].tanh()
    assert (fresh[~unseen] - squashed).abs().mean() < 0.12 * squashed.mean()
