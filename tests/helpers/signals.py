"""A program that takes its time to end after a signal, and who sends one."""

import os
import sys
import threading
import time
from pathlib import Path

PROGRAM = """
import signal, sys, time
from pathlib import Path
(folder,) = (Path(word.split("=")[1]) for word in sys.argv if word.startswith("--output_dir="))
def end(number, frame):
    time.sleep(0.2)
    (folder / "ended").touch()
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
folder.mkdir(exist_ok=True)
(folder / "begun").touch()
time.sleep(60)
"""


def slow_to_end(folder: Path) -> list[str]:
    """A command; its folder gets a file `begun`, and after a signal one `ended`."""
    return [sys.executable, "-S", "-c", PROGRAM, f"--output_dir={folder}"]


def send_once(number: int, *begun: Path) -> threading.Thread:
    """A signal to this process, when these files are there."""

    def wait() -> None:
        while not all(file.exists() for file in begun):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
