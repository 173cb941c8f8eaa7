"""Every kept input is survived, and a minute of fresh ones; the campaign has a million."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from fuzz import run
from fuzz.targets import TARGETS

CAMPAIGN = os.environ.get("LIFEBOAT_CAMPAIGN") == "fuzz"
SECONDS = 60 // len(TARGETS)
# Inputs of the campaign: a power-on takes some hundred times as long as a manifest.
RUNS = {
    "manifest": 250000, "region": 130000, "partitions": 250000, "memory": 100000,
    "journals": 80000, "keys": 150000, "agent": 60000, "power_on": 30000,
    "torn_power_on": 15000, "host_image": 3000, "host_region": 3000, "host_report": 3000,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_survived(target):
    inputs = run.corpus(target)
    assert len(inputs) >= 5
    for data in inputs:
        try:
            TARGETS[target](data)
        except BaseException as error:
            raise AssertionError(f"{target}: input {data.hex()}") from error


@pytest.mark.fuzz
@pytest.mark.parametrize("target", TARGETS)
def test_fresh_inputs_are_survived(target, request):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no atheris, which is for x86_64 and Python 3.11 to 3.13 only")
    runs, seconds = (RUNS[target], 0) if CAMPAIGN else (10**7, SECONDS)
    done = subprocess.run(
        [sys.executable, run.__file__, target, f"--runs={runs}", f"--seconds={seconds}"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout.splitlines()[0])
    request.node.user_properties.append(("fuzz", json.dumps([told["runs"]])))
    assert done.returncode == 0 and told["runs"] > 0, done.stdout + done.stderr


def test_the_fuzzer_finds_a_fault(tmp_path):
    """The harness itself: without the check of a CRC the power-on target soon fails."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no atheris, which is for x86_64 and Python 3.11 to 3.13 only")
    folder = tmp_path / "firmware"
    shutil.copytree(run.ROOT / "firmware", folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "lifeboat" / "manifest.py"
    text = path.read_text()
    check = "crc32(raw[:-4]) != unpack_from"
    assert check in text
    path.write_text(text.replace(check, "0 and unpack_from"))
    done = subprocess.run(
        [sys.executable, run.__file__, "manifest", "--runs", "200000", "--seed", "1"],
        env=dict(os.environ, LIFEBOAT_FIRMWARE=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout.splitlines()[0])
    assert done.returncode == 1 and len(told["failed"]) == 1
    assert f"manifest --input {told['failed'][0]}" in done.stdout
