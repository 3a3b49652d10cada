from collections import Counter

import numpy as np
import pytest
import torch
from conftest import needs_reference, reference, smooth_image, write_decoded

import png2npy
from dataset import (
    BenchmarkSet,
    DataError,
    DevicePatches,
    MappedArrays,
    Pair,
    PairedPatches,
    find_pairs,
    noise_pairs,
    prefetch,
    sample_pairs,
)
from utils.bicubic import imresize
from utils.images import write_rgb
from utils.sampling import CELL, LEAST_DETAIL, lost_detail, random_uniform


def patches(root, split="training", **options) -> PairedPatches:
    options = {"scale": 3, "patch_size": 24} | options
    return PairedPatches([(find_pairs(root, split, options["scale"]), 2)], split=split, **options)


def test_pairs_are_in_natural_order(decoded):
    assert [pair.name for pair in find_pairs(decoded, "training", 3)] == ["0001", "0002", "0010"]
    assert [pair.name for pair in find_pairs(decoded, "validation", 3)] == ["0801", "0802"]
    assert all(pair.lr.stem == pair.name + "x3" for pair in find_pairs(decoded, "training", 3))


def test_flickr2k_layout(tmp_path):
    write_decoded(tmp_path, "Flickr2K", ["000001"], (30, 30))
    assert [pair.name for pair in find_pairs(tmp_path, "training", 3)] == ["000001"]
    assert find_pairs(tmp_path, "validation", 3) == []


def test_a_validation_set_alone_is_not_trained_on(tmp_path):
    write_decoded(tmp_path, "DIV2K_valid", ["0801"], (30, 30))
    assert find_pairs(tmp_path, "training", 3) == []


def coordinate_pair(height: int = 20, width: int = 30, scale: int = 3) -> Pair:
    """LR and HR pixels that carry their LR row and column."""
    rows, columns = np.mgrid[:height, :width]
    lr = np.stack((rows, columns, rows * 0), axis=2).astype(np.uint8)
    return Pair("coordinates", lr, lr.repeat(scale, 0).repeat(scale, 1))


def test_lr_and_hr_are_aligned_under_every_flip_and_rotation():
    dataset = PairedPatches([([coordinate_pair()], 1)], scale=3, patch_size=12, split="training")
    orientations = set()
    batch = dataset[range(200)]
    assert batch[0].shape == (200, 3, 4, 4) and batch[1].shape == (200, 3, 12, 12)
    assert all(part.dtype == torch.uint8 and part.is_contiguous(memory_format=torch.channels_last) for part in batch)
    for lr, hr in zip(*batch):
        assert torch.equal(hr, lr.repeat_interleave(3, 1).repeat_interleave(3, 2))
        orientations.add(
            tuple(
                (lr[:2, 1, 2].int() - lr[:2, 1, 1].int()).tolist() + (lr[:2, 2, 1].int() - lr[:2, 1, 1].int()).tolist()
            )
        )
    assert len(orientations) == 8


def test_random_numbers_are_uniform_and_independent_of_their_batch():
    numbers = random_uniform(3, np.arange(20000), 4)
    assert numbers.shape == (4, 20000) and numbers.min() >= 0 and numbers.max() < 1
    for row in numbers:
        assert row.mean() == pytest.approx(0.5, abs=0.01) and row.var() == pytest.approx(1 / 12, abs=0.003)
    assert abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(numbers[:, :-1], numbers[:, 1:]) - np.eye(8)).max() < 0.03
    np.testing.assert_array_equal(random_uniform(3, np.array([17]), 4)[:, 0], numbers[:, 17])
    assert abs(random_uniform(4, np.arange(20000), 4) - numbers).mean() > 0.3


def test_every_position_is_equally_likely_times_repeat():
    small, large = coordinate_pair(8, 8), coordinate_pair(15, 22)  # 9·25 and 15·... positions of a 4-pixel patch
    dataset = PairedPatches([([small], 3), ([large], 1)], scale=3, patch_size=12, split="training")
    expected = 3 * 5 * 5 / (3 * 5 * 5 + 12 * 19)
    assert dataset.cells.cumulative.tolist() == pytest.approx([expected, 1])


def test_detail_by_hand():
    board = (np.indices((8, 10)).sum(0) % 2 * 200).astype(np.uint8)[..., None].repeat(3, 2)  # its mean is 100
    assert lost_detail(board) == pytest.approx(100) and not lost_detail(np.full_like(board, 7)).any()


def half_textured(height: int, width: int) -> Pair:
    """LR pixels that are random to the left and flat to the right."""
    lr = np.full((height, width, 3), 128, np.uint8)
    lr[:, : width // 2] = np.random.default_rng(0).integers(0, 256, (height, width // 2, 3))
    return Pair("half", lr, lr.repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("power", (0.5, 1, 2))
def test_patches_are_drawn_as_often_as_they_hold_detail(power):
    pairs, size = [coordinate_pair(31, 12), half_textured(40, 57)], 8
    repeats = (3, 1)
    sets = [([pair], repeat) for pair, repeat in zip(pairs, repeats)]
    dataset = PairedPatches(sets, scale=3, patch_size=3 * size, split="training", detail=power)
    expected = {}
    for number, (pair, repeat) in enumerate(zip(pairs, repeats)):
        lost = lost_detail(pair.lr)
        for top, left in np.ndindex(pair.lr.shape[0] - size + 1, pair.lr.shape[1] - size + 1):
            weight = max(float(lost[top : top + size, left : left + size].mean()), LEAST_DETAIL) ** power
            cell = (number, top // CELL, left // CELL)
            expected[cell] = expected.get(cell, 0) + repeat * weight
    draws = dataset.draw(range(20000))
    assert (draws.top <= dataset.positions[draws.image, 0] - 1).all()
    assert (draws.left <= dataset.positions[draws.image, 1] - 1).all()
    found = Counter(zip(draws.image, draws.top // CELL, draws.left // CELL))
    for cell, weight in expected.items():
        share = weight / sum(expected.values())
        assert found[cell] / 20000 == pytest.approx(share, abs=5 * (share / 20000) ** 0.5), cell
    assert len(set(zip(draws.image, draws.top, draws.left))) > 900  # of 24·5 + 33·50: everywhere inside a cell
    lr, hr = dataset[range(32)]
    assert torch.equal(hr, lr.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_flat_images_can_be_drawn_by_detail():
    flat = Pair("flat", np.zeros((20, 20, 3), np.uint8), np.zeros((60, 60, 3), np.uint8))
    draws = PairedPatches([([flat], 1)], scale=3, patch_size=12, split="training", detail=1).draw(range(1000))
    assert draws.top.mean() == pytest.approx(8, abs=0.6) and draws.left.max() == 16


def test_a_sample_depends_on_seed_and_index_alone(decoded):
    a, b = patches(decoded, seed=1), patches(decoded, seed=1)
    first, second = a[range(41)], b[(40, 7)]
    assert torch.equal(first[0][40], second[0][0]) and torch.equal(first[1][7], second[1][1])
    assert not torch.equal(first[1], patches(decoded, seed=2)[range(41)][1])
    assert not torch.equal(first[1][:20], first[1][20:40])


@pytest.mark.parametrize("power", (0, 1))
def test_three_places_give_the_same_patches(decoded, power):
    on_disk, in_memory = patches(decoded, detail=power), patches(decoded, detail=power)
    in_memory.lr.load()
    in_memory.hr.load()
    on_device = DevicePatches(patches(decoded, detail=power), "cpu")
    for disk, memory, device in zip(on_disk[range(32)], in_memory[range(32)], on_device[range(32)]):
        assert torch.equal(disk, memory) and torch.equal(disk, device)
        assert device.is_contiguous(memory_format=torch.channels_last)
    assert all(isinstance(source, np.ndarray) for source in in_memory.hr.sources)


def test_maps_are_closed_when_there_are_many(decoded):
    files = sorted(decoded.rglob("*.npy"))
    arrays = MappedArrays(files, limit=2)
    for index in (0, 5, 3, 0, 7):
        np.testing.assert_array_equal(arrays[index], np.load(files[index]))
        assert len(arrays._open) <= 2


def test_a_file_that_disappears_during_the_run_is_named(decoded):
    dataset = patches(decoded)
    for file in decoded.rglob("DIV2K_train_HR/*.npy"):
        file.unlink()
    with pytest.raises(DataError, match=r"train_HR.*disappeared"):
        dataset[range(8)]


def test_same_batches_with_no_and_two_workers(decoded):
    shares = [range(start, start + 4) for start in range(0, 16, 4)]
    alone, shared = (list(prefetch(patches(decoded), shares, workers)) for workers in (0, 2))
    assert len(alone) == len(shared) == 4
    for one, two in zip(alone, shared):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_an_error_in_a_thread_reaches_the_caller(decoded):
    dataset = patches(decoded)
    for file in decoded.rglob("DIV2K_train_HR/*.npy"):
        file.unlink()
    with pytest.raises(DataError, match="disappeared"):
        list(prefetch(dataset, [range(8)], workers=1))


def test_validation_goes_through_every_image_unflipped(decoded):
    dataset = patches(decoded, "validation", patch_size=36)
    assert len(dataset) == 4
    for index, name in enumerate(("0801", "0801", "0802", "0802")):
        hr = np.load(decoded / f"DIV2K_valid_HR/{name}.npy")
        np.testing.assert_array_equal(dataset[[index]][1][0].permute(1, 2, 0).numpy(), hr)


def test_a_missing_partner_is_named(decoded):
    (decoded / "DIV2K_train_LR_bicubic/X3/0002x3.npy").unlink()
    with pytest.raises(DataError, match=r"training .*X3: 0002"):
        find_pairs(decoded, "training", 3)


def test_names_may_end_in_x3_themselves(tmp_path):
    write_decoded(tmp_path, "My_train", ["ax3"], (24, 27))
    lr = tmp_path / "My_train_LR_bicubic/X3"
    for name in ("ax3x3.npy", "ax3.npy"):
        (lr / "ax3x3.npy").replace(lr / name)
        assert [pair.name for pair in find_pairs(tmp_path, "training", 3)] == ["ax3"]
        assert png2npy.main(["--check", str(tmp_path)]) == 0


def test_what_a_killed_conversion_leaves_is_no_image(decoded):
    pairs = find_pairs(decoded, "training", 3)
    for folder in ("DIV2K_train_HR", "DIV2K_train_LR_bicubic/X3"):
        (decoded / folder / ".0002.3f2a.npy").touch()
    assert find_pairs(decoded, "training", 3) == pairs
    assert png2npy.main(["--check", str(decoded)]) == 0


def test_an_lr_without_hr_is_named(decoded):
    (decoded / "DIV2K_valid_HR/0802.npy").unlink()
    with pytest.raises(DataError, match=r"validation .*DIV2K_valid_HR: 0802"):
        find_pairs(decoded, "validation", 3)


def test_no_lr_at_all_says_how_to_make_it(decoded):
    with pytest.raises(DataError, match="--make-lr"):
        find_pairs(decoded, "training", 2)


def test_sizes_that_do_not_match_name_the_file(decoded):
    np.save(decoded / "DIV2K_train_HR/0010.npy", smooth_image(48, 57))
    with pytest.raises(DataError, match=r"training pair 0010: HR is 57×48.*0010.npy"):
        patches(decoded)


def test_an_image_smaller_than_the_patch_is_named(decoded):
    with pytest.raises(DataError, match=r"validation image 0801 is 36×36, smaller than the 39 .*, and 1 more; give"):
        patches(decoded, "validation", patch_size=39)


def test_small_training_images_are_left_out(decoded):
    assert not patches(decoded).left_out
    np.save(decoded / "DIV2K_train_HR/0002.npy", smooth_image(48, 21))
    np.save(decoded / "DIV2K_train_LR_bicubic/X3/0002x3.npy", smooth_image(16, 7))
    some = patches(decoded)
    assert [pair.name for pair in some.pairs] == ["0001", "0010"] and some.photo_count == len(some) // 2 == 2
    assert [pair.name for pair in some.left_out] == ["0002"]


def test_lr_of_another_scale_is_told(tmp_path):
    write_rgb(tmp_path / "original/a.png", smooth_image(48, 60))
    write_rgb(tmp_path / "LRbicx3/ax3.png", smooth_image(12, 15))
    with pytest.raises(DataError, match=r"original/a.png is more than 8 pixels larger than 3 times .*LRbicx3/ax3.png"):
        BenchmarkSet.from_set5(tmp_path, 3)


def test_splits_are_known_without_a_set_s_name(decoded):
    for folder in ("valid_HR", "valid_LR_bicubic"):
        (decoded / f"DIV2K_{folder}").rename(decoded / folder)
    assert [pair.name for pair in find_pairs(decoded, "training", 3)] == ["0001", "0002", "0010"]
    assert [pair.name for pair in find_pairs(decoded, "validation", 3)] == ["0801", "0802"]


def test_a_set_of_small_images_is_named(decoded):
    with pytest.raises(DataError, match=r"every training image of one set, such as .*0001.npy.*, is smaller than"):
        patches(decoded, patch_size=300)


@pytest.mark.parametrize("patch_size", (0, 25))
def test_a_patch_that_is_no_multiple_of_the_scale(decoded, patch_size):
    with pytest.raises(DataError, match="multiple of the scale"):
        patches(decoded, patch_size=patch_size)


@pytest.mark.parametrize("content", (b"", b"not an array", "float", "header", "several"))
def test_a_damaged_array_is_named(decoded, content):
    file = decoded / "DIV2K_train_HR/0001.npy"
    if content == "float":
        np.save(file, np.zeros((48, 60, 3)))
    elif content == "several":
        with file.open("wb") as several:
            np.savez(several, np.zeros((48, 60, 3), np.uint8))
    else:
        file.write_bytes(file.read_bytes().replace(b"3)", b"3\x9b") if content == "header" else content)
    with pytest.raises(DataError, match=r"0001.npy .*png2npy.py again"):
        patches(decoded)


def test_a_truncated_array_is_named(decoded):
    file = decoded / "DIV2K_train_HR/0001.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="0001.npy"):
        patches(decoded)


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_the_sample_set_needs_no_download(scale):
    training, validation = sample_pairs("training", scale), sample_pairs("validation", scale)
    assert len(training) >= 3 and len(validation) == 2
    assert not {p.name for p in training} & {p.name for p in validation}
    PairedPatches([(training, 1)], scale=scale, patch_size=48 * scale, split="training")[range(2)]


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_noise_is_the_same_each_time_and_enlarged_by_bicubic(scale):
    pairs = noise_pairs(scale, 50)
    assert len({pair.name for pair in pairs}) == len(pairs) > 40
    for pair, again in zip(pairs, noise_pairs(scale, 50), strict=True):
        assert pair.lr.shape == (50, 50, 3) and pair.lr.std() > 1
        np.testing.assert_array_equal(pair.lr, again.lr)
        np.testing.assert_array_equal(pair.hr, imresize(pair.lr, scale))
    named = {pair.name: pair.lr for pair in pairs}
    grey, colours = named["binary_1_1"], named["binary_3_1"]
    assert set(np.unique(grey)) == {0, 255} and (grey == grey[..., :1]).all() and (colours != colours[..., :1]).any()
    assert named["checkerboard_1_2"][0, :5, 0].tolist() == [0, 0, 255, 255, 0]


@pytest.mark.parametrize("detail", (0, 1))
@pytest.mark.parametrize("share", (0.05, 0.9))
def test_noise_has_its_share_of_the_patches(decoded, detail, share):
    mixed, photos = patches(decoded, detail=detail, noise=share), patches(decoded, detail=detail)
    drawn = mixed.draw(range(20000)).image
    of_noise = drawn >= mixed.photo_count
    assert mixed.photo_count == photos.photo_count == 3 and of_noise.mean() == pytest.approx(share, abs=0.01)
    assert len(np.unique(drawn[of_noise])) == len(noise_pairs(3, 72))
    frequencies = [
        np.bincount(images, minlength=3) / len(images) for images in (drawn[~of_noise], photos.draw(range(20000)).image)
    ]
    np.testing.assert_allclose(*frequencies, atol=0.05)
    np.testing.assert_allclose(mixed.set_shares(), (1 - share, share))
    assert photos.set_shares().tolist() == [1]


def test_benchmark_from_set5_layout(tmp_path):
    for name in ("b", "a"):
        write_rgb(tmp_path / f"original/{name}.png", smooth_image(31, 32))
        write_rgb(tmp_path / f"LRbicx3/{name}x3.png", smooth_image(10, 10))
    assert [name for name, _, _ in BenchmarkSet.from_set5(tmp_path, 3)] == ["a", "b"]
    (tmp_path / "LRbicx3/ax3.png").unlink()
    with pytest.raises(DataError, match="partner: a"):
        BenchmarkSet.from_set5(tmp_path, 3)


def test_two_images_of_one_name_are_named(tmp_path):
    write_rgb(tmp_path / "original/a.png", smooth_image(30, 30))
    for name in ("a.png", "ax3.png"):
        write_rgb(tmp_path / "LRbicx3" / name, smooth_image(10, 10))
    with pytest.raises(DataError, match="LRbicx3 holds two images called a, a.png and ax3.png; delete or rename one"):
        BenchmarkSet.from_set5(tmp_path, 3)
    write_rgb(tmp_path / "original/a.bmp", smooth_image(30, 30))
    with pytest.raises(DataError, match="original holds two images called a, a.bmp and a.png; delete or rename one"):
        BenchmarkSet.from_folder(tmp_path / "original", 3)


def test_benchmark_from_a_folder(tmp_path):
    write_rgb(tmp_path / "a.png", smooth_image(31, 32))
    ((name, lr, hr),) = BenchmarkSet.from_folder(tmp_path, 3)
    assert (name, lr.shape, hr.shape) == ("a", (10, 10, 3), (30, 30, 3))


def test_benchmark_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="no images"):
        BenchmarkSet.from_folder(tmp_path, 3)
    with pytest.raises(DataError, match="is not a folder"):
        BenchmarkSet.from_folder(tmp_path / "nowhere", 3)
    with pytest.raises(DataError, match="LRbicx3"):
        BenchmarkSet.from_set5(tmp_path, 3)
    write_rgb(tmp_path / "a.png", smooth_image(9, 9))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    images = iter(BenchmarkSet.from_folder(tmp_path, 3))  # which are read one at a time
    assert next(images)[0] == "a"
    with pytest.raises(DataError, match="bad.png: not an image"):
        next(images)


@needs_reference("data/set5")
def test_set5_has_five_images():
    names = [name for name, _, _ in BenchmarkSet.from_set5(reference("data/set5"), 3)]
    assert names == ["baby", "bird", "butterfly", "head", "woman"]


def test_two_sets_in_one_root_are_refused(decoded):
    write_decoded(decoded, "Flickr2K", ["000001"], (48, 48))
    with pytest.raises(DataError, match=r"several training sets \(DIV2K_train_HR, Flickr2K_HR\)"):
        find_pairs(decoded, "training", 3)


def test_another_order_in_memory_is_refused(decoded):
    np.save(decoded / "DIV2K_train_HR/0001.npy", np.asfortranarray(smooth_image(48, 57)))
    with pytest.raises(DataError, match="in C order"):
        PairedPatches([(find_pairs(decoded, "training", 3), 1)], scale=3, patch_size=24, split="training")
