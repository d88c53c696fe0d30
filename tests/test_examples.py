"""The programs in examples/, run as a user runs them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "examples" / "train_distributed.py")
#: A small training, the same in every run.
SMALL = ["--samples", "48", "--batch", "16", "--gradient", "backsolve"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SECONDS = 300


def environment(**more):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run(*words):
    """What the program prints, having ended well."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(printed):
    """By epoch, to the last digit."""
    return dict(re.findall(r"^epoch (\d+): loss (\S+),", printed, re.MULTILINE))


def killed_after(epoch, *words):
    """Two processes, started as torchrun starts them, and killed when they have come so far.

    Torchrun itself would stop its processes in an orderly way.
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


def test_a_training_that_is_killed_goes_on_to_the_same_losses(tmp_path):
    file = tmp_path / "training.pt"
    training = [SCRIPT, *SMALL, "--checkpoint", file]
    # It would go on for long if it were not killed.
    before = losses(killed_after(2, *training, "--epochs", 100_000))
    done = torch.load(file)["epochs"]
    # A kill while the next checkpoint is being written leaves a part of it.
    file.with_name(file.name + ".new").write_bytes(file.read_bytes()[:100])
    after = losses(run(*TORCHRUN, *training, "--epochs", done + 2))
    whole = losses(run(*TORCHRUN, SCRIPT, *SMALL, "--epochs", done + 2))
    assert list(after) == [str(done + 1), str(done + 2)]
    assert len(set(whole.values())) == done + 2
    assert {epoch: whole[epoch] for epoch in [*before, *after]} == {**before, **after}


def test_it_learns_on_one_process():
    printed = run(SCRIPT, "--samples", "512", "--batch", "64", "--epochs", "12", "--rate", "0.01")
    assert float(losses(printed)["12"]) < 0.5 * float(losses(printed)["1"])


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    file = tmp_path / "training.pt"
    run(SCRIPT, *SMALL, "--epochs", "1", "--checkpoint", file)
    command = [sys.executable, SCRIPT, *SMALL, "--seed", "1", "--checkpoint", str(file)]
    other = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert other.returncode == 1
    assert "seed = 0, this one has 1" in other.stderr


@pytest.mark.parametrize("words", [["--batch", "4096"], ["--gradient", "implicit"]])
def test_wrong_options_are_named(words):
    other = subprocess.run(
        [sys.executable, SCRIPT, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert other.returncode > 0
    assert words[0] in other.stderr
    assert "Traceback" not in other.stderr
