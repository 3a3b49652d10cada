import pytest
import torch
import torch.nn as nn

from utils.tiling import course_tiled, cuts, mirror_to, next_power_of_two, super_resolve, tile_starts


class Nearest(nn.Module):
    """×3 nearest neighbour, remembering what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        return x.repeat_interleave(3, 2).repeat_interleave(3, 3)


@pytest.mark.parametrize(("length", "power"), ((1, 1), (2, 2), (96, 128), (168, 256), (256, 256), (257, 512)))
def test_next_power_of_two(length, power):
    assert next_power_of_two(length) == power


def test_mirroring_flips_the_end():
    row = torch.tensor([1.0, 2, 3]).reshape(1, 1, 1, 3)
    assert mirror_to(row, 5, -1).flatten().tolist() == [1, 2, 3, 3, 2]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((96, 96), [(128, 128)]), ((168, 168), [(256, 256)]), ((5, 20), [(8, 8)] * 4), ((300, 200), [(256, 256)] * 2)],
)
def test_course_tiles(size, tiles):
    model, lr = Nearest(), torch.rand(1, 3, *size)
    sr = course_tiled(model, lr, 3)
    assert model.seen == tiles
    torch.testing.assert_close(sr, Nearest()(lr))


def test_course_tiles_average_where_they_overlap():
    class Counter(nn.Module):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return torch.full((1, 3, 3 * x.shape[2], 3 * x.shape[3]), float(self.calls))

    assert tile_starts(300, 256) == [0, 44]
    sr = course_tiled(Counter(), torch.rand(1, 3, 2, 4), 3, max_tile=2)
    assert sr[0, 0, 0].tolist() == [1.0] * 6 + [2.0] * 6


@pytest.mark.parametrize("size", ((1, 1), (20, 31), (40, 97)))
@pytest.mark.parametrize("tile", (12, 20, 64))
def test_tiled_equals_whole_where_the_overlap_covers_the_kernel(size, tile):
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 27, 9, padding=4), nn.PixelShuffle(3)).eval()
    lr = torch.rand(1, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(super_resolve(conv, lr, 3, tile=tile, overlap=4), conv(lr))


@pytest.mark.parametrize("length", range(1, 80))
def test_cuts_cover_once_and_stay_inside_their_tile(length):
    covered = []
    for start, part in cuts(length, 16, 3):
        assert start <= part.start < part.stop <= start + 16
        covered += range(part.start, part.stop)
    assert covered == list(range(length))


def test_a_tile_within_its_margins_is_an_error():
    with pytest.raises(ValueError, match="overlap"):
        super_resolve(Nearest(), torch.rand(1, 3, 8, 8), 3, tile=8, overlap=4)
