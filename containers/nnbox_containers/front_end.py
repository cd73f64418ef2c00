"""What differs from one submission to the next under the same profile: which socket or file name is which channel."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nnbox_containers.dockerfile import BUNDLE
from nnbox_containers.profile import Profile
from nnunet_box.bundle import Bundle
from nnunet_box.contract import Contract, slug
from nnunet_box.errors import UsageError

KNOWN_AS = {
    "t1n": ("t1", "t1w", "t1native"),
    "t1c": ("t1gd", "t1wgd", "t1ce", "t1contrast"),
    "t2w": ("t2",),
    "t2f": ("flair", "t2flair", "t2wflair"),
}
"""Endings of BraTS files, and how data sets call the same sequences (letters and digits only)."""


def image_contract(
    profile: Profile,
    bundle: Bundle,
    input_sockets: Sequence[str] = (),
    output_socket: str | None = None,
    channels: Sequence[str] = (),
) -> Contract:
    """What the image is told of its organiser: the profile, and which socket or ending belongs to which channel.

    input_sockets, channels: ``SLUG`` in the order of the network's channels, or ``CHANNEL=SLUG``. Without them a socket
    is called as its channel, and an ending is found by the usual names of sequences. The output socket is
    ``<data set>-segmentation`` by default.

    Raises
    ------
    UsageError: an option the profile has no use for, a channel without or with two, or something that is no slug.
    """
    for option, given, layout in (
        ("--input-socket", input_sockets, "sockets"),
        ("--output-socket", output_socket, "sockets"),
        ("--channel", channels, "case-folders"),
    ):
        if given and profile.layout != layout:
            raise UsageError(f"{option}: profile {profile.name} has none; it reads its input as {profile.layout}.")
    assigned: tuple[str, ...] = ()
    if profile.layout == "sockets":
        defaults = [_as_slug(name) for name in bundle.channel_names]
        assigned = _assigned("--input-socket", bundle.channel_names, input_sockets, defaults)
        output_socket = _checked("--output-socket", output_socket or f"{_as_slug(bundle.dataset)}-segmentation")
    elif profile.layout == "case-folders":
        found = [_ending(name, profile.channel_suffixes) for name in bundle.channel_names]
        assigned = _assigned("--channel", bundle.channel_names, channels, found, profile.channel_suffixes)
    return Contract(
        profile=profile.name,
        challenge=bundle.challenge,
        layout=profile.layout,
        entry=profile.entry,
        input=profile.input,
        output=profile.output,
        bundle=BUNDLE,
        model=profile.model,
        channels=assigned,
        output_socket=output_socket,
        port=profile.port,
        threads=profile.threads,
        record=profile.record,
        silent_stderr=profile.silent_stderr,
    )


def describe(contract: Contract, channel_names: Sequence[str]) -> list[str]:
    """What was decided, a line each, for the person who builds the image."""
    kind = {"sockets": "input socket", "case-folders": "files ending in"}.get(contract.layout, "")
    if contract.layout == "folder" and contract.challenge is None:
        return ["no challenge: the image reads a plain folder, a file a case, or CASE_0000, CASE_0001 for channels"]
    lines = [f"{name}: {kind} {word}" for name, word in zip(channel_names, contract.channels, strict=False)]
    return lines + ([f"label map: output socket {contract.output_socket}"] if contract.output_socket else [])


def _assigned(
    option: str, names: Sequence[str], given: Sequence[str], defaults: Sequence[str | None], known: Sequence[str] = ()
) -> tuple[str, ...]:
    words = list(defaults)
    lower = [name.lower() for name in names]
    chosen: set[int] = set()
    for position, text in enumerate(given):
        name, equals, word = text.rpartition("=")
        index = lower.index(name.lower()) if equals and name.lower() in lower else position
        if (equals and name.lower() not in lower) or index >= len(names) or index in chosen:
            raise UsageError(f"{option} {text}: one for each of {', '.join(names)}, in order or as CHANNEL=SLUG.")
        words[index] = _checked(option, word)
        chosen.add(index)
    missing = [name for name, word in zip(names, words, strict=True) if not word]
    if missing:
        hint = f" ({', '.join(known)})" if known else ""
        raise UsageError(f"{option} {missing[0]}=SLUG says what belongs to channel {missing[0]}{hint}.")
    twice = [word for word in words if word is not None and words.count(word) > 1]
    if twice:
        raise UsageError(f"{option}: {twice[0]} for two channels; give each of {', '.join(names)} its own.")
    return tuple(word for word in words if word is not None)


def _checked(option: str, word: str) -> str:
    try:
        return slug(word)
    except ValueError as error:
        raise UsageError(f"{option} {error}.") from error


def _as_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _ending(name: str, endings: Sequence[str]) -> str | None:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((ending for ending in endings if plain == ending.lower() or plain in KNOWN_AS.get(ending, ())), None)
