#!/bin/sh
# Make Podman answer beside Docker, for the tests of both engines: install Debian's podman, start its service with storage
# of its own, and give it the base image.
#   .ci/podman.sh nnbox-base:bookworm        prints DOCKER_HOST=unix:///...
#   .ci/podman.sh --stop                     ends the service and deletes its storage
# As root; calling it again changes nothing. Everything but the last line goes to stderr.
set -eu

WAIT_SECONDS=30
run=/run/nnbox-podman
storage=/var/lib/nnbox-podman
socket=$run/podman.sock

say() { echo "podman: $*" >&2; }
answers() { [ -S "$socket" ] && command -v podman >/dev/null 2>&1 && podman --url "unix://$socket" version >/dev/null 2>&1; }
hard() { awk -v what="Max $1" 'index($0, what) == 1 { n = $(NF - 1); if (n == "unlimited" || n > most) n = most; print n ":" n }' most="$2" /proc/self/limits; }
engine() { CONTAINERS_CONF=$run/containers.conf podman --root "$storage" --runroot "$run/runroot" "$@"; }

name=${1:?usage: .ci/podman.sh BASE_IMAGE, for example nnbox-base:bookworm}
if [ "$(id -u)" != 0 ]; then
    say "the service of these tests runs as root"
    exit 1
fi
if [ "$name" = --stop ]; then
    [ ! -f "$run/pid" ] || kill "$(cat "$run/pid")" 2>/dev/null || true
    if [ -f "$run/containers.conf" ]; then
        engine rm --force --all >&2 && engine rmi --force --all >&2 || true
    fi
    # Not podman system reset, which also clears networks that are not ours.
    umount "$storage/overlay" 2>/dev/null || true
    rm -rf --one-file-system "$run" "$storage"
    exit 0
fi

mkdir -p "$run"
exec 9>"$run/lock"
flock 9
if ! command -v podman >/dev/null 2>&1 || ! command -v catatonit >/dev/null 2>&1; then
    say "installing podman"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2 9>&-
    # Without catatonit there is no --init; runc is Docker's and does not hide Debian's crun where that is there.
    apt-get install -q -y --no-install-recommends podman catatonit >&2 9>&-
fi

if ! answers; then
    # Podman raises the limits on files and processes to its own defaults unless they are named; where root may not raise
    # limits (a container, many virtual machines), no container starts then. Its own limit on processes it lowers to the
    # number the kernel has in all.
    cat >"$run/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=$(hard 'open files' 1048576)", "nproc=$(hard processes "$(cat /proc/sys/kernel/pid_max)")"]
[engine]
events_logger = "file"
EOF
    # Without systemd nobody else makes the control groups.
    [ -d /run/systemd/system ] || echo 'cgroup_manager = "cgroupfs"' >>"$run/containers.conf"
    rm -f "$socket"
    # Not from a clone that may go: no container starts below a folder that is no longer there.
    cd /
    CONTAINERS_CONF=$run/containers.conf setsid nohup podman --root "$storage" --runroot "$run/runroot" \
        system service --time=0 "unix://$socket" >"$run/service.log" 2>&1 </dev/null 9>&- &
    echo $! >"$run/pid"
    waited=0
    until answers; do
        if [ "$waited" -ge "$WAIT_SECONDS" ]; then
            say "no answer after $WAIT_SECONDS s; the end of the log:"
            tail -n 20 "$run/service.log" >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
    say "the service answers at $socket"
fi

if ! engine image exists "$name"; then
    say "taking $name over from docker"
    docker save "$name" | engine load >&2 9>&-
fi
echo "DOCKER_HOST=unix://$socket"
