"""An nnunetv2 image of a trained nnU-Net model, built the usual way, to compare ours with.

    python benchmarks/peer_image.py MODEL_FOLDER --tag peer-hippocampus:1 --folds 0

MODEL_FOLDER is what nnunetv2 trains into (``plans.json``, ``dataset.json``, ``fold_0/checkpoint_final.pth``). The
usual way: one stage, ``pip install nnunetv2``, the model copied in, ``nnUNetv2_predict_from_modelfolder`` on ``/input``
and ``/output``. ``--wheels`` takes them from a folder (``pip wheel torch==2.13.0 nnunetv2==2.8.1``) through a server on
this machine instead of from the index; torch is a CPU build then if the folder's is (an image with CUDA is several
gigabytes larger).
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

REQUIREMENTS = ("torch==2.13.0", "nnunetv2==2.8.1")
PORT = 8731
MODEL_FILES = ("plans.json", "dataset.json")
CHECKPOINT = "checkpoint_final.pth"
DOCKERFILE = """FROM {base}
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir {source} {requirements}
COPY model/ /model/
ENV nnUNet_raw=/tmp nnUNet_preprocessed=/tmp nnUNet_results=/tmp
ENTRYPOINT {entrypoint}
"""


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    """A server of the files of ``folder``, always on the same port: the engine's cache knows a step by its text."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    """Write the context and have docker build it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--folds", default="0", help="Comma-separated.")
    parser.add_argument("--base-image", default="python:3.11-slim")
    parser.add_argument("--wheels", type=Path, help="Folder of wheels; the index by default.")
    given = parser.parse_args()
    folds = given.folds.split(",")
    server = serve(given.wheels) if given.wheels else None
    source = f"--no-index --find-links http://127.0.0.1:{PORT}/" if server else ""
    command = ["/opt/venv/bin/nnUNetv2_predict_from_modelfolder", "-i", "/input", "-o", "/output", "-m", "/model"]
    entrypoint = json.dumps([*command, "-f", *folds, "-device", "cpu"])
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        for name in MODEL_FILES:
            (context / "model").mkdir(exist_ok=True)
            shutil.copy(given.model / name, context / "model" / name)
        for fold in folds:
            (context / "model" / f"fold_{fold}").mkdir()
            shutil.copy(given.model / f"fold_{fold}" / CHECKPOINT, context / "model" / f"fold_{fold}" / CHECKPOINT)
        dockerfile = DOCKERFILE.format(
            base=given.base_image, source=source, requirements=" ".join(REQUIREMENTS), entrypoint=entrypoint
        )
        (context / "Dockerfile").write_text(dockerfile)
        subprocess.run(["docker", "build", "--network", "host", "--tag", given.tag, str(context)], check=True)
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    main()
