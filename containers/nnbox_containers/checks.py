"""What an organiser would refuse, as values: each check says what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nnbox_containers.archive_inspector import ArchiveFacts
from nnbox_containers.engine import ImageFacts
from nnbox_containers.inside import Inside
from nnbox_containers.profile import Profile

OWN = "org.nnunet-box."
"""Prefix of this program's own labels."""

NEEDED_LABELS = ("runtime", "challenge", "profile", "model.sha256", "lock.sha256")
NO_CHALLENGE = "none"
"""The challenge label of an image that reads a plain folder of cases."""
OCI_LABELS = ("title", "version", "created", "base.name")
ROOT = {"", "0", "root"}
REBUILD = "Build it again: nnbox build-submission image."


@dataclass(frozen=True)
class Check:
    """One thing looked at. expected, found: as a person says it. fix: what to do where it is not ok."""

    name: str
    ok: bool
    expected: str
    found: str
    fix: str = ""

    @property
    def reason(self) -> str:
        """The check as one sentence."""
        return f"{self.name}: expected {self.expected}; found {self.found}. {self.fix}".rstrip()


def image_checks(facts: ImageFacts, inside: Inside, profile: Profile, tag: str) -> Iterator[Check]:
    """What the engine and the image itself say of it, held against the profile."""
    user, _, group = facts.user.partition(":")
    ok = user not in ROOT and group not in {"0", "root"} and user.isdecimal() and (not group or group.isdecimal())
    fix = "Set USER to a number such as 1000:1000; platforms refuse root, and some cannot look names up."
    yield Check("user", ok, "a number that is not root's", facts.user or "none (root)", fix)
    entry = inside.passwd.get(user)
    found = "none" if entry is None else f"home {entry}"
    fix = "Add a line to /etc/passwd: platforms take the home folder from there."
    yield Check(
        "passwd entry", entry is not None and entry.startswith("/"), f"one for {user or 'the user'}", found, fix
    )
    fix = "Build on an amd64 machine, or for linux/amd64."
    yield Check("architecture", facts.architecture == "amd64", "amd64", facts.architecture, fix)
    version = tag.rsplit(":", 1)[1] if ":" in tag.rsplit("/", 1)[-1] else "latest"
    allowed = version not in profile.forbidden_tags
    expected = f"another version than {', '.join(profile.forbidden_tags)}" if profile.forbidden_tags else "any"
    yield Check("tag", allowed, expected, version, "Build it with --tag NAME:1.0.")
    missing = [f"{OWN}{name}" for name in NEEDED_LABELS if not facts.labels.get(f"{OWN}{name}")]
    prefix = "org.opencontainers.image."
    missing += [f"{prefix}{name}" for name in OCI_LABELS if not facts.labels.get(f"{prefix}{name}")]
    yield Check(
        "labels", not missing, "all that name the model", f"no {', '.join(missing)}" if missing else "all", REBUILD
    )
    built_for = facts.labels.get(f"{OWN}profile", "none")
    fix = f"Build it again: nnbox build-submission image --profile {profile.name}."
    yield Check("profile", built_for == profile.name, profile.name, built_for, fix)
    for name, value in profile.labels.items():
        given = facts.labels.get(name, "none")
        yield Check(f"label {name}", given == value, value, given, fix)
    lock = facts.labels.get(f"{OWN}lock.sha256", "none")
    known = inside.lock_sha256 or inside.problem or "no requirements.txt"
    yield Check("locked requirements", lock == inside.lock_sha256, f"the label's sha256 {lock}", known, REBUILD)
    if profile.entrypoint is None and not profile.command:
        has = bool(facts.entrypoint or facts.command)
        yield Check("entry point", has, "a command to start", " ".join(facts.entrypoint) or "none", REBUILD)
    if profile.port is not None:
        port = f"{profile.port}/tcp"
        exposed = ", ".join(facts.exposed_ports) or "none"
        yield Check("port", port in facts.exposed_ports, port, exposed, f"Add EXPOSE {profile.port}.")


def archive_checks(archive: ArchiveFacts, facts: ImageFacts, profile: Profile, tag: str) -> Iterator[Check]:
    """A saved image, opened again, against what the engine says of the image it was saved from."""
    again = "Save it again; the file is not of this image."
    same = archive.config_digest == facts.identifier
    yield Check("archive: image", same, facts.identifier, archive.config_digest, again)
    named = tag if ":" in tag.rsplit("/", 1)[-1] else f"{tag}:latest"
    yield Check(
        "archive: name", named in archive.tags, named, ", ".join(archive.tags) or "none", "Save it by its name."
    )
    yield Check("archive: user", archive.user == facts.user, facts.user, archive.user or "none (root)", again)
    yield Check(
        "archive: architecture",
        archive.architecture == facts.architecture,
        facts.architecture,
        archive.architecture,
        again,
    )
    labels = dict(archive.labels) == dict(facts.labels)
    yield Check("archive: labels", labels, "the image's", "the image's" if labels else "others", again)
    digests = tuple(layer.digest for layer in archive.layers)
    verified = sum(layer.verified for layer in archive.layers)
    ok = not facts.layers or digests == facts.layers
    found = f"{verified} of {len(digests)} with the digest of their content" if ok else "other layers"
    yield Check("archive: layers", ok, f"the image's {len(facts.layers)}", found, again)
    most = profile.most_bytes
    expected = f"at most {most / 1e9:.1f} GB" if most is not None else "no limit published"
    fix = "Ship fewer folds or the CPU runtime; or keep the weights apart, where the organiser allows it."
    fits = most is None or archive.size_bytes <= most
    yield Check("archive: size", fits, expected, f"{archive.size_bytes / 1e6:.1f} MB", fix)


def first_failure(checks: Sequence[Check]) -> Check | None:
    """The first check that is not ok."""
    return next((check for check in checks if not check.ok), None)
