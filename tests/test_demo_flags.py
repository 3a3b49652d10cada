import pytest

import demo

ONNX = ["--backend", "onnxruntime", "--checkpoint", "a.onnx"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--cost-only", "--csv", "a"], "--csv does not go with --cost-only, which takes --checkpoint"),
        (["--csv", "a.csv", "--ensemble"], "--csv is the course's file, of Set5 ×3"),
        (["--csv", "a.csv", "--protocol", "paper"], "--csv is the course's file, of Set5 ×3"),
        (["--csv", "a.csv", "--benchmark", "b"], "--csv is the course's file, of Set5 ×3"),
        (["--csv", "a.csv", "--sr", "sr", "--scale", "2"], "--csv is the course's file, of Set5 ×3"),
        (["--tile", "9"], "--tile goes with --web, --teach, --compare, --input"),
        (["--input", "a.png", "--output", "b.png", "--tile", "0"], "needs at least 1"),
        (["--backend", "onnxruntime"], "needs --checkpoint"),
        ([*ONNX, "--nf", "9"], "says which network"),
        ([*ONNX, "--precision", "float16", "--input", "a.png", "--output", "b.png"], "computes in float32; leave out"),
        ([*ONNX, "--device", "cuda"], "computes on the CPU; leave out --device"),
        (["--export", "a.onnx", "--all"], "--export does not go with --all"),
        (["--export", "a.onnx", "--csv", "b"], "--csv does not go with --export"),
        (["--export", "a.onnx", "--ensemble"], "--ensemble does not go with --export"),
        (["--input", "a.png"], "--input needs --output"),
        (["--output", "a.png"], "--output goes with --teach, --input"),
        (["--teach", "a"], "--teach needs --output"),
        (["--teach", "a", "--output", "b"], "--checkpoint or --model, the network that teaches"),
        (["--teach", "a", "--input", "b.png"], "--input does not go with --teach"),
        (["--all", "--teach", "a", "--output", "b"], "--output does not go with --all"),
        (["--teach", "a", "--compare", "b.png"], "--compare does not go with --teach"),
        (["--teach", "a", "--output", "b", "--model", "IMDN", "--web"], "does not go with --web"),
        (["--teach", "a", "--output", "b", "--model", "IMDN", "--json"], "--json does not go with --teach"),
        (["--teach", "a", "--output", "b", "--model", "IMDN", "--share", "0"], "must be above 0 and at most 1"),
        (["--teach", "a", "--output", "b", "--model", "IMDN", "--from-hr", "--share", "0.5"], "leave out --share"),
        (["--port", "1"], "--port goes with --web"),
        (["--web", "--port", "70000"], "argument --port: must be from 1 to 65535, not 70000"),
        (["--all", "--checkpoint", "a"], "--checkpoint does not go with --all"),
        (["--all", "--scale", "2"], "--scale does not go with --all"),
        (["--plot", "a.png"], "--plot goes with --all"),
        (["--all", "--plot", "a.png", "--ensemble"], "--plot draws scores on Set5 by the course protocol"),
        (["--all", "--plot", "a.png", "--benchmark", "b"], "--plot draws scores on Set5 by the course protocol"),
        (["--all", "--plot", "a.png", "--protocol", "paper"], "--plot draws scores on Set5 by the course protocol"),
        (["--curves", "a.png"], "--curves goes with --all"),
        (["--training"], "--training goes with --all"),
        (["--all", "--training", "--json"], "--json does not go with --training"),
        (["--publish"], "--publish needs --checkpoint"),
        (["--publish", "--checkpoint", "a", "--csv", "b"], "--csv does not go with --publish"),
        (["--data-note", "a"], "--data-note goes with --publish"),
        (["--compare", "a.png"], "--compare needs --input or --hr"),
        (["--hr", "a.png"], "--hr goes with --compare"),
        (["--overwrite"], "--overwrite goes with --publish, --input, --save-sr"),
        (["--sr", "a", "--save-sr", "b"], "--save-sr does not go with --sr"),
        (["--sr", "a", "--model", "IMDN"], "--model does not go with --sr, which takes --benchmark"),
        (["--all", "--save-sr", "a"], "--save-sr does not go with --all"),
        (["--set5", "a", "--benchmark", "b"], "give one"),
        (["--all", "--tile", "9"], "--tile does not go with --all"),
        (["--csv", "photo.png"], "--csv photo.png: its name must end in .csv"),
        (["--compare", "c", "--hr", "a.png"], "--compare c: its name must end in .png or"),
        (["photo.png"], "unrecognized arguments: photo.png; --help"),
        (["--model", "imdn"], "invalid choice"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--input", "a", "--output", ""], "--output: its value is empty; is a shell variable not set?"),
        (["--input=", "--output", "out"], "--input: its value is empty"),
        ([""], "the first argument: its value is empty"),
    ],
)
def test_flags_that_make_no_sense_get_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("error: ") and says in line


def test_half_precision_on_a_cpu_is_warned_of(capsys):
    demo.parse_args(["--input", "a.png", "--output", "b.png", "--precision", "bfloat16", "--device", "cpu"])
    assert capsys.readouterr().err == "warning: --precision bfloat16 is for GPUs; on a CPU float32 is usually faster\n"
