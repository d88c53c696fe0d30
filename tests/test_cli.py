"""The command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from companion import __version__
from companion.cli import main
from tests.proof.notebooks import record, write

ROOT = Path(__file__).resolve().parents[1]


def test_ledger_is_a_table_with_aligned_columns(tmp_path, capsys):
    write(tmp_path / "adjoint" / "state.ipynb", record("a"), record("adjoint-state"))
    assert main(["ledger", "--book", str(tmp_path)]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "theorem"
    for column in ("chapter", "proofs", "mutants refuted", "checks", "refutations", "statement"):
        start = header.index(column)
        assert rule[start] == "-"
        assert all(row[start - 1] == " " and row[start] != " " for row in rows)
    assert [row.split()[0] for row in rows] == ["a", "adjoint-state"]
    assert "3 (relative error <= 1e-7, absolute error <= 1e-9)" in rows[0]
    assert rows[0].endswith(r"\frac{d}{dx} x^2 = 2x")
    chapter = rows[0][header.index("chapter") :].split()[0]
    assert chapter == "adjoint/state.ipynb"
    assert rows[0][header.index("proofs") :].split()[0] == "2"
    assert rows[0][header.index("mutants refuted") :].split()[0] == "7"


def test_the_default_folder_is_book(tmp_path, monkeypatch, capsys):
    write(tmp_path / "book" / "a.ipynb", record("square"))
    monkeypatch.chdir(tmp_path)
    assert main(["ledger"]) == 0
    assert "square" in capsys.readouterr().out


def test_a_missing_folder_is_the_users_mistake(tmp_path, capsys):
    assert main(["ledger", "--book", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "is not a folder" in said.err


def test_a_book_without_theorems(tmp_path, capsys):
    assert main(["ledger", "--book", str(tmp_path)]) == 2
    assert "no theorem is recorded" in capsys.readouterr().err


def test_a_broken_notebook(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text("{")
    assert main(["ledger", "--book", str(tmp_path)]) == 2
    assert "a.ipynb is not a readable notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["ledger", "extra"],
        ["ledger", "--book"],
        ["summary"],
        ["summary", "vgg19"],
        ["summary", "--input", "3x224x224"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: companion" in capsys.readouterr().err


def test_version_and_help(capsys):
    cases = {
        "--version": [f"companion {__version__}"],
        "--help": ["ledger", "summary"],
        "summary --help": ["NETWORK", "--input SHAPE", "--channels-last", "3x224x224"],
    }
    for arguments, expected in cases.items():
        with pytest.raises(SystemExit) as stopped:
            main(arguments.split())
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert all(words in said for words in expected)


def test_ledger_runs_as_a_module_without_torch(tmp_path):
    write(tmp_path / "a.ipynb", record("square"))
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['companion', 'ledger', '--book', {str(tmp_path)!r}]\n"
        "try:\n    runpy.run_module('companion', run_name='__main__')\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "square" in done.stdout


def test_summary_of_vgg19(capsys):
    assert main(["summary", "vgg19", "--input", "3x224x224"]) == 0
    title, _, header, _, *lines = capsys.readouterr().out.splitlines()
    assert title == "VGG, input (None, 3, 224, 224)"
    assert re.split("  +", header) == [
        "Layer (type)", "Output shape", "Param #", "Multiply-adds", "Receptive field"
    ]  # fmt: skip
    rows = {line.split()[0]: re.split("  +", line)[1:] for line in lines if "(" in line}
    assert rows["features.0"] == ["(None, 64, 224, 224)", "1,792", "86,704,128", "3"]
    assert rows["features.36"] == ["(None, 512, 7, 7)", "0", "0", "268"]
    assert rows["classifier.6"] == ["(None, 1000)", "4,097,000", "4,096,000", "-"]
    assert "Total params: 143,667,240 (548 MiB)" in lines
    assert "Trainable params: 143,667,240 (548 MiB)" in lines
    assert "Non-trainable params: 0 (0 B)" in lines
    assert "Multiply-adds for one sample: 19,632,062,464" in lines


def test_summary_makes_no_weights_and_computes_nothing(capsys, monkeypatch):
    from torch import nn

    from companion.nn.networks import NETWORKS

    class Shapes(nn.Linear):
        def forward(self, x):
            assert x.is_meta
            assert self.weight.is_meta
            return super().forward(x)

    def network():
        layer = Shapes(2**30, 2**10)  # 4 TiB
        assert layer.weight.is_meta
        return layer

    monkeypatch.setitem(NETWORKS, "huge", network)
    assert main(["summary", "huge", "--input", str(2**30)]) == 0
    assert "Total params: 1,099,511,628,800 (4 TiB)" in capsys.readouterr().out


def test_summary_in_the_order_of_keras(capsys):
    assert main(["summary", "vgg16", "--input", "224x224x3", "--channels-last"]) == 0
    said = capsys.readouterr().out
    assert "VGG, input (None, 224, 224, 3)" in said
    assert re.search(r"features\.0 \(Conv2d\) +\(None, 224, 224, 64\) +1,792 ", said)
    assert "Total params: 138,357,544 " in said


def test_every_network_has_a_summary(capsys):
    from companion.nn.networks import NETWORKS

    shapes = {"digit_classifier": "1x28x28", "scene_classifier": "1x64x64"}
    for name in NETWORKS:
        shape = shapes.get(name, "3x32x32")
        assert main(["summary", name, "--input", shape]) == 0, capsys.readouterr().err
        assert "Total params: " in capsys.readouterr().out


def test_an_unknown_network_is_told_the_close_ones_and_all(capsys):
    from companion.nn.networks import NETWORKS

    assert main(["summary", "VGG-19", "--input", "3x224x224"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("companion summary: unknown network 'VGG-19'; did you mean 'vgg19'")
    assert all(name in said.err for name in NETWORKS)


@pytest.mark.parametrize("shape", ["224", "3,224,224", "3x224x", "0x2x2", "-3x2x2", "3x224.0x224"])
def test_an_input_that_is_no_shape_of_this_network(shape, capsys):
    try:
        code = main(["summary", "vgg19", f"--input={shape}"])
    except SystemExit as stopped:  # argparse found it
        code = stopped.code
    assert code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "companion summary: " in said.err
    assert shape in said.err


def test_an_image_of_another_kind(capsys):
    assert main(["summary", "vgg19", "--input", "4x224x224"]) == 2
    said = capsys.readouterr().err
    assert "does not take an input of shape (1, 4, 224, 224)" in said
    assert "'features.0'" in said
    assert main(["summary", "vgg19", "--input", "3x16x16"]) == 2
    assert "(1, 3, 16, 16)" in capsys.readouterr().err
