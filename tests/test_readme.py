"""The documents are held to the code: every command in them runs here, small, and README's tables are the weights'."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import authors_state, smooth_image, write_decoded
from natsort import natsorted
from skimage.data import data_dir

import demo
import png2npy
import train
from dataset import SET5
from models import MODELS, build_model
from tests.benchmarks import recipe
from utils.bicubic import imresize
from utils.checkpoint import read_weights, save_weights
from utils.cost import cost_by_part, count_cost
from utils.images import read_rgb, write_rgb
from utils.tables import cost_table, results_table, training_table

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README", "checkpoint/EXPERIMENTS", "checkpoint/LEGS")
TEXTS = {name: (REPOSITORY / f"{name}.md").read_text(encoding="utf-8") for name in DOCUMENTS}
README = TEXTS["README"]
PUBLISHED = natsorted((REPOSITORY / "checkpoint").glob("*.safetensors"))
NEEDS = {"--web": "gradio", "--export": "onnx", "onnxruntime": "onnxruntime"}
SMALL_BENCHMARKS = {
    "noise": [],
    "loader": ["--images", "1", "--batches", "2", "--batch", "2", "--workers", "1"],
    "training": ["--rounds", "1", "--steps", "1", "--largest-batch", "1"],
    "recipe": ["--data", "sample", "--iterations", "1", "--valid-patch", "24", "--valid-repeat", "1"],
    "choice": ["--rounds", "1", "--width", "60", "--height", "60"],
    "inference": ["--rounds", "1", "--largest-width", "60"],
}
TRAINED = "runs/IMDN_dw_nf40_m6_x3"

blocks = re.findall(r"```bash\n(.*?)```", "".join(TEXTS.values()), re.S)
fenced = [line for block in blocks for line in block.splitlines()]
COMMANDS = [line.split(" && ")[-1] for line in fenced if re.search("(python|torchrun) ", line)]
COMMANDS += re.findall(r"`(python [^`]*)`", "".join(TEXTS.values()))
SMALL = ["--epochs", "1", "--iterations", "1", "--batch", "1", "--patch", "24", "--valid-patch", "24", "--workers", "0"]
SMALL += ["--device", "cpu"]


def write_png_tree(root: Path, *folders: str) -> None:
    for folder in folders:
        hr = smooth_image(24, 27)
        write_rgb(root / f"{folder}_HR/0001.png", hr)
        write_rgb(root / f"{folder}_LR_bicubic/X3/0001x3.png", imresize(hr, 1 / 3))


@pytest.fixture(scope="session")
def workplace_once(tmp_path_factory) -> Path:
    """A folder with a small one of everything that the README names; not to be changed."""
    root = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        fill_workplace()
    return root


def fill_workplace() -> None:
    write_png_tree(Path("DIV2K"), "DIV2K_train", "DIV2K_valid")
    write_png_tree(Path("Flickr2K"), "Flickr2K")
    write_png_tree(Path("mine"), "mine_train", "mine_valid")
    for folder, split in (
        ("DIV2K_decoded", "DIV2K_train"),
        ("DIV2K_decoded", "DIV2K_valid"),
        ("DIV2K_shrunk", "DIV2K_train"),
        ("Flickr2K_decoded", "Flickr2K"),
        ("Flickr2K_shrunk", "Flickr2K"),
        ("DIV2K_taught", "DIV2K_train"),
        ("DIV2K_taught", "DIV2K_valid"),
        ("DIV2K_shrunk_taught", "DIV2K_train"),
        ("Flickr2K_taught", "Flickr2K"),
        ("Flickr2K_shrunk_taught", "Flickr2K"),
        ("DIV2K_half", "DIV2K_train"),
        ("Flickr2K_half", "Flickr2K"),
        ("DIV2K_half_taught", "DIV2K_train"),
        ("Flickr2K_half_taught", "Flickr2K"),
        ("DIV2K_large", "DIV2K_train"),
        ("Flickr2K_large", "Flickr2K"),
        ("DIV2K_large_taught", "DIV2K_train"),
        ("Flickr2K_large_taught", "Flickr2K"),
        ("mine_decoded", "mine_train"),
        ("mine_decoded", "mine_valid"),
    ):
        write_decoded(Path(folder), split, ["1"], (24, 27))
    for name in (
        *(f"Set5/original/{name}.png" for name in SET5),
        "B100/a.png",
        "wallpapers/a.png",
        "photo.png",
        "photos/a.png",
        "results/B100/a_IMDN.png",
    ):
        write_rgb(Path(name), smooth_image(36, 36))
    for name in (*(f"Set5/LRbicx3/{name}x3.png" for name in SET5),):
        write_rgb(Path(name), imresize(smooth_image(36, 36), 1 / 3))
    write_rgb(Path("small.png"), smooth_image(48, 48))
    torch.save(authors_state(build_model("IMDN", scale=3)), "IMDN_x3.pth")
    leg = {"command": "python train.py", "commit": "0" * 40, "from_iteration": 0}
    metadata = {"commands": [leg], "data": {"sets": []}, "metrics": {}}
    metadata["curve"] = [{"iteration": 1, "hours": 0.1, "valid_psnr_db": 30.0, "set5_psnr_db": 31.0}]
    metadata |= {"iterations": 1, "hours": 0.1, "hardware": "-", "seed": 0}
    networks = {
        "checkpoint/IMDN_dw_nf32_m10_x2": ("IMDN_dw", 32, 10, 2),
        "checkpoint/IMDN_dw_nf32_m10_x3": ("IMDN_dw", 32, 10, 3),
        f"{TRAINED}/best": ("IMDN_dw", 40, 6, 3),
        "checkpoint/IMDN_dw_nf32_m11_x3": ("IMDN_dw", 32, 11, 3),
        "checkpoint/IMDN_dw_nf40_m6_x3": ("IMDN_dw", 40, 6, 3),
        "runs/long/best": ("IMDN", 20, 6, 3),
        "runs/mine/best": ("IMDN_dw", 32, 10, 3),
        "runs/sample/best": ("IMDN_dw", 32, 10, 3),
    }
    for file, (name, nf, modules, scale) in networks.items():
        sizes = {"nf": nf, "num_modules": modules, "scale": scale}
        described = metadata | {"model": name, "hyperparameters": sizes}
        save_weights(Path(f"{file}.safetensors"), build_model(name, **sizes), described)


@pytest.fixture
def workplace(workplace_once, tmp_path, monkeypatch) -> Path:
    """A copy of it, the working directory."""
    shutil.copytree(workplace_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "PUBLISHED", tmp_path / "checkpoint")
    monkeypatch.setattr(demo, "DEFAULT_CHECKPOINT", tmp_path / "checkpoint/IMDN_dw_nf32_m10_x3.safetensors")
    return tmp_path


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_documented_command_runs_small(command, workplace, monkeypatch):
    launcher, *flags = shlex.split(command)
    if launcher == "torchrun":  # test_distributed.py runs several processes
        flags = flags[flags.index("train.py") :]
    script, *flags = flags
    if script == "-m":
        benchmark = importlib.import_module(flags.pop(0))
        if benchmark is recipe:
            monkeypatch.setattr(recipe, "CHANGES", ("", "--seed 1"))
        return benchmark.main([*flags, *SMALL_BENCHMARKS[benchmark.__name__.split(".")[-1]], "--device", "cpu"])
    assert launcher in ("python", "torchrun")
    if script == "png2npy.py":
        if "--pathTo" in flags:
            shutil.rmtree(flags[flags.index("--pathTo") + 1])
        assert png2npy.main(flags) == 0
    elif script == "demo.py":
        for package in [p for flag, p in NEEDS.items() if flag in flags]:
            pytest.importorskip(package, reason=f"{package} is not installed")
        if "onnxruntime" in flags:
            assert demo.main(["--export", "model.onnx", "--device", "cpu"]) == 0
        monkeypatch.setattr(demo, "serve", lambda page, port: page.close())
        flags = [re.sub(r"\$\(.*\)", data_dir, flag) for flag in flags]
        if "--teach" in flags:
            shutil.rmtree(flags[flags.index("--output") + 1])
        assert demo.main([*flags, "--device", "cpu"]) == 0
        assert "--teach" not in flags or [*Path(flags[flags.index("--output") + 1]).rglob("*_HR/1.npy")]
    elif "--resume" in flags:
        train.main(["--model", "IMDN_dw", "--nf", "40", "--modules", "6", "--save-dir", "first", *SMALL])
        shutil.copy("first/last.pth", f"{TRAINED}/last.pth")
        assert train.main([*flags, "--epochs", "2", "--device", "cpu"])["epoch"] == 2
    else:
        assert script == "train.py"
        assert train.main([*flags, *SMALL, "--save-dir", "run"])["iteration"] == 1


@pytest.mark.parametrize("change", recipe.CHANGES)
def test_the_recipe_s_changes_are_flags(change):
    train.parse_args(f"{recipe.RECIPE} {change} --device cpu".split())


def snippet(holds: str) -> str:
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.S) if holds in code)
    return found


def test_the_readme_s_network_trains_from_interpolation(workplace, monkeypatch, capsys):
    names = {"__name__": "models.plain"}
    exec(snippet("class Plain"), names)
    monkeypatch.setitem(MODELS, "Plain", names["Plain"])
    flags = ["--model", "Plain", "--init", "interpolation", "--data", "sample", *SMALL]
    train.main([*flags, "--save-dir", "run"])
    train.main([*flags[:2], "--init", "run/best.safetensors", *flags[4:], "--scale", "2", "--save-dir", "run2"])
    assert "14 of 14 tensors start from run/best.safetensors, which holds Plain_nf32_m4_x3\n" in capsys.readouterr().out


def test_the_snippet_runs(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    exec(snippet("super_resolve"), {})
    assert read_rgb(Path("larger.png")).shape == (144, 144, 3)


def test_exactly_two_commands_install_and_run():
    assert len([line for line in fenced if line.startswith("pip install -r requirements.txt && ")]) == 2


def result_of(path: Path) -> dict:
    """What `demo.py --all` would find: costs counted here, PSNR as measured when the weights were published."""
    _, metadata = read_weights(path)
    gflops, mparams = count_cost(build_model(metadata["model"], **metadata["hyperparameters"]))
    scale = metadata["hyperparameters"]["scale"]
    return {
        **metadata,
        **metadata["metrics"]["Set5 course"],
        "scale": scale,
        "protocol": "course",
        "images": "Set5",
        "ensemble": False,
        "flops_g": gflops,
        "params_m": mparams,
    }


def test_the_results_table_is_that_of_the_weights():
    shown = README.split("<!-- results -->")[1].split("<!-- /results -->")[0].strip()
    assert shown == results_table([result_of(path) for path in PUBLISHED])


def test_the_table_of_parts_is_that_of_the_default_network():
    assert cost_table(cost_by_part(build_model(demo.DEFAULT_MODEL))) in README


def test_the_training_table_is_that_of_the_weights():
    shown = README.split("<!-- training -->")[1].split("<!-- /training -->")[0].strip()
    assert shown == training_table({path.stem: read_weights(path)[1] for path in PUBLISHED})


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_weights_say_how_they_were_made(path):
    _, metadata = read_weights(path)
    for key in ("model", "hyperparameters", "commands", "seed", "data", "iterations", "hours", "hardware", "metrics"):
        assert metadata[key] not in (None, "", [], {}), key
    assert metadata["data"]["note"] and {"Set5 course", "Set5 paper"} <= metadata["metrics"].keys()
    for leg in metadata["commands"]:
        assert leg["command"].startswith("python train.py") and re.fullmatch(r"[0-9a-f]{40}", leg["commit"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_chinese_document_holds_the_same_commands_figures_and_tables(name):
    english = TEXTS[name].split("## Citations")[0]
    chinese = (REPOSITORY / f"{name}.zh-TW.md").read_text(encoding="utf-8")
    blocks = re.compile(r"```.*?```", re.S)
    tables = (re.compile(f"<!-- {table} -->.*?<!-- /{table} -->", re.S) for table in ("results", "training"))
    for pattern in (blocks, *tables):
        assert pattern.findall(chinese) == pattern.findall(english)
    figures = [sorted(re.findall(r"\d[\d.,]*\d|\d", blocks.sub("", text))) for text in (english, chinese)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("file", [f"{name}{ending}" for name in DOCUMENTS for ending in (".md", ".zh-TW.md")])
def test_links_lead_somewhere(file):
    """Files and headings of this repository; a heading's anchor is made as GitHub makes it."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        path = (REPOSITORY / file).parent / target if target else REPOSITORY / file
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}, heading
