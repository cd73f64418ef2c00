"""The organisers' contracts as values, a user's own in a file, and how both are shown."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nnbox_containers.engine import Mount
from nnbox_containers.profile import Profile
from nnbox_containers.profiles import FOLDER, PROFILES, load_profile
from nnunet_box.cli import profiles as command
from nnunet_box.errors import InvalidData, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
GRAND_CHALLENGE = PROFILES["grand-challenge"]


def nnbox(*arguments: object):
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, ["profiles", *map(str, arguments)])


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profile_is_one_that_a_file_might_describe(profile: Profile, tmp_path: Path) -> None:
    """The rules for a user's own profile hold for ours: no root, a port for a server only, safe paths."""
    file = tmp_path / f"{profile.name}.toml"
    file.write_text(f'extends = "{profile.name}"\n')
    assert read(file) == profile
    assert profile.strictest.network == profile.limits.network == "none"
    assert profile.strictest.read_only
    assert profile.strictest.drop_capabilities
    assert profile.strictest.no_new_privileges
    assert profile.strictest.user == "12345:12345"
    assert (profile.strictest.pids, profile.strictest.shm_bytes) == (64, 64 << 20)
    assert profile.strictest.memory_bytes == profile.limits.memory_bytes
    assert profile.reference


def read(file: Path) -> Profile:
    return load_profile(str(file))


RUN_LINES = {
    "folder": "docker run --rm --network none --gpus all -v TEST_FOLDER:/input:ro -v OUT:/output I:1",
    "flare": "docker run --rm --network none --shm-size 28672m --memory 28672m --memory-swap 28672m "
    '--gpus "device=1" -v TEST_FOLDER:/workspace/inputs:ro -v OUT:/workspace/outputs I:1 /bin/bash -c "sh predict.sh"',
    "brats": "docker run --rm --network none --shm-size 4096m --memory 16384m --memory-swap 16384m --gpus all "
    "-v TEST_FOLDER:/input:ro -v OUT:/output I:1",
    "vip": "docker run --rm --network none --entrypoint=/bin/sh -v OUT:OUT -w OUT I:1 command-line.sh",
}


@pytest.mark.parametrize("name", RUN_LINES)
def test_the_organisers_own_line(name: str) -> None:
    assert PROFILES[name].run_line("I:1", cuda=True) == RUN_LINES[name]
    assert "--gpus" not in PROFILES[name].run_line("I:1")


def test_one_folder_is_both_input_and_output_for_vip_only(tmp_path: Path) -> None:
    given, out = Mount(tmp_path, "/input", True), Mount(tmp_path, "/output")
    assert FOLDER.mounts(given, out) == (given, out)
    assert PROFILES["vip"].mounts(given, out) == (out,)


def test_facts_that_uploads_hang_on() -> None:
    invoke = PROFILES["grand-challenge-invoke"]
    assert GRAND_CHALLENGE.labels == {"org.grand-challenge.api-method": "exec"}
    assert invoke.labels == {"org.grand-challenge.api-method": "invoke"}
    assert (invoke.port, GRAND_CHALLENGE.port) == (4743, None)
    assert GRAND_CHALLENGE.silent_stderr
    assert PROFILES["vip"].forbidden_tags == ("latest",)
    assert PROFILES["vip"].threads == 2
    assert [profile.name for profile in PROFILES.values() if profile.record] == ["folder"]


def write(folder: Path, text: str) -> Path:
    file = folder / "our-lab.toml"
    file.write_text(text)
    return file


def test_a_profile_of_ones_own_says_only_what_differs(tmp_path: Path) -> None:
    text = """
        extends = "grand-challenge"
        title = "The challenge of our lab"
        most_bytes = "2G"
        [limits]
        memory_bytes = "16GiB"
        pids = 256
        [strictest]
        memory_bytes = 17179869184
    """
    profile = read(write(tmp_path, text))
    assert profile == replace(
        GRAND_CHALLENGE,
        name="our-lab",
        title="The challenge of our lab",
        most_bytes=2 << 30,
        limits=replace(GRAND_CHALLENGE.limits, memory_bytes=16 << 30, pids=256),
        strictest=replace(GRAND_CHALLENGE.strictest, memory_bytes=16 << 30),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["extends = one of folder, grand-challenge", "found None"]),
        ('extends = "gran-challenge"', ["extends = one of", "'gran-challenge'"]),
        ("extends = 3", ["extends = one of"]),
        ('extends = "folder"\ninputs = "/x"', ["FIELD one of", "cases, channel_suffixes", "found inputs"]),
        ('extends = "folder"\n[limits]\nmemory = 3', ["limits.FIELD one of", "memory_bytes", "found limits.memory"]),
        ('extends = "folder"\nlimits = 3', ["limits as a table"]),
        ('extends = "folder"\nlayout = "tree"', ["layout", "'folder', 'sockets', 'case-folders' or 'files'", "'tree'"]),
        ('extends = "folder"\ninput = "data"', ["input", "absolute path", "'data'"]),
        ('extends = "folder"\noutput = "/a\\nRUN id"', ["output", "absolute path"]),
        ('extends = "folder"\nworking_directory = "/a/../b"', ["working_directory"]),
        ('extends = "folder"\nuser = "0:0"', ["user as numbers UID:GID, not root"]),
        ('extends = "folder"\nuser = "me"', ["user as numbers"]),
        ('extends = "folder"\n[strictest]\nuser = "0:5"', ["strictest.user"]),
        ('extends = "folder"\nport = 80', ["port between 1 and 65535 for entry http, and none for another"]),
        ('extends = "grand-challenge-invoke"\nport = 70000', ["port between", "70000"]),
        ('extends = "folder"\nentry = "http"\nport = 80', ["layout sockets for entry http"]),
        ('extends = "folder"\nmost_bytes = "big"', ["most_bytes as bytes or a size", "'big'"]),
        ('extends = "folder"\nthreads = 0', ["threads of at least 1"]),
        ('extends = "folder"\ntitle = "a\\nb"', ["title in one line"]),
        ('extends = "folder"\nname = "A B"', ["name of lower-case letters"]),
        ("extends = ", ["a profile (TOML)"]),
    ],
)
def test_a_profile_that_cannot_be_is_one_message(tmp_path: Path, text: str, words: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InvalidData) as refusal:
        read(file)
    said = str(refusal.value)
    assert said.startswith(str(file))
    assert "\n" not in said.removeprefix(str(file)).replace("\\n", "")
    for word in words:
        assert word in said


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidData, match="TOML"):
        read(tmp_path / "x.toml")
    with pytest.raises(UsageError, match=r"Known: folder, .*vip, or a file NAME\.toml"):
        load_profile("no-such")


def test_profiles_for_people_and_scripts() -> None:
    listed = json.loads(nnbox("--json").stdout)
    assert [profile["name"] for profile in listed] == list(PROFILES)
    assert (listed[0]["input"], listed[0]["output"], listed[0]["user"]) == ("/input", "/output", "1000:1000")
    assert listed[0]["run"].startswith("docker run --rm --network none")
    assert "--read-only --tmpfs /tmp --cap-drop ALL" in nnbox().stdout


def test_one_profile_with_every_field(tmp_path: Path) -> None:
    shown = nnbox("show", "grand-challenge-invoke")
    for field in fields(Profile):
        assert field.name in shown.stdout, field.name
    assert "strictest.memory_bytes" in shown.stdout
    file = write(tmp_path, 'extends = "vip"\nthreads = 4\n')
    told = json.loads(nnbox("show", file, "--json").stdout)
    assert (told["name"], told["threads"]) == ("our-lab", 4)
    assert nnbox("show", "no-such").exit_code != 0


def test_the_table_in_the_docs_says_what_the_values_say() -> None:
    page = (REPOSITORY / "containers" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 7]
    assert [row_of(profile) for profile in PROFILES.values()] == rows


def row_of(profile: Profile) -> str:
    """One profile in the table of ``containers/README.md``."""
    entry = {
        "exec": "entry point",
        "http": f"HTTP on {profile.port}",
        "script": f"`{' '.join(profile.command[-1:])}`",
        "command": "command line",
    }[profile.entry]
    places = f"`{profile.input}`" if profile.input == profile.output else f"`{profile.input}`, `{profile.output}`"
    memory = f"{profile.limits.memory_bytes >> 30} GiB" if profile.limits.memory_bytes is not None else "-"
    cells = [f"`{profile.name}`", entry, profile.layout, places, f"one {profile.cases}", memory]
    return f"| {' | '.join(cells)} |"
