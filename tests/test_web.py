"""The page in a real browser: Chromium without a screen, driven by Selenium."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth_image

import demo
from models import build_model
from utils.checkpoint import save_weights
from utils.images import read_rgb, write_rgb
from utils.photo import Photo

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from utils.web import LARGEST_MEGAPIXELS, build_page, eight_bits, result_file, serve  # noqa: E402

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="chromium and chromium-driver are not here"
)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "window-size=1200,1100"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def address(tmp_path, monkeypatch):
    torch.manual_seed(0)
    for name in ("IMDN_RTC", "IMDN_dw"):
        sizes = {"nf": 8, "num_modules": 1, "scale": 3}
        model = build_model(name, **sizes)
        model.start_from_interpolation()
        save_weights(tmp_path / f"checkpoint/{name}.safetensors", model, {"model": name, "hyperparameters": sizes})
    monkeypatch.setattr(demo, "PUBLISHED", tmp_path / "checkpoint")
    page = demo.open_page(demo.parse_args(["--web", "--device", "cpu"]))
    yield serve(page, block=False)
    page.close()


def upload(browser, address: str, file: Path) -> WebDriverWait:
    """Opens the page, drops the file and presses the button."""
    browser.get(address)
    wait = WebDriverWait(browser, 60)
    wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#upload input[type=file]")).send_keys(str(file))
    wait.until(lambda b: file.stem in b.find_element(By.ID, "upload").text)
    browser.find_element(By.ID, "run").click()
    return wait


@needs_chromium
def test_a_dropped_picture_comes_back_three_times_as_large(browser, address, tmp_path, request):
    assert address.startswith("http://127.0.0.1:")
    write_rgb(tmp_path / "photo.png", smooth_image(40, 50))
    wait = upload(browser, address, tmp_path / "photo.png")
    told = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#told textarea").get_attribute("value"))
    assert told.startswith("50×40 → 150×120 in ") and "with IMDN_RTC" in told
    sizes = wait.until(
        lambda b: b.execute_script(
            "const i = [...document.querySelectorAll('#slider img')];"
            "return i.length >= 2 && i.every(x => x.naturalWidth) && i.map(x => [x.naturalWidth, x.naturalHeight])"
        )
    )
    assert sizes[:2] == [[150, 120], [150, 120]]
    Path(request.config.cache.mkdir("screenshots"), "page.png").write_bytes(browser.get_screenshot_as_png())
    browser.find_element(By.ID, "download").click()
    found = wait.until(lambda b: list((tmp_path / "downloads").glob("photo_x3_*.png")))
    time.sleep(0.5)
    assert read_rgb(found[0]).shape == (120, 150, 3)


@needs_chromium
def test_a_file_that_is_no_picture_is_said_to_be_none(browser, address, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    wait = upload(browser, address, tmp_path / "text.png")
    wait.until(lambda b: "text.png: not an image" in b.find_element(By.TAG_NAME, "body").text)


def test_results_are_kept_for_an_hour(tmp_path):
    photo = Photo(smooth_image(6, 6))
    first = result_file(tmp_path, Path("a.jpg"), photo, 3)
    assert first.suffix == ".jpg" and first.exists()
    import os

    os.utime(first, (1, 1))
    second = result_file(tmp_path, Path("a.jpg"), Photo(photo.rgb, alpha=photo.rgb[..., 0]), 3)
    assert second.suffix == ".png" and list(tmp_path.iterdir()) == [second]


def test_sixteen_bits_are_shown_in_eight():
    image = np.array([[[0, 257, 65535]]], np.uint16)
    assert eight_bits(image).tolist() == [[[0, 1, 255]]]


def test_a_page_holds_its_networks_and_a_limit():
    page = build_page({"network-one": lambda photo: (photo, 1)})
    shown = str(page.get_config_file())
    assert "network-one" in shown and f"{LARGEST_MEGAPIXELS:.0f} megapixels" in shown
    page.close()
