"""Sweeps over power cuts: a failed one says how to do just that cut again, and keeps its images.

    def test_every_cut_is_survived(sweep):
        for cut in sweep.cuts(range(1, operations + 1)):
            board = ...
            sweep.shows(flash=board.nor, disk0=board.drives[0])

LIFEBOAT_CUT=17 does the cut 17 alone. A medium is a file, or a device of tests/fakes.
tests/conftest.py imports the fixture and the hook from here.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ONE = os.environ.get("LIFEBOAT_CUT")
CACHE = Path(os.environ.get("LIFEBOAT_CACHE", Path(__file__).resolve().parents[1] / ".lifeboat"))


class Sweep:
    def __init__(self, nodeid, node=None):
        self._nodeid = nodeid
        self.node = node
        self._cut = None
        self._media = {}

    def cuts(self, numbers):
        """Yield the cuts to be made, and note which one is under way."""
        for number in numbers:
            if ONE is None or number == int(ONE):
                self._cut, self._media = number, {}
                yield number

    @property
    def whole(self):
        """Whether it is all cuts."""
        return ONE is None

    def shows(self, **media):
        """These are the media of the cut under way."""
        self._media = media

    def story(self):
        """Save the media as they are now; what a person should know, or None without a cut."""
        if self._cut is None:
            return None
        folder = keep_images(f"{self._nodeid}-cut{self._cut}", self._media)
        again = f"LIFEBOAT_CUT={self._cut} ./lifeboat test --slow {shlex.quote(self._nodeid)}"
        return f"cut {self._cut}; just it again:\n    {again}\nits images: {folder}"


def keep_images(name, media):
    """Save media as images in a folder of that name; return it. One that is gone is left out."""
    folder = CACHE / "failures" / re.sub(r"\W+", "-", name).strip("-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for medium, content in media.items():
        if not isinstance(content, Path) or content.exists():
            save(content, folder / f"{medium}.img")
    return folder


def save(medium, path):
    """Write what a medium holds to a file that has its size."""
    if isinstance(medium, Path):
        subprocess.run(["cp", "--sparse=always", medium, path], check=True)
    elif hasattr(medium, "sectors"):
        with open(path, "wb") as file:
            file.truncate(medium.count * medium.size)
            for lba, data in medium.sectors.items():
                file.seek(lba * medium.size)
                file.write(data)
    else:
        path.write_bytes(medium.data)


@pytest.fixture
def sweep(request):
    return Sweep(request.node.nodeid, request.node)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "sweep" in getattr(item, "funcargs", ()):
        story = item.funcargs["sweep"].story()
        if story:
            report.sections.append(("a power cut that was not survived", story))
