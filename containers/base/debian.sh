#!/bin/sh
# Make a base image without an image registry: debootstrap a minimal Debian with Python, take away what running Python never
# needs, and import it.
#   containers/base/debian.sh NAME        for example nnbox-base:bookworm
# As root, with an engine running (.ci/engine.sh). An image of that name is kept as it is. Prints the name.
set -eu

SUITE=bookworm
PACKAGES=python3,ca-certificates
# What installs and configures a system; nothing does in an image. dpkg itself stays, and knows what is installed. bash and sh
# stay too: some organisers start a script.
PURGED="tzdata apt libapt-pkg6.0 gpgv debian-archive-keyring adduser passwd login e2fsprogs libext2fs2 libcom-err2 libss2 logsave mount
util-linux-extra sysvinit-utils init-system-helpers perl-base"

say() { echo "base image: $*" >&2; }

name=${1:?usage: containers/base/debian.sh NAME, for example nnbox-base:bookworm}
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
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
say "debootstrap $SUITE (a minute or two)"
if ! debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" "$mirror" >"$work/log" 2>&1; then
    say "debootstrap failed; the end of its log:"
    tail -n 20 "$work/log" >&2
    exit 1
fi

# In this order: tzdata goes while there is a perl that its own script asks for.
for package in $PURGED; do
    if chroot "$root" dpkg-query --status "$package" >/dev/null 2>&1; then
        chroot "$root" dpkg --purge --force-depends --force-remove-essential "$package" >>"$work/log" 2>&1 ||
            say "$package stays: dpkg could not remove it"
    fi
done
# Licences stay: /usr/share/doc/*/copyright and /usr/share/common-licenses.
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
rm -rf "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale "$root"/usr/share/lintian "$root"/usr/share/bug \
    "$root"/usr/share/zoneinfo "$root"/usr/share/perl5 "$root"/usr/share/bash-completion "$root"/usr/share/pixmaps \
    "$root"/usr/lib/*/gconv "$root"/usr/lib/*/perl-base "$root"/usr/lib/python3*/lib2to3 "$root"/usr/lib/python3*/pydoc_data \
    "$root"/usr/lib/python3*/idlelib "$root"/var/cache "$root"/var/lib/apt "$root"/var/log "$root"/var/lib/dpkg/*-old \
    "$root"/etc/apt
mkdir -p "$root"/var/cache "$root"/var/log
# What a build may need to know about this machine's network stays out of the image.
rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
# Compiled while it can be written: later every start would compile what it imports.
chroot "$root" python3 -m compileall -q /usr/lib/python3.11 >>"$work/log" 2>&1 || true
chroot "$root" python3 -c "import ctypes, hashlib, json, lzma, sqlite3, ssl, venv, zlib" ||
    { say "its Python does not work; the log:"; tail -n 20 "$work/log" >&2; exit 1; }

recipe=$(sha256sum "$0" | cut -c1-16)
packages=$(chroot "$root" dpkg-query --show --showformat '${Package}=${Version}\n' | sha256sum | cut -c1-16)
tar --numeric-owner --one-file-system -C "$root" -c . |
    docker import --message "debootstrap $SUITE" --change "CMD [\"python3\"]" \
        --change "LABEL org.nnunet-box.base.recipe=debian.sh@$recipe" --change "LABEL org.nnunet-box.base.suite=$SUITE" \
        --change "LABEL org.nnunet-box.base.packages.sha256=$packages" - "$name" >/dev/null
say "$name imported"
echo "$name"
