"""Each mutant of the fixed set is killed by a test, or docs/reliability.md says why it lives.

`lifeboat campaign mutants` runs this: an hour and a half on two cores.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from . import make

FIRMWARE = make.ROOT / "tests" / "firmware"
PAGE = make.ROOT / "docs" / "reliability.md"
# Many files kill what their module's own does not; these do most of it.
BROAD = (
    "boot", "recovery", "checking", "creating", "region", "memory", "journal", "trial", "stage",
    "update", "scrub", "owner", "report", "bounds", "attacks", "power",
)  # fmt: skip
SMALL = "test_power_loss.py"  # its sweeps in the smallest geometry that take seconds


def explained():
    """Return the mutants that the page says can live."""
    return set(re.findall(r"^\| `([\w/]+:[\w.]+:\w+:\d+)` \|", PAGE.read_text(), re.M))


def own_files(module):
    """Return the test files that mirror a module."""
    name = module.rpartition("/")[2]
    stem = re.sub(r"_(plain|dma|disks|copies|state)$", "", name)
    found = [*FIRMWARE.rglob(f"test_{name}.py"), *FIRMWARE.rglob(f"test_{stem}*.py")]
    return list(dict.fromkeys(found))


def rounds(module):
    """Yield lists of pytest's arguments: the likeliest killers first."""
    own = own_files(module)
    if own:
        yield own
    driver = module.startswith("drivers/")
    every = sorted(FIRMWARE.rglob("test_*.py"))
    if driver:
        yield [path for path in every if path.parent.name == "drivers" and path not in own]
    broad = [FIRMWARE / f"test_{name}.py" for name in BROAD]
    rest = [path for path in every if path not in own and path not in broad]
    if not driver:
        yield [path for path in broad if path.exists() and path not in own]
    yield [FIRMWARE / SMALL, "-k", "4k-1-4096 and not backup"]
    yield [path for path in rest if path.name != SMALL]


@pytest.mark.slow
@pytest.mark.parametrize("name", make.fixed())
def test_a_mutant_is_killed(name, tmp_path, request):
    old, new, line = make.mutate(name)
    assert old != new
    module = name.partition(":")[0]
    folder = tmp_path / "firmware"
    shutil.copytree(make.ROOT / "firmware", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "lifeboat" / f"{module}.py").write_text(new)
    environment = dict(os.environ, LIFEBOAT_FIRMWARE=str(folder), PYTHONDONTWRITEBYTECODE="1")
    for variable in ("LIFEBOAT_CAMPAIGN", "LIFEBOAT_LEDGER", "PYTEST_XDIST_WORKER"):
        environment.pop(variable, None)
    killer = None
    for arguments in rounds(module):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        try:
            code = subprocess.run(
                [*command, *map(str, arguments)],
                cwd=make.ROOT,
                env=environment,
                timeout=1800,  # a mutant that never ends is killed, too
                stdout=subprocess.DEVNULL,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
        if code in (1, 2):  # a failure, or the mutant can't even be imported
            killer = str(arguments[0])
            break
    known = name in explained()
    tally = [1, int(killer is not None), int(killer is None and known)]
    request.node.user_properties.append(("mutants", json.dumps(tally)))
    assert killer or known, f"{name} (line {line}) lives"


def test_the_set_is_large_and_each_changes_something():
    names = make.fixed()
    assert len(set(names)) == len(names) >= 150
    for name in names:
        old, new, _ = make.mutate(name)
        assert old != new


def test_few_live_and_those_that_do_are_of_the_set():
    living = explained()
    assert living <= set(make.fixed())
    assert len(living) <= len(make.fixed()) // 20  # 95 % are killed
