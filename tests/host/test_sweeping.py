"""A failed sweep says how to run it again, and keeps its images."""

import os
import subprocess
import sys
from pathlib import Path

import sweeping

from cpython_floor import ROOT
from sim.disk import RamDisk
from sim.nor import RamFlash

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from sweeping import pytest_runtest_makereport, sweep
"""
FAILS = """
from sim.nor import RamFlash

def test_it(sweep):
    for cut in sweep.cuts(range(1, 9)):
        nor = RamFlash(bytearray(4096), 4096)
        sweep.shows(flash=nor)
        nor.data[0] = cut
        print("tried", cut)
        assert cut != 5
"""


def test_the_images_are_what_the_media_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "CACHE", tmp_path)
    sweep = sweeping.Sweep("tests/x.py::test_y[a-torn]")
    assert sweep.story() is None
    disk = RamDisk("d", 10)
    disk.writeblocks(3, b"x" * 512)
    disk.ioctl(3, 0)
    file = tmp_path / "file"
    file.write_bytes(b"file")
    for _ in sweep.cuts([1, 2]):
        sweep.shows(flash=RamFlash(bytearray(b"abc" * 1024), 1024), disk0=disk, disk1=file)
    story = sweep.story()
    assert "LIFEBOAT_CUT=2 ./lifeboat test --slow 'tests/x.py::test_y[a-torn]'" in story
    folder = Path(story.split()[-1])
    assert (folder / "flash.img").read_bytes() == b"abc" * 1024
    assert (folder / "disk0.img").read_bytes() == bytes(1536) + b"x" * 512 + bytes(3072)
    assert (folder / "disk1.img").read_bytes() == b"file"


def test_the_command_runs_just_the_cut_that_failed(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_fails.py").write_text(FAILS)

    def run(**environment):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fails.py"],
            cwd=tmp_path, env={**os.environ, "LIFEBOAT_CACHE": str(tmp_path), **environment},
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip

    said = run()
    assert "LIFEBOAT_CUT=5 ./lifeboat test --slow test_fails.py::test_it" in said
    (image,) = (tmp_path / "failures").rglob("flash.img")
    assert image.read_bytes() == b"\x05" + bytes(4095)
    assert "tried 4" in said and "tried 4" not in run(LIFEBOAT_CUT="5")
    assert "1 passed" in run(LIFEBOAT_CUT="4")
