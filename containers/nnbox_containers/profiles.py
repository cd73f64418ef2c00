"""The organisers' contracts known here. Nothing else in the house names one of them: a new profile is a new value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnbox_containers.engine import RunLimits
from nnbox_containers.profile import Profile
from nnbox_containers.profile_file import read_profile
from nnunet_box.errors import UsageError

__all__ = ["FOLDER", "PROFILES", "Profile", "load_profile"]

GIB = 1 << 30
TMP = ("/tmp",)  # noqa: S108 - inside the container

STRICTEST = RunLimits(
    read_only=True,
    tmpfs=TMP,
    drop_capabilities=True,
    no_new_privileges=True,
    pids=64,
    shm_bytes=64 << 20,
    user="12345:12345",
)
"""Everything taken away that prediction does not need; each profile adds its organiser's memory."""

FOLDER = Profile(
    name="folder",
    title="A folder in, a folder out: the challenge's own test layout is read, the leaderboard's files are written",
    input="/input",
    output="/output",
    layout="folder",
    entry="exec",
    cases="folder",
    limits=RunLimits(),
    strictest=STRICTEST,
    gpus="all",
    record=True,
    reference="no organiser's: what an upload of result files needs, and a person who runs the image",
)

GRAND_CHALLENGE = Profile(
    name="grand-challenge",
    title="grand-challenge.org, one start a case: an image in each input socket, one label map in the output socket",
    input="/input",
    output="/output",
    layout="sockets",
    entry="exec",
    cases="case",
    model="/opt/ml/model",
    output_suffixes=(".mha",),
    # The platform's own client takes these away; memory is what a job gets unless the phase says otherwise.
    limits=RunLimits(drop_capabilities=True, no_new_privileges=True, pids=128, memory_bytes=8 * GIB),
    strictest=replace(STRICTEST, memory_bytes=8 * GIB),
    gpus="all",
    labels={"org.grand-challenge.api-method": "exec"},
    most_bytes=10 * 10**9,
    silent_stderr=True,
    reference="grand-challenge.org/documentation/runtime-environment; DIAGNijmegen/rse-grand-challenge-forge "
    "example-algorithm; comic/grand-challenge.org components/backends/docker_client.py, algorithms/models.py",
)

GRAND_CHALLENGE_INVOKE = replace(
    GRAND_CHALLENGE,
    name="grand-challenge-invoke",
    title="grand-challenge.org, asked over HTTP: the model is loaded once, each POST /invoke predicts a case",
    entry="http",
    port=4743,
    labels={"org.grand-challenge.api-method": "invoke"},
    reference="comic/grand-challenge.org pull requests 4469 and 4671; DIAGNijmegen/rse-sagemaker-shim",
)

FLARE = Profile(
    name="flare",
    title="MICCAI FLARE: predict.sh in the working folder, one case a start, time and memory are scored",
    input="/workspace/inputs",
    output="/workspace/outputs",
    layout="folder",
    entry="script",
    cases="case",
    output_suffixes=(".nii.gz",),
    working_directory="/workspace",
    command=("/bin/bash", "-c", "sh predict.sh"),
    # The organisers leave the network on; an image that needs one is refused here all the same.
    limits=RunLimits(shm_bytes=28 * GIB, memory_bytes=28 * GIB),
    strictest=replace(STRICTEST, memory_bytes=28 * GIB),
    gpus="device=1",
    reference="JunMa11/FLARE, FLARE24/Efficiency.py",
)

BRATS = Profile(
    name="brats",
    title="BraTS from 2025 on: a folder for each case, its channels told apart by the endings of their names",
    input="/input",
    output="/output",
    layout="case-folders",
    entry="exec",
    cases="folder",
    output_suffixes=(".nii.gz",),
    channel_suffixes=("t1n", "t1c", "t2w", "t2f"),
    limits=RunLimits(memory_bytes=16 * GIB, shm_bytes=4 * GIB),
    strictest=replace(STRICTEST, memory_bytes=16 * GIB),
    gpus="all",
    reference="juampabloheras/brats_submission_template",
)

VIP = Profile(
    name="vip",
    title="VIP (MSSEG-2): files named on a command line, any user, a Boutiques descriptor beside the image",
    # The organiser mounts a folder under its own name; this one stands for it.
    input="/work",
    output="/work",
    layout="files",
    entry="command",
    cases="case",
    output_suffixes=(".nii.gz", ".nii"),
    entrypoint=("/bin/sh",),
    command=("command-line.sh",),
    limits=RunLimits(),
    strictest=STRICTEST,
    threads=2,
    forbidden_tags=("latest",),
    descriptor="boutiques",
    reference="Inria-Empenn/lesion-segmentation-challenge-miccai21, SUBMISSION_GUIDELINES.md",
)

PROFILES: dict[str, Profile] = {
    profile.name: profile for profile in (FOLDER, GRAND_CHALLENGE, GRAND_CHALLENGE_INVOKE, FLARE, BRATS, VIP)
}


def load_profile(name: str) -> Profile:
    """The profile of that name, or the one a ``.toml`` file describes.

    Raises
    ------
    UsageError: no such profile; with those that are known. InvalidData: the file is no profile.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name), PROFILES)
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(
            f"No profile {name!r}. Known: {', '.join(PROFILES)}, or a file NAME.toml of your own."
        ) from None
