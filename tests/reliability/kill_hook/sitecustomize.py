"""Imported by every Python process of a command under test: counts what it does to files, and kills at a chosen one.

``NNBOX_KILL`` holds JSON. folder: events below it count. counter: a file that grows by one byte an event, whichever
process it is of. at: the event before which the kill comes; 0 never. whom: ``group``, every process of the command, or
``main``, the command alone, so that its workers are left behind. delay: seconds from the event to the kill.
"""

import json
import os
import signal
import sys
import threading
import time

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


def install(folder: str, counter: str, at: int, whom: str, delay: float) -> None:
    lock = threading.Lock()
    descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def kill() -> None:
        time.sleep(delay)
        # The command leads its group, so its number is the group's.
        (os.kill if whom == "main" else os.killpg)(os.getpgrp(), signal.SIGKILL)

    def below(path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(os.fspath(path)).startswith(folder)

    def concerns(event: str, arguments: tuple) -> bool:
        if event == "open":
            path, _, flags = arguments
            return bool(flags & (os.O_WRONLY | os.O_RDWR)) and below(path)
        if event not in CHANGES:
            return False
        # rmtree names what it removes relative to an open folder.
        relative = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
        return relative or any(below(path) for path in arguments[:2])

    def hook(event: str, arguments: tuple) -> None:
        if not concerns(event, arguments):
            return
        with lock:
            os.write(descriptor, b".")
            number = os.lseek(descriptor, 0, os.SEEK_CUR)
        if number != at:
            return
        if delay:
            threading.Thread(target=kill, daemon=True).start()
        else:
            kill()

    sys.addaudithook(hook)


if "NNBOX_KILL" in os.environ:
    install(**json.loads(os.environ["NNBOX_KILL"]))
