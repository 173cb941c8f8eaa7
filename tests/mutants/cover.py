"""Which lines of the firmware the tests on CPython run, and which tests run a line.

python tests/mutants/cover.py       measure anew where sources changed (ten minutes), and report
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("LIFEBOAT_CACHE", ROOT / ".lifeboat"))
SETTINGS = ROOT / "tests" / "coverage.ini"
DATA = CACHE / "campaign" / "coverage.data"
MEASURED = (
    "tests/firmware",
    "tests/fuzz/test_targets.py::test_the_corpus_is_survived",
    "--deselect=tests/firmware/test_power_loss.py",
)


def measure():
    """Run the tests under coverage unless that was done with these sources."""
    DATA.parent.mkdir(parents=True, exist_ok=True)
    with open(DATA.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several processes does it
        stamp = DATA.with_suffix(".sources")
        if DATA.exists() and stamp.exists() and stamp.read_text() == _sources():
            return
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={SETTINGS}", "-m", "pytest"]
        environment = dict(os.environ, COVERAGE_FILE=str(DATA))
        for variable in ("LIFEBOAT_CAMPAIGN", "LIFEBOAT_LEDGER", "PYTEST_XDIST_WORKER"):
            environment.pop(variable, None)
        subprocess.run(
            [*command, "-q", "-m", "not slow", "-p", "no:cacheprovider", *MEASURED],
            cwd=ROOT,
            env=environment,
            stdout=sys.stderr,
            check=True,
        )
        stamp.write_text(_sources())


def _sources():
    digest = hashlib.sha256()
    for folder in ("firmware", "tests/firmware", "tests/fakes", "tests/sim", "tests/fuzz"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if "__pycache__" not in path.parts and path.is_file():
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


@lru_cache(None)
def _contexts(module):
    data = coverage.CoverageData(str(DATA))
    data.read()
    (path,) = [f for f in data.measured_files() if f.endswith(f"/lifeboat/{module}.py")] or [None]
    return data.contexts_by_lineno(path) if path else {}


def tests_of(module, lines):
    """Return the test functions that run one of these lines, as file::function, sorted."""
    found = set()
    known = _contexts(module)
    for context in {context for line in lines for context in known.get(line, ())}:
        names = context.split(".")
        at = next((i for i, name in enumerate(names) if name.startswith("test_")), None)
        if at is not None and names[:2] == ["tests", "firmware"]:
            found.add("/".join(names[: at + 1]) + ".py::" + "::".join(names[at + 1 :]))
    return sorted(found)


def report():
    """Return {module: (lines, lines that no test runs)} and the share of lines that are run."""
    measured = coverage.Coverage(data_file=str(DATA), config_file=str(SETTINGS))
    measured.load()
    found = {}
    for path in sorted(measured.get_data().measured_files()):
        if "/lifeboat/" in path:
            _, lines, _, missing, _ = measured.analysis2(path)
            found[path.rpartition("/lifeboat/")[2]] = len(lines), len(missing)
    total, missing = map(sum, zip(*found.values()))
    return found, 1 - missing / total


if __name__ == "__main__":
    measure()
    modules, share = report()
    for name, (lines, missing) in modules.items():
        print(f"{name:32} {lines:5} lines, {100 * (1 - missing / max(1, lines)):5.1f} % run")
    print(f"{len(modules)} modules, {100 * share:.1f} % of all lines are run")
    sys.exit(share < 0.95)
