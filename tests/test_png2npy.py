import errno
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import smooth_image
from PIL import Image

import png2npy
from dataset import find_pairs
from utils.bicubic import imresize
from utils.images import IMAGE_SUFFIXES, read_rgb, write_rgb
from utils.layout import TEACHER
from utils.photo import read_header


@pytest.fixture
def div2k(tmp_path):
    root = tmp_path / "DIV2K"
    for stem in ("0001", "0002"):
        hr = smooth_image(24, 30, seed=int(stem))
        write_rgb(root / f"DIV2K_train_HR/{stem}.png", hr)
        write_rgb(root / f"DIV2K_train_LR_bicubic/X3/{stem}x3.png", imresize(hr, 1 / 3))
    return root


def decode(root, *flags) -> int:
    return png2npy.main(["--pathFrom", str(root), "--pathTo", f"{root}_decoded", "--workers", "1", *flags])


def test_the_tree_is_mirrored(div2k, tmp_path):
    assert decode(div2k) == 0
    decoded = tmp_path / "DIV2K_decoded"
    assert sorted(str(f.relative_to(decoded)) for f in decoded.rglob("*.*")) == [
        "DIV2K_train_HR/0001.npy",
        "DIV2K_train_HR/0002.npy",
        "DIV2K_train_LR_bicubic/X3/0001x3.npy",
        "DIV2K_train_LR_bicubic/X3/0002x3.npy",
    ]
    array = np.load(decoded / "DIV2K_train_HR/0001.npy")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, smooth_image(24, 30, seed=1))
    assert len(find_pairs(decoded, "training", 3)) == 2


def test_the_target_may_hold_the_source_or_lie_in_it(div2k, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rgb(div2k / "decoded/previews/a.png", smooth_image(24, 30))
    for target in (".", "DIV2K", "DIV2K/decoded"):
        assert png2npy.main(["--pathFrom", "DIV2K", "--pathTo", target]) == 0
        assert len(find_pairs(tmp_path / target, "training", 3)) == 2
    assert not (div2k / "decoded/decoded").exists()


def test_done_files_are_skipped_and_changed_ones_redone(div2k, tmp_path, capsys):
    decode(div2k)
    assert decode(div2k) == 0
    assert "0 written, 4 done before" in capsys.readouterr().out
    changed = div2k / "DIV2K_train_HR/0001.png"
    write_rgb(changed, smooth_image(24, 30, seed=9))
    os.utime(changed, (1, 1))  # older than before: restored from an archive, say
    assert decode(div2k) == 0
    assert "1 written, 3 done before" in capsys.readouterr().out
    np.testing.assert_array_equal(
        np.load(tmp_path / "DIV2K_decoded/DIV2K_train_HR/0001.npy"), smooth_image(24, 30, seed=9)
    )


def test_decoded_photos_whose_own_have_moved_or_are_gone_are_told(div2k, tmp_path, capsys):
    assert decode(div2k) == 0
    (div2k / "DIV2K_valid_HR").mkdir()
    (div2k / "DIV2K_train_HR/0002.png").rename(div2k / "DIV2K_valid_HR/0002.png")
    told = (
        f"holds 1 HR images that no photo in --pathFrom gives, such as {tmp_path}/DIV2K_decoded/DIV2K_{{}}_HR/0002.npy"
    )
    assert decode(div2k) == 0
    assert told.format("train") in capsys.readouterr().err
    (div2k / "DIV2K_valid_HR/0002.png").rename(div2k / "DIV2K_train_HR/0002.png")
    assert decode(div2k) == 0
    assert told.format("valid") in capsys.readouterr().err  # a folder that no photo is in any more


def test_shrunk_and_whole_photos_in_one_tree_are_not_left_over(div2k, capsys):
    for flags in ((), ("--make-lr", "3", "--shrink", "0.5"), ("--make-lr", "3", "--shrink", "0.75"), ()):
        assert decode(div2k, *flags) == 0
    assert "no photo in --pathFrom" not in capsys.readouterr().err


def test_make_lr_writes_what_is_missing(div2k, tmp_path, capsys):
    (div2k / "DIV2K_train_LR_bicubic/X3/0002x3.png").unlink()
    assert decode(div2k, "--make-lr", "3") == 0
    assert "4 written" in capsys.readouterr().out
    lr = np.load(tmp_path / "DIV2K_decoded/DIV2K_train_LR_bicubic/X3/0002x3.npy")
    np.testing.assert_array_equal(lr, imresize(smooth_image(24, 30, seed=2), 1 / 3))
    assert decode(div2k, "--make-lr", "2") == 0
    assert len(find_pairs(tmp_path / "DIV2K_decoded", "training", 2)) == 2


def test_make_lr_tells_names_that_end_in_x3_apart(tmp_path):
    for name in ("a", "ax3"):
        write_rgb(tmp_path / f"in/my_train_HR/{name}.png", smooth_image(24, 30))
    write_rgb(tmp_path / "in/my_train_LR_bicubic/X3/ax3.png", smooth_image(8, 10))  # of a
    assert decode(tmp_path / "in", "--make-lr", "3") == 0
    assert [pair.lr.name for pair in find_pairs(tmp_path / "in_decoded", "training", 3)] == ["ax3.npy", "ax3x3.npy"]


def test_make_lr_names_a_size_that_is_no_multiple(div2k, capsys):
    assert decode(div2k, "--make-lr", "4") == 1
    assert "0001.png: 30×24 is not a multiple of 4; crop it" in capsys.readouterr().err  # and ×3 is there, which fits


def test_make_lr_crops_hr_to_the_scale(tmp_path, capsys):
    write_rgb(tmp_path / "own/my_train_HR/a.png", smooth_image(158, 121))
    assert decode(tmp_path / "own", "--make-lr", "3") == 0
    (pair,) = find_pairs(tmp_path / "own_decoded", "training", 3)
    hr = smooth_image(158, 121)[:156, :120]
    np.testing.assert_array_equal(np.load(pair.hr), hr)
    np.testing.assert_array_equal(np.load(pair.lr), imresize(hr, 1 / 3))
    assert decode(tmp_path / "own", "--make-lr", "2") == 0  # of the HR that is there, not of 158×120
    assert np.load(find_pairs(tmp_path / "own_decoded", "training", 2)[0].lr).shape == (78, 60, 3)
    assert png2npy.main(["--check", str(tmp_path / "own_decoded")]) == 0


def test_make_lr_of_hr_that_was_decoded_whole_says_so(tmp_path, capsys):
    write_rgb(tmp_path / "own/my_train_HR/a.png", smooth_image(25, 24))
    assert decode(tmp_path / "own") == 0
    assert decode(tmp_path / "own", "--make-lr", "3") == 1
    assert "a.png: 24×25 is not a multiple of 3; it was decoded before, so use another" in capsys.readouterr().err


def test_lr_that_was_made_of_a_photo_that_changed_is_named(div2k, tmp_path, capsys):
    lr = div2k / "DIV2K_train_LR_bicubic"
    lr.rename(tmp_path / "elsewhere")
    assert decode(div2k, "--make-lr", "3") == decode(div2k, "--make-lr", "2") == decode(div2k) == 0
    (tmp_path / "DIV2K_decoded/DIV2K_train_LR_bicubic/X3_old").mkdir()  # of no scale
    before = [file.read_bytes() for file in sorted((tmp_path / "DIV2K_decoded").rglob("*.npy"))]
    write_rgb(div2k / "DIV2K_train_HR/0001.png", smooth_image(24, 30, seed=9))
    os.utime(div2k / "DIV2K_train_HR/0001.png", (1, 1))
    assert decode(div2k) == decode(div2k, "--make-lr", "3") == 1
    x2, x3, x2_again = capsys.readouterr().err.splitlines()[-3:]  # with --make-lr 3 those of X3 are made anew
    assert "X2: 1 of its images, such as 0001x2.npy, are of HR that is to be decoded anew; delete them" in x2
    assert x2_again == x2 and x3.endswith("delete them, then give --make-lr 3, to make them anew too")
    assert [file.read_bytes() for file in sorted((tmp_path / "DIV2K_decoded").rglob("*.npy"))] == before
    (tmp_path / "DIV2K_decoded/DIV2K_train_LR_bicubic/X2/0001x2.npy").unlink()
    assert decode(div2k, "--make-lr", "3") == 0
    os.utime(div2k / "DIV2K_train_HR/0002.png", (1, 1))
    shutil.rmtree(tmp_path / "DIV2K_decoded/DIV2K_train_LR_bicubic/X2")
    capsys.readouterr()
    assert decode(div2k) == 1 and "decoded anew; give --make-lr 3, to make them anew too" in capsys.readouterr().err
    assert decode(div2k, "--make-lr", "3") == decode(div2k, "--make-lr", "2") == 0
    assert png2npy.main(["--check", str(tmp_path / "DIV2K_decoded")]) == 0


def test_an_image_that_cannot_be_read_counts_once(tmp_path, capsys):
    (tmp_path / "own/my_train_HR").mkdir(parents=True)
    (tmp_path / "own/my_train_HR/a.png").write_bytes(b"")
    write_rgb(tmp_path / "own/my_train_HR/b.png", smooth_image(24, 30))
    assert decode(tmp_path / "own", "--make-lr", "3") == 1
    out, err = capsys.readouterr()
    assert "2 written, 0 done before, 1 failed" in out and err.count("error: ") == 1


def test_shrink_writes_smaller_training_pairs(div2k, tmp_path, capsys):
    for name in ("DIV2K_train_HR/0001", "DIV2K_train_HR/0002", "DIV2K_valid_HR/0801"):
        write_rgb(div2k / f"{name}.png", smooth_image(40, 50))
    assert decode(div2k, "--make-lr", "3", "--shrink", "0.75", "0.5", "0.5") == 0
    assert "8 written" in capsys.readouterr().out  # none of validation
    decoded = tmp_path / "DIV2K_decoded"
    pairs = find_pairs(decoded, "training", 3)
    assert [pair.name for pair in pairs] == ["0001_0.5", "0001_0.75", "0002_0.5", "0002_0.75"]
    hr = imresize(smooth_image(40, 50), 0.75)[:24, :36]  # 30×38 before
    np.testing.assert_array_equal(np.load(pairs[3].hr), hr)
    np.testing.assert_array_equal(np.load(pairs[3].lr), imresize(hr, 1 / 3))
    assert decode(div2k, "--make-lr", "2", "--shrink", "0.75", "0.5") == 0  # beside it, for another scale
    assert "4 written, 4 done before" in capsys.readouterr().out
    assert png2npy.main(["--check", str(decoded)]) == 0


def test_what_cannot_be_shrunk_is_named_once(div2k, capsys):
    assert decode(div2k, "--make-lr", "3", "--shrink", "0.05", "0.5") == 1
    first, second = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert first.endswith("0001.png: 2×2 at --shrink 0.05 is smaller than 12 pixels")
    assert second.endswith("0002.png: 2×2 at --shrink 0.05 is smaller than 12 pixels")


def test_shrink_overwrites_no_photo_of_such_a_name(div2k, capsys):
    write_rgb(div2k / "DIV2K_train_HR/0001_0.5.png", smooth_image(24, 30))
    assert decode(div2k, "--make-lr", "3", "--shrink", "0.5") == 1
    assert "0001.png: would overwrite the .npy of" in capsys.readouterr().err


def test_shrink_without_training_images_is_an_error(tmp_path, capsys):
    write_rgb(tmp_path / "in/DIV2K_valid_HR/0801.png", smooth_image(24, 30))
    assert decode(tmp_path / "in", "--make-lr", "3", "--shrink", "0.5") == 1
    assert "holds validation images alone" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_formats(tmp_path, suffix):
    image = smooth_image(24, 30)
    write_rgb(tmp_path / f"in/a{suffix}", image)
    assert decode(tmp_path / "in") == 0
    difference = np.abs(np.load(tmp_path / "in_decoded/a.npy").astype(int) - image)
    assert difference.mean() < (4 if suffix in (".jpg", ".jpeg", ".webp") else 1e-9)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_bad_images_are_named_and_the_rest_converted(div2k, capsys):
    folder = div2k / "DIV2K_train_HR"
    data = (folder / "0001.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    cv2.imwrite(str(folder / "deep.png"), np.zeros((6, 6, 3), np.uint16))
    cv2.imwrite(str(folder / "alpha.png"), np.zeros((6, 6, 4), np.uint8))
    Image.new("LA", (6, 6)).save(folder / "grey_alpha.tif")
    (folder / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(bytes(100)))
    )
    cv2.imwrite(str(folder / "grey.png"), smooth_image(6, 6)[..., 0])
    assert decode(div2k) == 1
    out, err = capsys.readouterr()
    assert "5 written, 0 done before, 7 failed" in out
    for named in (
        "truncated.png: not an image, truncated, or",
        "text.jpg: not",
        "empty.png: not",
        "deep.png: 16-bit",
        "alpha.png: has an alpha",
        "grey_alpha.tif: has an alpha",
        "huge.png: cannot be decoded",
    ):
        assert named in err
    decoded = div2k.with_name("DIV2K_decoded")
    assert np.load(decoded / "DIV2K_train_HR/grey.npy").shape == (6, 6, 3)
    assert not [f for f in decoded.rglob("*") if f.name.startswith(".")], "a half-written file stayed"


def test_the_header_of_a_very_large_image_is_read(tmp_path):
    """Pillow refuses to open images above 179 megapixels unless told otherwise."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 14000, 14000, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100)))
    assert read_header(data).mode == "1"


def test_linked_folders_are_converted(div2k, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    cv2.imwrite(str(tmp_path / "elsewhere/0001.png"), smooth_image(6, 6))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/X_HR").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked/round").symlink_to(tmp_path / "linked")
    (tmp_path / "linked/beside").symlink_to(tmp_path / "linked/X_HR")
    assert decode(tmp_path / "linked") == 0
    decoded = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.npy"))
    assert decoded == ["linked_decoded/X_HR/0001.npy", "linked_decoded/beside/0001.npy"]


def test_hidden_folders_are_left_out_and_long_names_are_not(div2k, capsys):
    folder = div2k / "DIV2K_train_HR"
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "0001.png", folder / ".ipynb_checkpoints/0001-checkpoint.png")
    (folder / "0001.png").rename(folder / f"{'長' * 83}.png")  # 253 bytes of at most 255
    assert decode(div2k) == 0
    assert "4 written, 0 done before, 0 failed" in capsys.readouterr().out


def test_a_full_disk_ends_it_at_once_and_says_so(div2k, monkeypatch, capsys):
    def write_bytes(path, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert decode(div2k) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert "cannot be written: No space left on device" in line and line.count("DIV2K_decoded") == 1


def test_a_target_that_cannot_be_written_is_told_before_the_work(div2k, capsys):
    assert png2npy.main(["--pathFrom", str(div2k), "--pathTo", "/proc/decoded"]) == 1
    assert "--pathTo /proc/decoded: /proc is not a folder that can be written to" in capsys.readouterr().err


def test_stopped(div2k, monkeypatch, capsys):
    monkeypatch.setattr(png2npy, "as_completed", interrupt)
    for flags in (["--pathFrom", str(div2k), "--pathTo", f"{div2k}_decoded"], ["--check", str(div2k)]):
        (div2k / "a.npy").touch()
        with pytest.raises(SystemExit, match="^130$"):
            png2npy.main(flags)
        assert "stopped" in capsys.readouterr().err


def interrupt(*_):
    raise KeyboardInterrupt


def test_no_image_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert decode(tmp_path / "empty") == 1
    assert re.search("no image found in .*; it needs folders such as", capsys.readouterr().err)
    (tmp_path / "empty/a.HEIC").touch()
    assert decode(tmp_path / "empty") == 1
    assert re.search(
        "no image found in .*, 1 left out \\(.heic\\); it needs .*; unpack archives, and convert pictures",
        capsys.readouterr().err,
    )


def test_files_of_other_kinds_are_counted(div2k, capsys):
    for name in ("a.gif", "b.heic", ".hidden"):
        (div2k / "DIV2K_train_HR" / name).touch()
    assert decode(div2k) == 0
    assert "0 failed, 2 left out (.gif, .heic): " in capsys.readouterr().out


def test_a_folder_within_a_set_is_told_of(div2k, capsys):
    assert decode(div2k / "DIV2K_train_HR", "--make-lr", "3") == 1
    assert f"give the one above it: --pathFrom {div2k}\n" in capsys.readouterr().err


def test_a_missing_folder_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        decode(tmp_path / "nowhere")
    assert "is not a folder" in capsys.readouterr().err


def test_two_images_of_one_name_are_named(tmp_path, capsys):
    for suffix in (".png", ".bmp"):
        write_rgb(tmp_path / f"in/a{suffix}", smooth_image(6, 6))
    assert decode(tmp_path / "in") == 1
    assert "would overwrite" in capsys.readouterr().err


def test_an_upright_jpeg(tmp_path):
    """EXIF orientation 6: the camera was turned."""
    from PIL import Image

    image = Image.fromarray(smooth_image(24, 36))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (36, 24, 3)


def test_make_lr_without_an_hr_folder_is_an_error(tmp_path, capsys):
    write_rgb(tmp_path / "in/photos/a.png", smooth_image(24, 30))
    assert decode(tmp_path / "in", "--make-lr", "3") == 1
    folder = tmp_path / "in"
    assert f"such as X_train_HR; move its photos into {folder}/in_train_HR and {folder}/in_valid_HR\n" in (
        capsys.readouterr().err
    )


def test_decoding_beside_the_images(tmp_path):
    write_rgb(tmp_path / "a.png", smooth_image(6, 6))
    assert png2npy.main(["--pathFrom", str(tmp_path), "--pathTo", str(tmp_path)]) == 0
    assert (tmp_path / "a.npy").exists()


def test_check_names_two_images_of_one_name(decoded, capsys):
    lr = decoded / "DIV2K_train_LR_bicubic/X3"
    shutil.copy(lr / "0001x3.npy", lr / "0001.npy")
    assert png2npy.main(["--check", str(decoded)]) == 1
    assert f"{lr}: holds two images called 0001; delete one" in capsys.readouterr().err


def test_check_counts_what_is_whole(decoded, capsys):
    assert png2npy.main(["--check", str(decoded)]) == 0
    out = capsys.readouterr().out
    assert "     3 DIV2K_train_HR\n     3 DIV2K_train_LR_bicubic/X3\n" in out and "10 files, 0 problems" in out


def test_check_names_everything_that_is_wrong(decoded, capsys):
    hr, lr = decoded / "DIV2K_train_HR", decoded / "DIV2K_train_LR_bicubic/X3"
    data = (hr / "0001.npy").read_bytes()
    (hr / "0001.npy").write_bytes(data[:-1])
    np.save(hr / "0002.npy", np.zeros((45, 60, 3), np.uint8))
    (lr / "0010x3.npy").unlink()
    np.save(lr / "0011x3.npy", np.zeros((3, 3), np.uint8))
    shutil.rmtree(decoded / "DIV2K_valid_LR_bicubic")
    assert png2npy.main(["--check", str(decoded)]) == 1
    err = capsys.readouterr().err
    for named in (
        "0001.npy: not a whole .npy file",
        "0002.npy: 60×45, not 3 times the 20×16",
        "0010.npy: no partner",
        "X3: 0011 has no partner",
        "0011x3.npy: holds uint8 (3, 3)",
        "DIV2K_valid_HR: has no LR images",
    ):
        assert named in err


SHRINK = ("--pathFrom", ".", "--pathTo", "b", "--shrink")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "are both needed, or --check"),
        (["--pathFrom", "a"], "are both needed, or --check"),
        (["--pathFrom", "nowhere", "--pathTo", "b"], "--pathFrom nowhere is not a folder"),
        (["--check", "nowhere"], "--check nowhere is not a folder"),
        (["--check", ".", "--pathTo", "b"], "--check stands alone"),
        (["--check", ".", "--shrink", "0.5"], "--check stands alone"),
        ([*SHRINK, "0.5"], "--shrink needs --make-lr"),
        ([*SHRINK, "0.01", "--make-lr", "3"], "--shrink: must be from 0.05 to 0.95, not 0.01"),
        ([*SHRINK, "1.5", "--make-lr", "3"], "--shrink: must be from 0.05 to 0.95, not 1.5"),
    ],
)
def test_flags_that_make_no_sense_get_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        png2npy.main(flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("error: ") and says in line


def test_what_train_py_would_not_find_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rgb(Path("flat/a.png"), smooth_image(9, 9))
    for flags in (["--pathFrom", "flat", "--pathTo", "out"], ["--check", "out"]):
        assert png2npy.main(flags) == 0
        assert "warning: train.py trains on folders called X_train_HR or X_HR" in capsys.readouterr().err
    write_rgb(Path("raw/DIV2K/DIV2K_train_HR/a.png"), smooth_image(9, 9))
    assert png2npy.main(["--pathFrom", "raw", "--pathTo", "sets", "--make-lr", "3"]) == 0
    out, err = capsys.readouterr()
    assert "train.py --data sets/DIV2K" in out and "warning" not in err


def test_check_of_an_empty_tree(tmp_path, capsys):
    assert png2npy.main(["--check", str(tmp_path)]) == 1
    assert "holds no .npy files" in capsys.readouterr().err


def test_a_taught_set_is_not_written_into(div2k, tmp_path, capsys):
    (tmp_path / "DIV2K_decoded").mkdir()
    (tmp_path / "DIV2K_decoded" / TEACHER).write_text("a larger network")
    assert decode(div2k) == 1 and [f.name for f in (tmp_path / "DIV2K_decoded").iterdir()] == [TEACHER]
    assert "DIV2K_decoded holds the images of a teacher; give another folder" in capsys.readouterr().err


def test_a_name_too_long_for_its_npy_stops_no_other(div2k, capsys):
    shutil.copy(div2k / "DIV2K_train_HR/0001.png", div2k / f"DIV2K_train_HR/{'a' * 250}.png")
    for made in ("0003", "0004"):
        shutil.copy(div2k / "DIV2K_train_HR/0001.png", div2k / f"DIV2K_train_HR/{made}.png")
        assert decode(div2k, "--make-lr", "3") == 1
        assert (div2k.with_name("DIV2K_decoded") / f"DIV2K_train_HR/{made}.npy").exists()
    assert "too long" in capsys.readouterr().err


def test_where_no_image_can_be_read_each_is_named(tmp_path, capsys):
    broken = tmp_path / "mine/mine_train_HR/a.png"
    broken.parent.mkdir(parents=True)
    broken.write_text("not an image")
    assert png2npy.main(["--pathFrom", str(tmp_path / "mine"), "--pathTo", str(tmp_path / "decoded")]) == 1
    told = capsys.readouterr().err
    assert f"error: {broken}: not an image" in told and "warning" not in told


def test_photos_that_lie_too_deep_are_told(tmp_path, capsys):
    for name in ("mine_train_HR/a.png", "mine_train_HR/holidays/b.png"):
        write_rgb(tmp_path / "mine" / name, smooth_image(9, 9))
    decoded = tmp_path / "decoded"
    for flags in (["--pathFrom", str(tmp_path / "mine"), "--pathTo", str(decoded)], ["--check", str(decoded)]):
        png2npy.main(flags)
        assert f"does not look into {decoded / 'mine_train_HR' / 'holidays'}, within" in capsys.readouterr().err


def test_a_set_may_lie_in_a_folder_called_hr(tmp_path, capsys):
    write_rgb(tmp_path / "all/photos_HR/mine_train_HR/a.png", smooth_image(9, 9))
    assert png2npy.main(["--pathFrom", str(tmp_path / "all"), "--pathTo", str(tmp_path / "out"), "--make-lr", "3"]) == 0
    told = capsys.readouterr()
    assert f"train.py --data {tmp_path / 'out/photos_HR'}" in told.out and "warning" not in told.err
