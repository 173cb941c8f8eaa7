"""Each mutant of the fixed set is killed by a test, or docs/reliability.md says why it lives.

`lifeboat campaign mutants` runs this. A mutant is tried with the tests that run its line, those of
its module's own file first.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from . import cover, make

PAGE = make.ROOT / "docs" / "reliability.md"
FIRST = 60  # test functions of the first round


def explained():
    """Return the mutants that the page says can live."""
    return set(re.findall(r"^\| `([\w/]+:[\w.]+:\w+:\d+)` \|", PAGE.read_text(), re.M))


def rounds(module, lines):
    """Yield lists of test functions: the likeliest killers first, then all that run the line."""
    name = module.rpartition("/")[2]
    tests = cover.tests_of(module, lines)
    own = [test for test in tests if f"test_{name}." in test]
    others = [test for test in tests if test not in own]
    step = -(-len(others) // FIRST)
    first = own + others[:: max(1, step)]
    yield first
    yield [test for test in tests if test not in first]


def killed_by(tests, environment, seconds):
    """Run tests; return whether one failed, or they took so long that something hangs."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        code = subprocess.run(
            command,
            cwd=make.ROOT,
            env=environment,
            timeout=seconds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return True
    assert code in (0, 1, 2, 4), f"pytest ended with {code}"
    return code != 0  # 2 and 4: the mutant can't even be imported


@pytest.fixture(scope="session")
def measured():
    cover.measure()


@pytest.mark.slow
@pytest.mark.parametrize("name", make.fixed())
def test_a_mutant_is_killed(name, measured, tmp_path, request):
    old, new, lines = make.mutate(name)
    assert old != new
    module = name.partition(":")[0]
    folder = tmp_path / "firmware"
    shutil.copytree(make.ROOT / "firmware", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "lifeboat" / f"{module}.py").write_text(new)
    environment = dict(os.environ, LIFEBOAT_FIRMWARE=str(folder), PYTHONDONTWRITEBYTECODE="1")
    for variable in ("LIFEBOAT_CAMPAIGN", "LIFEBOAT_LEDGER", "PYTEST_XDIST_WORKER"):
        environment.pop(variable, None)
    killed = any(
        tests and killed_by(tests, environment, seconds)
        for tests, seconds in zip(rounds(module, lines), (300, 900))
    )
    known = name in explained()
    tally = [1, int(killed), int(not killed and known)]
    request.node.user_properties.append(("mutants", json.dumps(tally)))
    assert killed or known, f"{name} (line {lines[0]}) lives"


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
