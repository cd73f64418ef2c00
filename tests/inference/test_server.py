"""An image that is asked over HTTP: one model, one case at a time, and no case that ends it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from front_end_samples import make_model, write_contract, write_inputs, write_mha

from nnunet_box.contract import read_contract
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.inference import jobs, server
from nnunet_box.inference.server import make_server, serve


@contextmanager
def answering(predict: Callable[[], Any]) -> Iterator[int]:
    server = make_server(predict, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port: int, path: str, verb: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_health_and_invoke():
    with answering(lambda: {"cases": 1}) as port:
        assert ask(port, "/health") == (200, {"status": "ready"})
        assert ask(port, "/invoke", "POST") == (201, {"cases": 1})
        assert ask(port, "/invoke", "POST", b'{"a": 1}') == (201, {"cases": 1})
        assert ask(port, "/invoke")[0] == 405
        assert ask(port, "/health", "POST")[0] == 405
        assert ask(port, "/other")[0] == ask(port, "/other", "POST")[0] == 404


@pytest.mark.parametrize(
    "failure", [InvalidData("a.mha", "an image", "none", "Put one."), ZeroDivisionError("by nothing")]
)
def test_a_bad_case_gets_its_reason_and_the_server_lives_on(failure):
    answers = iter([failure, {"good": True}])

    def predict():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with answering(predict) as port:
        status, value = ask(port, "/invoke", "POST")
        assert status == 500
        assert str(failure) in value["error"]
        assert ask(port, "/invoke", "POST") == (201, {"good": True})


def test_one_case_at_a_time_and_health_meanwhile():
    running, most, begun, go_on = [], [], threading.Event(), threading.Event()

    def predict():
        running.append(1)
        most.append(len(running))
        begun.set()
        go_on.wait(20)
        running.pop()
        return {}

    with answering(predict) as port:
        asking = [threading.Thread(target=ask, args=(port, "/invoke", "POST")) for _ in range(3)]
        for thread in asking:
            thread.start()
        assert begun.wait(20)
        time.sleep(0.2)
        assert ask(port, "/health")[0] == 200
        go_on.set()
        for thread in asking:
            thread.join()
    assert most == [1, 1, 1]


def test_a_port_that_is_taken_is_one_message():
    with answering(dict) as port, pytest.raises(NnboxError, match=f"port {port}: cannot listen"):
        serve(dict, port)


def test_the_model_is_loaded_once_for_all_cases(tmp_path: Path, monkeypatch):
    """The whole way from a profile to answers, but for the listening itself."""
    loaded: list[str] = []
    real = jobs.network_loader

    def counting(*arguments):
        load, description = real(*arguments)

        def counted(member, weights):
            loaded.append(weights.name)
            return load(member, weights)

        return counted, description

    def serve_here(predict, port):
        assert port == 4743
        assert loaded == ["fold_0.safetensors", "fold_1.safetensors"]
        with answering(predict) as here:
            first, again = ask(here, "/invoke", "POST"), ask(here, "/invoke", "POST")
            assert first[0] == again[0] == 201
            assert first[1]["cases"][0]["voxels"] == again[1]["cases"][0]["voxels"]
            content = (tmp_path / "out/images/labels/a.mha").read_bytes()
            (tmp_path / "in/images/mr/a.mha").write_bytes(b"damaged")
            status, value = ask(here, "/invoke", "POST")
            assert (status, "a.mha: expected a MetaImage" in value["error"]) == (500, True)
            (tmp_path / "in/images/mr/a.mha").unlink()
            write_mha(tmp_path / "in/images/mr/b.mha")
            assert ask(here, "/invoke", "POST")[0] == 201
        assert [path.name for path in (tmp_path / "out/images/labels").iterdir()] == ["b.mha"]
        assert (tmp_path / "out/images/labels/b.mha").read_bytes() == content

    monkeypatch.setattr(jobs, "network_loader", counting)
    monkeypatch.setattr(server, "serve", serve_here)
    write_mha(tmp_path / "in/images/mr/a.mha")
    write_inputs(tmp_path / "in", "mr")
    told = {"layout": "sockets", "entry": "http", "port": 4743, "channels": ("mr",), "output_socket": "labels"}
    contract = read_contract(write_contract(tmp_path, make_model(tmp_path / "model", folds=2), record=False, **told))
    jobs.run_job(jobs.Job(mirroring=False), contract)
    assert loaded == ["fold_0.safetensors", "fold_1.safetensors"]
