"""A local page on which one drops a picture and sees it upscaled."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from utils.bicubic import imresize
from utils.photo import Photo, check_holds, eight_bits, read_photo, write_photo

LARGEST_UPLOAD = "50mb"
LARGEST_MEGAPIXELS = 8.0  # of an upload: a larger one takes minutes, for which the command line is there
KEPT_SECONDS = 3600
Upscaler = Callable[[Photo], tuple[Photo, int]]  # gives the larger photo and the scale


def build_page(networks: dict[str, Upscaler]):
    """The page, a gradio.Blocks that is not yet served.

    Args:
        networks: what each one is called, and what it does to a photo.
    Raises:
        ImportError: gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page talks to nobody
    import gradio as gr

    results = tempfile.TemporaryDirectory(prefix="upscaled-")

    def run(upload: str | None, name: str) -> tuple:
        if upload is None:
            raise gr.Error("Drop a picture first.")
        try:
            photo = read_photo(Path(upload))
            megapixels = photo.rgb.shape[0] * photo.rgb.shape[1] / 1e6
            if megapixels > LARGEST_MEGAPIXELS:
                raise ValueError(
                    f"{megapixels:.1f} megapixels; the page takes {LARGEST_MEGAPIXELS:.0f}, demo.py --input any"
                )
            started = time.monotonic()
            larger, scale = networks[name](photo)
            seconds = time.monotonic() - started
            target = result_file(Path(results.name), Path(upload), larger, scale)
        except (ValueError, OSError, MemoryError) as error:
            raise gr.Error(f"{Path(upload).name}: {error}") from error
        (height, width), (larger_height, larger_width) = photo.rgb.shape[:2], larger.rgb.shape[:2]
        told = f"{width}×{height} → {larger_width}×{larger_height} in {seconds:.2f} s with {name}"
        return (
            (eight_bits(imresize(photo.rgb, scale)), eight_bits(larger.rgb)),
            told,
            gr.DownloadButton("Download", value=str(target), interactive=True),
        )

    with gr.Blocks(title="Super-resolution", delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(
            f"# Super-resolution\nDrop a picture of up to {LARGEST_MEGAPIXELS:.0f} megapixels, pick a network. Nothing"
            " leaves this machine."
        )
        with gr.Row():
            upload = gr.File(label="Picture", file_types=["image"], elem_id="upload")
            with gr.Column():
                network = gr.Dropdown(list(networks), value=next(iter(networks)), label="Network", elem_id="network")
                button = gr.Button("Upscale", variant="primary", elem_id="run")
                told = gr.Textbox(label="What was done", interactive=False, elem_id="told")
                download = gr.DownloadButton("Download", interactive=False, elem_id="download")
        slider = gr.ImageSlider(
            label="Bicubic | network",
            type="numpy",
            format="png",  # the default, WebP, ends at 16383 pixels a side
            elem_id="slider",
            max_height=900,
        )
        button.click(run, [upload, network], [slider, told, download])
    page.results = results  # removed with the page
    return page


def result_file(folder: Path, upload: Path, larger: Photo, scale: int) -> Path:
    """Writes the result as its upload was, or as PNG where that cannot hold it; removes those of an hour ago."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            old.unlink(missing_ok=True)
    target = folder / f"{upload.stem}_x{scale}_{time.monotonic_ns()}{upload.suffix.lower()}"
    try:
        check_holds(target.suffix, larger)
    except ValueError:
        target = target.with_suffix(".png")
    write_photo(target, larger)
    return target


def serve(page, port: int | None = None, block: bool = True) -> str:
    """Serves the page on 127.0.0.1; returns its address, or never where it blocks."""
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        max_file_size=LARGEST_UPLOAD,
        prevent_thread_lock=not block,
        quiet=not block,
        show_error=True,
        footer_links=[],
    )
    return address
