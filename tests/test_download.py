"""Fetching Set5 from a folder that stands in for the report's repository; nothing leaves the machine."""

import http.client
import shutil

import pytest
from conftest import needs_reference, reference, smooth_image

from utils import download
from utils.bicubic import imresize
from utils.images import read_rgb, write_rgb


@pytest.fixture
def server(tmp_path, monkeypatch) -> str:
    """A file: URL holding two small images, whose pixels are expected."""
    images = {"a": smooth_image(25, 38), "b": smooth_image(36, 24)}
    for name, image in images.items():
        write_rgb(tmp_path / f"server/{name}.png", image)
    monkeypatch.setattr(download, "SET5_SHA256", {name: download.pixel_hash(image) for name, image in images.items()})
    return (tmp_path / "server").as_uri() + "/"


def test_originals_are_fetched_and_lr_is_made(server, tmp_path):
    download.fetch_set5(tmp_path / "new/Set5", server)
    hr = read_rgb(tmp_path / "new/Set5/original/a.png")
    assert hr.shape == (25, 38, 3)
    lr = read_rgb(tmp_path / "new/Set5/LRbicx3/a.png")
    assert (lr == imresize(hr[:24, :36], 1 / 3)).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["Set5"]


def test_other_pixels_are_refused_and_nothing_is_left(server, tmp_path):
    write_rgb(tmp_path / "server/b.png", smooth_image(36, 24, seed=1))
    with pytest.raises(download.DownloadError, match="b.png does not hold Set5's pixels"):
        download.fetch_set5(tmp_path / "new/Set5", server)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("content", (None, b"<html>blocked</html>"))
def test_a_failed_download_says_why_and_leaves_nothing(server, tmp_path, content):
    (tmp_path / "server/b.png").unlink()
    if content:
        (tmp_path / "server/b.png").write_bytes(content)
    with pytest.raises(download.DownloadError, match="b.png"):
        download.fetch_set5(tmp_path / "new/Set5", server)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_connection_cut_in_the_middle_says_so(server, tmp_path, monkeypatch):
    def cut(*_, **__):
        raise http.client.IncompleteRead(b"x", 9)

    monkeypatch.setattr("urllib.request.urlopen", cut)
    with pytest.raises(download.DownloadError, match="a.png: IncompleteRead"):
        download.fetch_set5(tmp_path / "new/Set5", server)


def test_a_place_that_cannot_be_written_says_so(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(download.DownloadError, match="file/Set5: File exists"):
        download.fetch_set5(tmp_path / "file/Set5", server)


@needs_reference("data/set5/original")
def test_the_course_s_set5_comes_out(tmp_path):
    """With the known hashes: the LR images are the course's, pixel for pixel."""
    shutil.copytree(reference("data/set5/original"), tmp_path / "server")
    download.fetch_set5(tmp_path / "Set5", (tmp_path / "server").as_uri() + "/")
    for name in download.SET5_SHA256:
        given = next(reference("data/set5/LRbicx3").glob(f"{name}*"))
        assert (read_rgb(tmp_path / f"Set5/LRbicx3/{name}.png") == read_rgb(given)).all()
