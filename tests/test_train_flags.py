import pytest

import train
from models import build_model
from utils.checkpoint import save_weights
from utils.train_flags import RECIPES


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "IMDN_DW"], "invalid choice"),
        (["--batch", "0"], "argument --batch: needs at least 1, not 0"),
        (["--lr", "-1"], "must be positive"),
        (["--batch", "many"], "argument --batch: invalid int value: 'many'"),
        (["--ema", "1"], "below 1"),
        (["--data", "a", "b", "c", "--repeat", "1", "2"], "--repeat"),
        (["--lr", "nan"], "argument --lr: must be positive and finite, not nan"),
        (["--detail", "-1"], "--detail: must be from 0 to 8, not -1"),
        (["--noise", "1"], "--noise: must be at least 0 and below 1, not 1"),
        (["--seed", "-1"], "--seed: must be from 0 to 2^63 - 1, not -1"),
        (["--warmup", "-1"], "--warmup: must not be negative"),
        (["--lr", "1e-3", "--lr-min", "1e-2"], "--lr-min 0.01: above --lr 0.001"),
        (["--init", "a.zip"], "a file of weights"),
        (["--seed", str(2**63)], "--seed: must be from 0 to 2^63 - 1"),
        (["--init", "bilinear"], "--init bilinear: default, interpolation"),
        (["--patch", "100"], "--patch 100: not a multiple of --scale 3; 99 is"),
        (["--data", "sample", "b"], "stands alone"),
        (["--cautious"], "--cautious needs --optimizer soap"),
        (["--precondition-every", "7"], "--precondition-every needs --optimizer soap"),
        (["--schedule", "cosine", "--anneal-epochs", "7"], "--anneal-epochs needs --schedule report"),
        (["--recipe", "long", "--optimizer", "adam"], "add --no-cautious; --recipe long stands for --optimizer soap"),
        (["--recipe", "long", "--lr", "1e-5"], "above --lr 1e-05, the peak; --recipe long stands for --optimizer soap"),
        (["--device", "cuda:99"], "--device"),
        (["--resume", "nowhere.pth"], "does not exist"),
        (["--modle", "IMDN"], "unrecognized"),
        (["--minutes", "0"], "--minutes: must be positive and finite, not 0"),
        (["--minutes", "nan"], "--minutes: must be positive and finite, not nan"),
        (["--minutes", "5", "--epochs", "5"], "not allowed with"),
        (["--graph", "--device", "cpu"], "--graph needs a GPU"),
    ],
)
def test_bad_flags_get_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("error: ") and says in line


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_flags_and_those_beside_it_win(name):
    typed = ["--data", "sample", "--lr", "0.5", "--no-cautious", "--minutes", "7", "--recipe", name]
    args, _ = train.parse_args(typed)
    spelt, _ = train.parse_args([*RECIPES[name].split(), *typed[:-2]])
    assert (args.lr, args.cautious, args.minutes, args.optimizer) == (0.5, False, 7, "soap")
    assert args.argv == typed and args.recipe == name
    assert vars(args) | {"argv": None, "recipe": None} == vars(spelt) | {"argv": None}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("IMDN_RTC", 12, 3, 2)),
        (["--modules", "4", "--scale", "4"], ("IMDN_RTC", 12, 4, 4)),
        (["--model", "IMDN_RTC", "--nf", "8"], ("IMDN_RTC", 8, 3, 2)),
        (["--model", "IMDN"], ("IMDN", 64, 6, 3)),  # refused later, as the file holds another family
        (["--init", "default"], ("IMDN_dw", 32, 10, 3)),
        (["--init", "absent.pth"], ("IMDN_dw", 32, 10, 3)),
    ],
)
def test_the_network_is_that_of_the_weights_that_it_begins_with(flags, expected, tmp_path):
    sizes = {"nf": 12, "num_modules": 3, "scale": 2}
    described = {"model": "IMDN_RTC", "hyperparameters": sizes}
    save_weights(tmp_path / "w.safetensors", build_model("IMDN_RTC", **sizes), described)
    args, _ = train.parse_args(["--init", str(tmp_path / "w.safetensors"), "--device", "cpu", *flags])
    assert (args.model, args.nf, args.modules, args.scale) == expected
