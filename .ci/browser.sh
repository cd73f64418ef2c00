#!/bin/sh
# Make a browser answer for the tests marked browser: Debian's chromium, and axe-core, which npm puts beside the tests.
# As root where something is missing; calling it again changes nothing. Prints errors only.
set -eu
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; echo "browser: $1 failed, see above" >&2; exit 1; }; }
there() { command -v "$1" >/dev/null 2>&1; }

missing=
there chromium || missing=chromium
there npm || missing="$missing npm"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "browser: not here:$missing. As root on Debian this script installs it." >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update -q
    # shellcheck disable=SC2086 # one word a package
    quietly apt-get install -q -y --no-install-recommends $missing
fi

# npm leaves this file last, with what it installed.
installed=tests/browser/node_modules/.package-lock.json
if [ ! -f "$installed" ] || [ tests/browser/package-lock.json -nt "$installed" ]; then
    quietly npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund
fi
