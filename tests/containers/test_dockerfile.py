"""The Dockerfile as text: no daemon is asked."""

from __future__ import annotations

import json
import re

import pytest

from nnbox_containers.dockerfile import check_tag, default_tag, render_dockerfile
from nnbox_containers.profiles import FOLDER, PROFILES, load_profile
from nnbox_containers.stripping import BY_RUNTIME, EVERYWHERE
from nnunet_box.errors import UsageError


def instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def test_same_values_same_text_whatever_the_order_of_labels():
    one = render_dockerfile(FOLDER, "python:3.11-slim", "acdc", {"a": "1", "b": "2"})
    assert one == render_dockerfile(FOLDER, "python:3.11-slim", "acdc", {"b": "2", "a": "1"})


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profile_renders_for_the_classic_builder(profile):
    text = render_dockerfile(profile, "python:3.11-slim", "acdc", {"x": "y"})
    assert not re.search(r"--mount|<<|--link|--chmod|\$\{", "\n".join(instructions(text)))
    assert "syntax=" not in text
    words = [line.split()[0] for line in instructions(text)]
    assert set(words) <= {
        "FROM",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "WORKDIR",
        "EXPOSE",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
    }
    assert words.count("FROM") == 2
    assert words[-1] == "LABEL"


def test_order_user_and_entrypoint_of_the_folder_image():
    lines = instructions(render_dockerfile(FOLDER, "registry.local:5000/base/python:3.11", "acdc", {"x": "y"}))
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM registry.local:5000/base/python:3.11 AS environment",
        "FROM registry.local:5000/base/python:3.11",
    ]
    # The last word on the user is numeric and not root: platforms refuse anything else.
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    # A new model must not rebuild the environment.
    assert lines.index("COPY --from=environment /opt/nnbox/venv /opt/nnbox/venv") < lines.index(
        "COPY bundle/ /opt/nnbox/bundle/"
    )
    pip = next(line for line in lines if "pip install" in line)
    assert {"--no-index", "--no-deps"} <= set(pip.split())
    assert "--find-links /wheels" in pip
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == [
        "/opt/nnbox/venv/bin/python",
        "-m",
        "nnunet_box.inference.entry",
    ]


def test_the_build_imports_the_program_and_the_one_adapter():
    for challenge in ("acdc", """a'b"c\n"""):
        lines = instructions(render_dockerfile(FOLDER, "python:3.11-slim", challenge, {"x": "y"}))
        (check,) = [line for line in lines if line.startswith("RUN [")]
        python, option, program = json.loads(check.removeprefix("RUN "))
        assert (python, option) == ("/opt/nnbox/venv/bin/python", "-c")
        assert program.startswith("import nnunet_box.inference.entry; import nnunet_box.inference.jobs;")
        assert "torch_runtime" in program
        assert f"name={challenge!r}" in program
        compile(program, "check", "exec")
        # Once the user is set: what only root may read would pass before.
        assert lines.index("USER 1000:1000") < lines.index(check)


def test_labels_keep_quotes_dollars_and_lines_harmless():
    text = render_dockerfile(FOLDER, "python:3.11-slim", "acdc", {"x": 'a "b" $HOME \\ c\nRUN rm -rf /', "y": "1"})
    last = instructions(text)[-1]
    assert last == r'LABEL "x"="a \"b\" \$HOME \\ c RUN rm -rf /" ' + '"y"="1"'.strip()


@pytest.mark.parametrize("name", ["", "Python:3.11", "base image", "python:3.11\nRUN id", "-x", "a//b", "python:"])
def test_a_base_that_is_no_image_name_is_refused(name):
    with pytest.raises(UsageError, match="not the name of an image"):
        render_dockerfile(FOLDER, name, "acdc", {})


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("nnbox-acdc:1.0", "nnbox-acdc:1.0"),
        ("mine", "mine:latest"),
        ("localhost:5000/group/acdc:v1", "localhost:5000/group/acdc:v1"),
        ("docker.synapse.org/syn1/x_y__z", "docker.synapse.org/syn1/x_y__z:latest"),
    ],
)
def test_tags_an_engine_takes(tag, name):
    assert check_tag(tag) == name


@pytest.mark.parametrize(
    "tag", ["ACDC:1", "a b", "a:", "a:b:c", "a:.x", "_a", "a___b", f"a:{'x' * 129}", f"a@sha256:{'0' * 64}"]
)
def test_tags_an_engine_refuses_are_refused_before(tag):
    with pytest.raises(UsageError, match="--tag"):
        check_tag(tag)


@pytest.mark.parametrize(
    ("dataset", "version", "tag"),
    [
        ("acdc", "0.1.0", "nnbox-acdc:0.1.0"),
        ("decathlon-Task04_Hippocampus", "0.1.0", "nnbox-decathlon-task04_hippocampus:0.1.0"),
        ("Dataset001_Größe!", "1.0+local", "nnbox-dataset001_gr-e:1.0-local"),
        ("a___b_-_c..d", "1", "nnbox-a__b-c-d:1"),
        ("!!!", "1", "nnbox-dataset:1"),
    ],
)
def test_the_default_tag_is_a_valid_name(dataset, version, tag):
    assert default_tag(dataset, version) == tag == check_tag(tag)


def test_an_unknown_profile_lists_the_known():
    with pytest.raises(UsageError, match="Known: folder"):
        load_profile("no-such")


def test_the_run_line_of_the_contract():
    assert FOLDER.run_line("IMAGE") == "docker run --rm --network none -v TEST_FOLDER:/input:ro -v OUT:/output IMAGE"
    assert " ".join(FOLDER.strictest.arguments()) == (
        "--network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges "
        "--pids-limit 64 --shm-size 64m --user 12345:12345"
    )


def test_an_environment_is_stripped_by_its_runtime():
    texts = {runtime: render_dockerfile(FOLDER, "b", "acdc", {"x": "y"}, runtime=runtime) for runtime in BY_RUNTIME}
    for runtime, text in texts.items():
        for pattern in (*EVERYWHERE, *BY_RUNTIME[runtime]):
            assert f" {pattern} " in text
            # Below the packages and nowhere else.
            assert not pattern.startswith("/") and ".." not in pattern
    assert "intel_gpu" in texts["cpu"] and "intel_gpu" not in texts["cuda"]
    assert "device_name()" in texts["cpu"] and "torch_runtime" not in texts["cpu"]


def test_the_base_needs_no_pip():
    text = render_dockerfile(FOLDER, "b", "acdc", {"x": "y"})
    assert "venv --without-pip" in text
    assert "COPY pip/ /pip/" in text
