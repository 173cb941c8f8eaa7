"""Run MicroPython scripts of the folder device/ in MicroPython's unix port."""

import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("LIFEBOAT_CACHE", TESTS.parent / ".lifeboat"))
PATHS = (TESTS, TESTS.parent / "firmware", TESTS.parent / "host_tools")
BINARY = CACHE / "unix" / "micropython"


def run(script, *args, timeout=300):
    """Run a device script; return its output lines. It fails when the script does."""
    if not BINARY.exists():
        pytest.skip("no %s: ./lifeboat setup builds it" % BINARY)
    command = [str(BINARY), "-X", "heapsize=64M", str(TESTS / "unix" / "device" / script), *args]
    done = subprocess.run(
        command,
        env=dict(os.environ, MICROPYPATH=":".join(map(str, PATHS))),
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    tail = "\n".join(done.stdout.splitlines()[-20:])
    assert done.returncode == 0, "%s\n%s\n%s" % (" ".join(command), tail, done.stderr)
    return done.stdout.splitlines()
