"""Write ``nnunet_box/web``: the minified JavaScript that is shipped, its licences, and a list of what came from where.

npm fetches the versions of ``package.json`` and refuses what has another digest than ``package-lock.json`` says; no
script of a package runs. For another version: change ``package.json``, then
``npm install --package-lock-only --omit-lockfile-registry-resolved --omit=optional`` here (without the second option
the lock would name the registry), then ``make web``, and look at ``git diff``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WEB = HERE.parents[1] / "nnunet_box" / "web"
BUILDS = {
    "@niivue/niivue": "dist/niivue.umd.js",
    "@observablehq/plot": "dist/plot.umd.min.js",
    "d3": "dist/d3.min.js",
}
"""The smallest build of each that a page without a bundler can load, as its authors made it."""

OWN_LICENCES = {"@niivue/niivue": "niivue-LICENSE.txt"}
"""Its package leaves the file out; this is the one of its repository."""

RULE = "-" * 80


def main() -> None:
    """Fetch, copy, write the list."""
    lock = json.loads((HERE / "package-lock.json").read_text())["packages"]
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        options = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "ci", *options], cwd=temporary, check=True)
        modules = Path(temporary) / "node_modules"
        listed = [_copied(name, modules, lock) for name in sorted(BUILDS)]
        (WEB / "LICENSES.txt").write_text(_licences(modules, lock), encoding="utf-8")
    (WEB / "vendored.json").write_text(json.dumps({"packages": listed}, indent=1) + "\n", encoding="utf-8")


def _copied(name: str, modules: Path, lock: dict[str, dict[str, str]]) -> dict[str, str]:
    entry = lock[f"node_modules/{name}"]
    source = modules / name / BUILDS[name]
    shutil.copyfile(source, WEB / source.name)
    return {
        "package": name,
        "version": entry["version"],
        "licence": entry["license"],
        "integrity": entry["integrity"],
        "build": BUILDS[name],
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }


def _licences(modules: Path, lock: dict[str, dict[str, str]]) -> str:
    """The licence of every package that the builds may hold parts of: those named and all they ask for."""
    texts: dict[str, list[str]] = {}
    for place, entry in sorted(lock.items()):
        name = place.removeprefix("node_modules/")
        if not place or entry.get("optional"):
            continue
        if name in OWN_LICENCES:
            file = HERE / OWN_LICENCES[name]
        else:
            (file,) = (one for one in (modules / name).iterdir() if one.name.lower().startswith("license"))
        # Each line loses what would trip a whitespace check; no word changes.
        text = "\n".join(line.rstrip() for line in file.read_text(encoding="utf-8").strip().splitlines())
        texts.setdefault(text, []).append(f"{name} {entry['version']} ({entry['license']})")
    return "\n\n".join("\n".join([RULE, *names, RULE, "", text]) for text, names in texts.items()) + "\n"


if __name__ == "__main__":
    main()
