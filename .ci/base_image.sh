#!/bin/sh
# Make a base image without an image registry: debootstrap a minimal Debian with Python, and import it.
#   .ci/base_image.sh NAME        for example nnbox-base:bookworm
# As root, with an engine running (.ci/engine.sh). An image of that name is kept as it is. Prints the name.
set -eu

SUITE=bookworm
PACKAGES=python3,python3-venv,ca-certificates

say() { echo "base image: $*" >&2; }

name=${1:?usage: .ci/base_image.sh NAME, for example nnbox-base:bookworm}
if docker image inspect "$name" >/dev/null 2>&1; then
    say "$name is there already"
    echo "$name"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    say "debootstrap needs root"
    exit 1
fi
if ! command -v debootstrap >/dev/null 2>&1; then
    say "installing debootstrap"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends debootstrap >&2
fi

# The mirror this machine's apt already uses, in either format of its source files.
mirror=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$SUITE" '$1 == suite && $2 == "main" { print $3; exit }')
if [ -z "$mirror" ]; then
    say "no apt source of this machine offers $SUITE main; add one, or make $name by hand with docker pull and docker tag"
    exit 1
fi
# debootstrap does not read apt's own proxy setting.
if [ -z "${http_proxy:-}" ]; then
    eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    [ -z "${http_proxy:-}" ] || export http_proxy
fi

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
say "debootstrap $SUITE (a minute or two)"
if ! debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$work/root" "$mirror" >"$work/log" 2>&1; then
    say "debootstrap failed; the end of its log:"
    tail -n 20 "$work/log" >&2
    exit 1
fi
rm -rf "$work/root/var/cache/apt/archives" "$work/root/var/lib/apt/lists" "$work/root/usr/share/doc" "$work/root/usr/share/man"
# What a build may need to know about this machine's network stays out of the image.
rm -f "$work/root/etc/apt/sources.list" "$work/root/etc/resolv.conf" "$work/root/etc/hostname"
tar --numeric-owner --one-file-system -C "$work/root" -c . | docker import --message "debootstrap $SUITE" - "$name" >/dev/null
say "$name imported"
echo "$name"
