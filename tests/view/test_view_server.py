"""The viewer's server: who gets in, and what they get."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest

from nnunet_box.dataset.cases import ChannelFile
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.errors import NnboxError
from nnunet_box.view.case import Layer, ViewedCase
from nnunet_box.view.server import open_server

GRID = Geometry((3, 4, 5), (7.0, 1.5, 1.25), (10.0, -20.0, 30.0))


@pytest.fixture
def case(tmp_path):
    image = np.arange(60, dtype=np.int16).reshape(GRID.shape) - 7
    reference, predicted = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    reference[1, 1:3, 1:3] = 1
    predicted[1, 1:3, 1:2], predicted[2, 0, 0] = 1, 2
    files = {"image": image, "reference": reference, "predicted": predicted}
    for name, array in files.items():
        write_nifti(tmp_path / f"{name}.nii.gz", array, GRID)
    layers = (
        Layer("reference", tmp_path / "reference.nii.gz", reference=True),
        Layer("ours", tmp_path / "predicted.nii.gz"),
    )
    channels = (("MR", ChannelFile(tmp_path / "image.nii.gz")),)
    return ViewedCase("case <1>", "toy", channels, {1: "heart"}, layers, GRID, (False,))


@pytest.fixture
def server(case):
    with open_server(case, 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def entrance(server):
    parts = urlsplit(server.viewer.address)
    return f"{parts.path}?{parts.query}"


def cookie_of(response):
    return response.getheader("Set-Cookie").partition(";")[0]


@pytest.fixture
def cookie(server):
    return cookie_of(ask(server, entrance(server))[0])


def test_it_listens_on_the_loopback_address_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert urlsplit(server.viewer.address).hostname == "127.0.0.1"


def test_the_token_opens_once_and_only_the_cookie_afterwards(server):
    first, page = ask(server, entrance(server))
    assert first.status == 200 and b"<!doctype html>" in page
    name_and_value, *flags = first.getheader("Set-Cookie").split("; ")
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Strict"]
    # Ports of one machine share cookies: each server has a name of its own. And what is printed is no cookie.
    assert name_and_value.startswith(f"nnbox-view-{server.server_port}=")
    assert name_and_value.partition("=")[2] not in server.viewer.address
    second, said = ask(server, entrance(server))
    assert second.status == 403 and b"nnbox view" in said and b"<!doctype" not in said
    assert second.getheader("Set-Cookie") is None
    assert ask(server, "/")[0].status == 403
    assert ask(server, "/", Cookie=cookie_of(first))[0].status == 200


def test_two_at_once_with_the_token_are_one_who_gets_in(server):
    statuses = []
    visitors = [
        threading.Thread(target=lambda: statuses.append(ask(server, entrance(server))[0].status)) for _ in range(8)
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert sorted(statuses) == [200] + [403] * 7


@pytest.mark.parametrize("path", ["/?token=", "/?token=wrong", "/?token=%C3%A4", "/?other=1", "/case.json", "/image/0"])
def test_without_the_right_token_there_is_nothing(server, path):
    assert ask(server, path)[0].status == 403
    # and the right one still works
    assert ask(server, entrance(server))[0].status == 200


@pytest.mark.parametrize(
    "cookie", ["nnbox-view-{port}=wrong", "other=1", "nnbox-view-{port}", "=;=;,", "nnbox-view-{port}=\xe4"]
)
def test_a_wrong_cookie_is_none(server, cookie):
    assert ask(server, "/case.json", Cookie=cookie.format(port=server.server_port))[0].status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("localhost:80@evil.example", 421),
        ("0.0.0.0:{port}", 421),
        ("", 421),
        (None, 421),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:9999", 200),
    ],
)
def test_only_this_machine_s_names_are_answered(server, cookie, host, status):
    host = host.format(port=server.server_port) if host is not None else None
    assert ask(server, "/case.json", Host=host, Cookie=cookie)[0].status == status


def test_a_foreign_host_does_not_spend_the_token(server):
    assert ask(server, entrance(server), Host="evil.example")[0].status == 421
    assert ask(server, entrance(server))[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_nothing_but_get(server, cookie, method):
    response, _ = ask(server, "/case.json", method, Cookie=cookie)
    assert (response.status, response.getheader("Allow")) == (405, "GET")


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_what_is_sent_with_another_method_is_no_second_request(server, cookie, method):
    inner = f"GET /case.json HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode()
    outer = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(outer + inner)
        with connection.makefile("rb") as answers:
            said = answers.read()
    head, _, body = said.partition(b"\r\n\r\n")
    assert b" 405 " in head and b"Connection: close" in head and said.count(b"HTTP/1.1") == 1
    assert body == (b"" if method == "HEAD" else b"GET only.\n"), "a HEAD has no body"


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/..%2fserver.py", "/page/../view.js", "//etc/passwd", "/view.js/", "/view.js%00", "/page/",
        "/image", "/image/", "/image/1", "/image/-1", "/image/00", "/image/0/", "/image/0.nii", "/image/%30",
        "/image/%D9%A0", "/image/../labels/0", "/labels/2", "/labels/0x0", "/dice/0", "/dice/2", "/index.html",
        "/favicon.ico", "http://127.0.0.1/etc/passwd",
    ],
)  # fmt: skip
def test_only_known_names_lead_anywhere(server, cookie, path):
    response, said = ask(server, path, Cookie=cookie)
    assert response.status == 404, said


def test_every_answer_forbids_what_the_page_does_not_need(server, cookie):
    for path, given in (("/", cookie), ("/case.json", cookie), ("/image/0", cookie), ("/nothing", cookie), ("/", "")):
        response, _ = ask(server, path, Cookie=given)
        policy = dict(part.split(" ", 1) for part in response.getheader("Content-Security-Policy").split("; "))
        assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
        assert policy["frame-ancestors"] == "'none'" and "unsafe" not in str(policy)
        for name, value in {
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            assert response.getheader(name) == value, name
        assert "Python" not in response.getheader("Server")


def test_the_page_is_told_names_and_no_paths(server, cookie, tmp_path):
    said = ask(server, "/case.json", Cookie=cookie)[1]
    facts = json.loads(said)
    assert facts["title"] == "case <1>" and facts["labels"] == {"1": "heart"}
    assert [(layer["name"], layer["reference"]) for layer in facts["layers"]] == [("reference", True), ("ours", False)]
    assert str(tmp_path).encode() not in said and b"nii" not in said


def test_volumes_arrive_as_they_are(server, cookie, tmp_path):
    for path, name in (("/image/0", "image"), ("/labels/0", "reference"), ("/labels/1", "predicted")):
        response, content = ask(server, path, Cookie=cookie)
        assert len(content) == int(response.getheader("Content-Length"))
        sent, stored = nibabel.Nifti1Image.from_bytes(content), nibabel.load(tmp_path / f"{name}.nii.gz")
        assert np.array_equal(sent.dataobj, stored.dataobj)
        assert sent.get_data_dtype() == stored.get_data_dtype()
        assert np.allclose(sent.affine, stored.affine)


def test_dice_is_of_every_label_there_is(server, cookie):
    assert json.loads(ask(server, "/dice/1", Cookie=cookie)[1]) == {"1": 2 / 3, "2": 0.0}


def test_a_file_that_went_bad_is_told_of_here_and_there(server, cookie, tmp_path, capfd):
    (tmp_path / "predicted.nii.gz").write_bytes(b"no image")
    for path in ("/labels/1", "/dice/1"):
        response, said = ask(server, path, Cookie=cookie)
        assert response.status == 500 and b"predicted.nii.gz" in said
    assert "predicted.nii.gz" in capfd.readouterr().err
    assert ask(server, "/labels/0", Cookie=cookie)[0].status == 200


def test_a_browser_that_goes_away_is_no_trouble(server, cookie, capfd):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/niivue.js", headers={"Cookie": cookie})
    connection.close()
    assert ask(server, "/case.json", Cookie=cookie)[0].status == 200
    assert capfd.readouterr().err == ""


def test_a_taken_port_is_said_so(case, server):
    with pytest.raises(NnboxError, match=f"--port {server.server_port}: .*use"):
        open_server(case, server.server_port)
