"""Verification with a real engine: every profile's image runs under its strictest limits, is saved and opened again.

The program inside is a stand-in with the standard library alone, which keeps to ``profile.json`` as the real one does,
so that an image is built in seconds; what it writes was written here beforehand.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from saved_images import sha
from test_verify_image import compare, failures
from verify_samples import GRID, OUTPUT, given_case, good_labels

from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.front_end import image_contract
from nnbox_containers.inside import look_inside
from nnbox_containers.profile import Profile
from nnbox_containers.profiles import FOLDER, GRAND_CHALLENGE, GRAND_CHALLENGE_INVOKE, PROFILES
from nnbox_containers.verify import Report, Wishes, verify_image
from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.channels import write_image

STAND_IN = """
import http.server, json, os, pathlib, signal, sys, time
home = pathlib.Path("/opt/nnbox")
contract, behaviour = json.loads((home / "profile.json").read_text()), (home / "behaviour").read_text()
source, output = pathlib.Path(contract["input"]), pathlib.Path(contract["output"])
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))

def write(name):
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((home / ("labels.mha" if name.endswith(".mha") else "labels.nii.gz")).read_bytes())

def predict():
    began = time.monotonic()
    if behaviour == "hungry":
        held = bytearray(400 << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
    if behaviour in ("slow", "deaf"):
        while time.monotonic() - began < 60:
            time.sleep(0.1)
    if behaviour == "noisy":
        print("UserWarning: deprecated", file=sys.stderr)
    if contract["layout"] == "sockets":
        (image,) = (source / "images" / contract["channels"][0]).iterdir()
        names = {image.name[:-4]: "images/%s/%s" % (contract["output_socket"], image.name)}
    elif contract["layout"] == "case-folders":
        names = {folder.name: folder.name + ".nii.gz" for folder in source.iterdir()}
    elif contract["layout"] == "files":
        assert pathlib.Path(options["--input"]).is_file()
        name = pathlib.Path(options["--output"]).name
        names = {name[:-7]: name}
    else:
        names = {image.name[:-12]: image.name[:-12] + ".nii.gz" for image in source.iterdir()}
    for name in names.values():
        write(name)
    seconds = {"predict": time.monotonic() - began}
    told = json.dumps({"cases": [{"case": case, "file": name, "seconds": seconds} for case, name in names.items()]})
    if contract["record"]:
        (output / "run.json").write_text(told)
    else:
        print(told, flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_GET(self):
        self.answer(200)
    def do_POST(self):
        predict()
        self.answer(201)
    def log_message(self, *arguments):
        pass

signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else lambda *_: os._exit(143))
if contract["entry"] == "http":
    http.server.HTTPServer(("", contract["port"]), Handler).serve_forever()
else:
    predict()
"""
RUN = '#!/bin/sh\nexec python3 /opt/nnbox/stand_in.py "$@"\n'
LOCK_TEXT = b"alpha==1.0\n"

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def build(folder: Path, bundle_folder: Path, profile: Profile, base: str, tag: str, behaviour: str = "good") -> None:
    """The stand-in's image for a profile, in order but for its behaviour."""
    bundle = load_bundle(bundle_folder)
    channels = ("t2f",) if profile.layout == "case-folders" else ()
    contract = image_contract(profile, bundle, channels=channels)
    labels = good_labels(bundle_folder, bundle, profile) | {"org.nnunet-box.lock.sha256": sha(LOCK_TEXT)}
    write_image(folder / "labels.mha", OUTPUT, GRID)
    write_image(folder / "labels.nii.gz", OUTPUT, GRID)
    lines = [
        f"FROM {base}",
        "RUN echo 'nnbox:x:1000:1000:nnbox:/tmp:/usr/sbin/nologin' >> /etc/passwd",
        "COPY nnbox/ /opt/nnbox/",
        "COPY start/ /usr/local/bin/",
        f"COPY start/nnbox-predict {profile.working_directory}/predict.sh",
        *([f"EXPOSE {profile.port}"] if profile.port else []),
        f"WORKDIR {profile.working_directory}",
        "USER 1000:1000",
        *(["ENTRYPOINT []"] if profile.entry == "script" else ['ENTRYPOINT ["python3", "/opt/nnbox/stand_in.py"]']),
        "LABEL " + " ".join(f"{json.dumps(key)}={json.dumps(value)}" for key, value in labels.items()),
    ]
    files = {
        "Dockerfile": "\n".join(lines).encode(),
        "start/nnbox-predict": RUN.encode(),
        "nnbox/stand_in.py": STAND_IN.encode(),
        "nnbox/behaviour": behaviour.encode(),
        "nnbox/profile.json": contract.model_dump_json().encode(),
        "nnbox/requirements.txt": LOCK_TEXT,
        "nnbox/bundle/bundle.json": bundle.model_dump_json().encode(),
        "nnbox/labels.mha": (folder / "labels.mha").read_bytes(),
        "nnbox/labels.nii.gz": (folder / "labels.nii.gz").read_bytes(),
    }
    context = [ContextFile(name, content, executable=name.startswith("start/")) for name, content in files.items()]
    DockerEngine().build(BuildContext(tuple(context)), tag, lambda line: None)


@pytest.fixture
def tag() -> Iterator[str]:
    """A name of this test's own; its image is deleted."""
    name = f"nnbox-verify-test-{uuid.uuid4().hex[:10]}:1"
    yield name
    DockerEngine().remove(name)


def verified(folder: Path, bundle_folder: Path, profile: Profile, tag: str, wishes: Wishes) -> Report:
    engine, bundle = DockerEngine(), load_bundle(bundle_folder)
    facts = engine.inspect(tag)
    cases = [given_case(folder, name) for name in ("heart_1", "heart_2")]
    inside = look_inside(engine, tag, facts)
    assert inside.problem == ""
    return verify_image(engine, tag, facts, inside, profile, cases, compare, wishes, bundle=(bundle_folder, bundle))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profile_runs_and_is_saved(tmp_path, bundle_folder, base_image, tag, profile):
    build(tmp_path, bundle_folder, profile, base_image, tag)
    report = verified(tmp_path, bundle_folder, profile, tag, Wishes(budget=60, seconds=120))
    assert failures(report) == []
    assert [row["equal"] for row in report.cases] == [1.0, 1.0]
    assert all(row["seconds"] > 0 for row in report.cases)
    assert report.start_seconds is not None
    assert report.archive is not None
    assert report.archive.config_digest == DockerEngine().inspect(tag).identifier


@pytest.mark.parametrize(
    ("profile", "behaviour", "wishes", "reason"),
    [
        (GRAND_CHALLENGE, "noisy", Wishes(archive=False), "heart_1: stderr: expected nothing; found 'UserWarning: dep"),
        (GRAND_CHALLENGE_INVOKE, "noisy", Wishes(archive=False), "heart_1: stderr: expected nothing; found 'UserWarni"),
        (FOLDER, "slow", Wishes(seconds=2, archive=False), "heart_1, heart_2: time: expected an end within 2 s"),
        (
            replace(FOLDER, strictest=replace(FOLDER.strictest, memory_bytes=100 << 20)),
            "hungry",
            Wishes(archive=False),
            "heart_1, heart_2: memory: expected within 0.1 GiB; found a container killed for want of memory",
        ),
    ],
    ids=["stderr", "stderr over HTTP", "timeout", "memory"],
)
def test_what_only_a_running_container_shows(
    tmp_path, bundle_folder, base_image, tag, profile, behaviour, wishes, reason
):
    build(tmp_path, bundle_folder, profile, base_image, tag, behaviour)
    report = verified(tmp_path, bundle_folder, profile, tag, wishes)
    assert failures(report)[0].startswith(reason)
