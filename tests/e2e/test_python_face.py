"""`import windlass as wl`: the three lines of the README, with what people have at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import linear_model

import windlass as wl
from windlass import errors
from windlass.serving import launch

pytestmark = pytest.mark.timeout(300)
torch.set_num_threads(1)

X = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
TABLE = pd.DataFrame({"age": X[:, 0], "height": X[:, 1], "town": np.where(X[:, 2] > 0, "here", "there")})


class TwoInputs(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left + right, "product": left * right}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python") / "home"


@pytest.fixture(scope="module")
def versions(home: Path) -> dict[str, wl.Version]:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).eval()
    scores = linear_model.LogisticRegression().fit(X, X[:, 0] > 0)
    amount = linear_model.LinearRegression().fit(TABLE[["age", "height"]], X[:, 0] * 2 + X[:, 1])
    return {
        "array": wl.package(net, X[:40], name="array", labels=["no", "yes"], home=home),
        "named": wl.package(
            TwoInputs(), {"left": X[:40], "right": torch.from_numpy(X[40:80])}, name="named", home=home, max_batch=32
        ),
        "classes": wl.package(scores, X, name="classes", home=home, description="is it above nought?"),
        "table": wl.package(amount, TABLE[["age", "height"]], name="table", home=home),
    }


@pytest.fixture(scope="module")
def server(home: Path, versions: dict[str, wl.Version]) -> Iterator[launch.Server]:
    with wl.serve(*versions.values(), home=home) as made:
        yield made


@pytest.fixture
def client(server: launch.Server) -> Iterator[wl.Client]:
    with wl.Client(server.url) as made:
        yield made


def test_a_version_says_what_it_is(home: Path, versions: dict[str, wl.Version]) -> None:
    assert str(versions["array"]) == "array@1"
    assert versions["array"].digest.startswith("sha256:")
    again = wl.package(TwoInputs(), {"left": X[:40], "right": X[40:80]}, name="named", home=home, max_batch=32)
    assert (again.created, again.digest, again.version) == (False, versions["named"].digest, 1)


def test_three_lines(home: Path) -> None:
    model = torch.nn.Linear(3, 2).eval()
    version = wl.package(model, X[:40], name="lines", home=home)
    with wl.serve(version, home=home) as server, wl.Client(server.url) as client:
        answers = client.predict("lines", X[:2])
    with torch.inference_mode():
        expected = model(torch.from_numpy(X[:2])).numpy()
    assert np.array([answer["output"] for answer in answers]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    with wl.Client(server.url) as gone, pytest.raises(errors.Unavailable, match="windlass serve"):
        gone.predict("lines", X[:2])


def test_arrays_lists_dicts_and_rows_ask_the_same(client: wl.Client) -> None:
    by_array = client.predict("array", X[:3])
    assert len(by_array) == 3
    assert {answer["label"] for answer in by_array} <= {"no", "yes"}
    assert client.predict("array", X[:3].tolist()) == by_array
    left, right = X[:2], X[2:4]
    by_columns = client.predict("named", {"left": left, "right": right})
    assert np.array([row["sum"] for row in by_columns]) == pytest.approx(left + right)
    by_rows = client.predict(
        "named", [{"left": a.tolist(), "right": b.tolist()} for a, b in zip(left, right, strict=True)]
    )
    assert by_rows == by_columns
    people = {"age": [1.0, -1.0], "height": [0.5, 0.25]}
    [first, second] = client.predict("table", people)
    assert client.predict("table", [{"age": 1.0, "height": 0.5}]) == [first]
    assert client.predict("table", b"age,height\n1.0,0.5\n-1.0,0.25\n", media_type="text/csv") == [first, second]
    assert client.predict("table", pd.DataFrame(people)) == [first, second]


def test_tensors_go_in_and_come_out(client: wl.Client) -> None:
    outputs = client.infer("named", {"left": X[:2], "right": X[2:4]})
    assert outputs["product"] == pytest.approx(X[:2] * X[2:4])
    assert outputs["product"].dtype == np.float32
    assert client.infer("named", {"left": X[:2], "right": X[2:4]}, version="1")["sum"].shape == (2, 3)
    assert {model["name"] for model in client.models()} == {"array", "named", "classes", "table"}
    assert client.ready()


def test_what_a_client_did_wrong_is_an_error_with_a_next_step(client: wl.Client) -> None:
    with pytest.raises(errors.NotFound, match="nobody"):
        client.predict("nobody", X[:1])
    with pytest.raises(errors.NotFound):
        client.predict("array", X[:1], version="7")
    with pytest.raises(errors.InvalidInput, match="right"):
        client.infer("named", {"left": X[:2]})
    with pytest.raises(errors.InvalidInput):
        client.infer("array", {"input": X[:2, :2]})
    with pytest.raises(errors.InvalidInput):
        client.infer("array", {"input": X[:2].astype(np.float64)})
    with pytest.raises(errors.UnsupportedMedia) as caught:
        client.predict("named", "a text")
    assert "content type" in caught.value.hint.lower() or "Content-Type" in caught.value.hint
    with pytest.raises(errors.UsageError, match="media_type="):
        client.predict("array", b"\x00\x01")
    with wl.Client("http://127.0.0.1:9") as nobody:
        assert not nobody.ready()
        with pytest.raises(errors.Unavailable, match="windlass serve"):
            nobody.models()


def test_what_cannot_be_packaged_or_served_is_refused(home: Path, versions: dict[str, wl.Version]) -> None:
    with pytest.raises(errors.UsageError, match="max_batch"):
        wl.package(TwoInputs(), X[:4], name="x", home=home, max_bach=3)
    with pytest.raises(errors.UsageError, match="lower-case"):
        wl.package(torch.nn.Linear(3, 2), X[:4], name="No", home=home)
    with pytest.raises(errors.Unsupported, match="Known are"):
        wl.package(object(), X[:4], name="x", home=home)
    with pytest.raises(errors.UsageError, match="kind"):
        wl.package(torch.nn.Linear(3, 2), X[:4], name="x", home=home, transforms=[{"width": 3}])
    with pytest.raises(errors.NotFound, match="'array'"):
        wl.serve("aray", home=home)
