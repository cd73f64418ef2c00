#!/bin/sh
# Make a container engine answer on this machine: install Debian's docker.io where there is none, start it, wait for it.
# As root; calling it again (or twice at once) changes nothing. Prints the engine's version; everything else goes to stderr.
set -eu

WAIT_SECONDS=60

say() { echo "engine: $*" >&2; }
answers() { command -v docker >/dev/null 2>&1 && docker version --format '{{.Server.Version}}' 2>/dev/null; }

if version=$(answers); then
    echo "$version"
    exit 0
fi
if [ -n "${DOCKER_HOST:-}" ]; then
    say "DOCKER_HOST is set to $DOCKER_HOST and nothing answers there; start that engine or unset DOCKER_HOST."
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    say "no engine answers, and starting one needs root; run this as root, or: sudo systemctl start docker"
    exit 1
fi

# One caller installs and starts; a second waits here and then finds the engine running. The descriptor is closed for
# dockerd below: a daemon that inherits it would hold the lock for as long as it lives.
exec 9>/run/nnbox-engine.lock
flock 9
if version=$(answers); then
    echo "$version"
    exit 0
fi

if ! command -v dockerd >/dev/null 2>&1; then
    say "installing docker.io"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2 9>&-
    apt-get install -q -y --no-install-recommends docker.io iptables ca-certificates cgroupfs-mount >&2 9>&-
fi

logs=$(mktemp -d)
if [ -d /run/systemd/system ]; then
    say "starting docker with systemd"
    systemctl start docker >&2 9>&-
else
    # Without systemd nobody has mounted the control groups the limits of a container need.
    if [ ! -f /sys/fs/cgroup/cgroup.controllers ] && ! grep -q ' /sys/fs/cgroup/memory ' /proc/mounts; then
        cgroupfs-mount 2>&1 9>&- | sed 's/^/engine: /' >&2 || true
    fi
    say "starting dockerd, log in $logs/dockerd.log"
    setsid nohup dockerd >"$logs/dockerd.log" 2>&1 </dev/null 9>&- &
fi

waited=0
until version=$(answers); do
    if [ "$waited" -ge "$WAIT_SECONDS" ]; then
        say "no answer after $WAIT_SECONDS s; the end of the log:"
        tail -n 20 "$logs/dockerd.log" >&2 2>/dev/null || true
        exit 1
    fi
    sleep 1
    waited=$((waited + 1))
done
say "answered after $waited s"
echo "$version"
