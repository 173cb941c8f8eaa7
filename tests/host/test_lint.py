"""The sources are clean for ruff and mypy, with the project's settings."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(module, *arguments):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed in this Python: ./lifeboat setup installs it")
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_ruff_has_nothing_to_say():
    check("ruff", "check", ".")


def test_the_host_tools_pass_the_type_checker():
    check("mypy", "host_tools/lifeboat_host")
