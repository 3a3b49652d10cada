import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn as nn

import utils.tiling as tiling
from models import MODELS, build_model
from models.kernels.guards import layers_apart
from utils.tiling import (
    bytes_per_pixel,
    course_tiled,
    mirror_to,
    next_power_of_two,
    plan_spans,
    receptive_margin,
    super_resolve,
)


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


def random_image(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def small_conv() -> nn.Module:
    """A ×3 network of margin 4 whose output stays between 0 and 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 27, 9, padding=4), nn.PixelShuffle(3)).eval()
    with torch.no_grad():
        model[0].weight.abs_().div_(model[0].weight.sum(dim=(1, 2, 3), keepdim=True))
        model[0].bias.zero_()
    return model


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("size", ((1, 1), (20, 31), (40, 197), (130, 60)))
@pytest.mark.parametrize("tile", (40, 57))
@pytest.mark.parametrize("batch", (1, 3))
def test_tiled_equals_whole_where_no_layer_looks_at_all_of_it(size, tile, batch, dtype):
    model, image = small_conv(), random_image(*size, dtype)
    whole = super_resolve(model, image, 3, tile=1000)
    tiled = super_resolve(model, image, 3, tile=tile, batch=batch)
    assert tiled.shape == (3 * size[0], 3 * size[1], 3) and tiled.dtype == dtype
    limit = 1 if dtype == np.uint8 else 2  # the order of sums differs with memory's, and from processor to processor
    assert np.abs(whole.astype(int) - tiled).max() <= limit
    with torch.inference_mode():
        lr = torch.from_numpy(image.astype(np.int32)).permute(2, 0, 1)[None] / np.iinfo(dtype).max
        expected = (model(lr)[0].clamp(0, 1) * np.iinfo(dtype).max).round().permute(1, 2, 0).numpy()
    assert np.abs(whole - expected).max() <= limit
    assert dtype != np.uint8 or (whole != expected).mean() < 0.01


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_a_network_without_attention_is_the_same_in_tiles(scale):
    torch.manual_seed(0)
    model, image = build_model("IMDN_RTC", nf=8, num_modules=2, scale=scale).eval(), random_image(90, 101)
    assert receptive_margin(model) == 1 + 2 * 4 + 1
    tiled, whole = (super_resolve(model, image, scale, tile=tile) for tile in (60, 1000))
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_rows_of_tiles_are_lower_where_a_picture_is_wide(monkeypatch):
    monkeypatch.setattr(tiling, "TILE_BYTES", 4 << 20)
    row, heights = tiling.super_resolve_row, []
    monkeypatch.setattr(tiling, "super_resolve_row", lambda *given: heights.append(len(given[1])) or row(*given))
    model = small_conv()
    for width, fits in ((100, False), (300, True)):  # of 300 pixels some 64 rows fit, of 216 bytes a pixel
        image = random_image(150, width)
        tiled = super_resolve(model, image, 3)
        assert (max(heights) <= 64) == fits and max(heights) <= 98  # a side of the square that fits otherwise
        heights.clear()
        assert np.abs(tiled.astype(int) - super_resolve(model, image, 3, tile=1000)).max() <= 1
        heights.clear()


@pytest.mark.parametrize(("kernel", "dilation"), ((3, 1), (9, 1), (33, 1), (9, 4)))
def test_a_deconv_is_the_same_in_tiles(kernel, dilation):
    torch.manual_seed(0)
    deconv = nn.ConvTranspose2d(3, 3, kernel, 3, dilation * (kernel - 1) // 2 - 1, dilation=dilation)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), deconv).eval()
    assert bytes_per_pixel(model) == 16 * 9 * 3
    image = random_image(90, 101)
    tiled, whole = (super_resolve(model, image, 3, tile=tile) for tile in (60, 1000))
    assert whole.shape == (270, 303, 3) and np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("make", "margin"),
    (
        (lambda: nn.Conv2d(3, 3, (1, 15), padding=(0, 7)), 7),
        (lambda: nn.Conv2d(3, 3, (3, 5), padding=(1, 8), dilation=(1, 4)), 8),
        (lambda: nn.AvgPool2d(15, 1, 7), 7),
        (lambda: nn.MaxPool2d([3, 15], 1, (1, 7)), 7),
        (lambda: nn.ConvTranspose2d(3, 3, (1, 15), padding=(0, 7)), 8),
    ),
)
def test_the_margin_is_that_of_the_longer_side(make, margin):
    """And what tiles need: the result is the whole image's."""
    last = small_conv()  # which seeds the layer's weights
    model, image = nn.Sequential(make(), nn.Sigmoid(), last).eval(), random_image(20, 160)
    assert receptive_margin(model) == margin + 4
    tiled, whole = (super_resolve(model, image, 3, tile=tile) for tile in (70, 1000))
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_a_network_can_name_its_margin_itself():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), small_conv())
    model[1].tile_margin = 12
    assert receptive_margin(model) == 1 + 12


@pytest.mark.parametrize("name", MODELS)
def test_the_margin_covers_what_a_pixel_depends_on(name):
    """Gradients of the middle pixel reach no further than the margin, once global pooling is switched off."""
    torch.manual_seed(0)
    model = build_model(name, **{"nf": 16 if name == "DRLN" else 8, "num_modules": 4}).double()
    for module in model.modules():
        if hasattr(module, "average_pool"):
            module.forward = lambda x: 0.5 * x
    margin = receptive_margin(model)
    lr = torch.rand(1, 3, 2 * margin + 11, 7, dtype=torch.float64, requires_grad=True)
    middle = margin + 5
    with layers_apart():
        sr = model(lr)
    (gradient,) = torch.autograd.grad(sr[..., 3 * middle + 1, 10].sum(), lr)
    reached = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert middle - reached.min() <= margin and reached.max() - middle <= margin


@pytest.mark.parametrize(("longest", "margin"), ((60, 10), (25, 0), (25, 1), (25, 2)))  # 60, and the shortest
def test_spans_overlap_enough_and_their_weights_add_up_to_one(longest, margin):
    for length in range(longest, 300):
        spans = plan_spans(length, longest, margin, blend=8)
        total = torch.zeros(3 * length)
        for span in spans:
            assert 0 <= span.start < span.stop <= length and span.stop - span.start <= longest
            total[3 * span.start : 3 * span.stop] += span.weights(3)
        torch.testing.assert_close(total, torch.ones(3 * length))
        assert spans[0].start == 0 and spans[-1].stop == length
        for one, two in zip(spans, spans[1:]):
            assert one.after == two.before
            assert two.start + margin <= one.after[0] and one.after[1] <= one.stop - margin


@pytest.mark.parametrize("margin", (0, 1))
def test_tiles_so_short_that_their_blending_would_overlap_are_an_error(margin):
    with pytest.raises(ValueError, match="a tile of 21 .* at least 25"):
        plan_spans(33, 21, margin, blend=8)


@pytest.mark.parametrize(
    ("image", "says"),
    (
        (np.zeros((4, 4), np.uint8), "the image is uint8 \\(4, 4\\), not"),
        (np.zeros((4, 4, 4), np.uint8), "the image is uint8 \\(4, 4, 4\\), not"),
        (np.zeros((4, 4, 3), np.float32), "the image is float32 \\(4, 4, 3\\), not"),
        (np.zeros((4, 4, 3), np.uint8), "makes \\(1, 3, 12, 12\\) of \\(1, 3, 4, 4\\), not \\(1, 3, 8, 8\\)"),
    ),
)
def test_arrays_and_scales_that_do_not_fit_are_errors(image, says):
    with pytest.raises(ValueError, match=says):
        super_resolve(small_conv(), image, 2)


def test_a_tile_within_its_overlaps_is_an_error():
    with pytest.raises(ValueError, match="a tile of 30 .* at least 33"):
        super_resolve(small_conv(), random_image(80, 80), 3, tile=30)


@pytest.mark.parametrize(
    ("weight", "dtype", "refused"),
    (
        (1e5, torch.float16, "overflow float16 on this picture; take bfloat16 or float32"),
        (1e5, torch.bfloat16, None),
        (math.nan, torch.float32, "are not finite: its weights may be damaged"),
    ),
)
def test_values_that_are_not_finite_are_refused(weight, dtype, refused):
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            nn.init.constant_(self.conv.weight, weight)

        def forward(self, x):
            return self.conv(x)

    image = np.full((4, 4, 3), 255, np.uint8)
    with pytest.raises(ValueError, match=refused) if refused else nullcontext():
        super_resolve(Loud(), image, 1, dtype=dtype)
