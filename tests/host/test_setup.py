"""The launcher's steps: done once, done again when outdated, and what a failed one says."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from lifeboat_host.base import tree

if sys.version_info >= (3, 11):
    import tomllib

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")

# A step "a" that counts how often it was done, and a step "b" after it.
STEPS = """
set -eu
. "$LIFEBOAT_ROOT/host_tools/setup.sh"
a_text() { echo "do A"; }
a_key() { cat "$LIFEBOAT_CACHE/key" 2>/dev/null || echo none; }
a_there() { [ -f "$LIFEBOAT_CACHE/a" ]; }
a_do() { echo once >>"$LIFEBOAT_CACHE/count"; %s; touch "$LIFEBOAT_CACHE/a"; }
a_hint() { echo "turn it off and on"; }
b_text() { echo "do B"; }
b_key() { echo b; }
b_there() { [ -f "$LIFEBOAT_CACHE/b" ]; }
b_do() { touch "$LIFEBOAT_CACHE/b"; }
b_hint() { :; }
set_up a b
"""


@pytest.fixture
def sh(tmp_path):
    """sh(script, stubs) -> (exit code, what it said); stubs: programs that come first in PATH."""
    cache = tmp_path / "cache with blanks"
    cache.mkdir()

    def run(script, stubs=None):
        for name, body in (stubs or {}).items():
            stub = tmp_path / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text("#!/bin/sh\n" + body)
            stub.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", script],
            env={
                **os.environ,
                "LIFEBOAT_ROOT": str(tree.root()),
                "LIFEBOAT_CACHE": str(cache),
                "MICROPYTHON_DIR": "",
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stderr

    run.cache = cache
    return run


def count(sh):
    return (sh.cache / "count").read_text().count("once")


def test_a_step_says_what_it_does_and_is_done_once(sh):
    code, said = sh(STEPS % ":")
    assert code == 0 and "  - do A" in said and "  - do B" in said and "done in" in said
    assert sh(STEPS % ":") == (0, "")
    assert count(sh) == 1


def test_a_step_is_done_again_when_what_it_depends_on_has_changed(sh):
    sh(STEPS % ":")
    (sh.cache / "key").write_text("other")
    code, said = sh(STEPS % ":")
    assert code == 0 and "do A" in said and "do B" not in said
    assert count(sh) == 2


def test_a_failed_step_says_which_why_and_what_to_do(sh):
    code, said = sh(STEPS % "echo 'no more paper' >&2; false")
    assert code == 1
    assert "FAILED: do A" in said and "no more paper" in said
    assert "what to do: turn it off and on" in said
    assert str(sh.cache / "log" / "a.log") in said
    assert not (sh.cache / "b").exists()
    # Mended, the same command goes on from there.
    assert sh(STEPS % ":")[0] == 0 and count(sh) == 2


def test_a_step_that_was_cut_off_is_done_again(sh):
    """Its result may be half there."""
    code, _ = sh(STEPS % 'touch "$LIFEBOAT_CACHE/a"; kill -9 $$')
    assert code != 0
    assert sh(STEPS % ":")[0] == 0 and count(sh) == 2


PACKAGES = 'set -eu\n. "$LIFEBOAT_ROOT/host_tools/setup.sh"\nset_up packages\n'
NOT_INSTALLED = {"dpkg-query": "exit 1\n", "id": "echo 0\n"}


def test_packages_that_can_not_be_installed_are_named_with_what_to_do(sh):
    stubs = {**NOT_INSTALLED, "apt-cache": "", "apt-get": 'echo "no network: $*"; exit 100\n'}
    code, said = sh(PACKAGES, stubs)
    assert code == 1 and "FAILED: install packages" in said and "no network: install" in said
    assert "apt-get update && apt-get install" in said and "xz-utils" in said


def test_without_root_and_sudo_it_says_so(sh):
    stubs = {**NOT_INSTALLED, "id": "echo 1000\n", "apt-get": "exit 1\n"}
    # Just the programs that are wanted, so that there is no sudo.
    programs = "cat cksum cut date flock grep mkdir mv paste rm sed sh tail touch tr xargs"
    stubs |= {p: f'exec {shutil.which(p)} "$@"\n' for p in programs.split()}
    code, said = sh("PATH=${PATH%%:*}\n" + PACKAGES, stubs)
    assert code == 1 and "not root, and no sudo" in said


PICO = """
set -eu
. "$LIFEBOAT_ROOT/host_tools/setup.sh"
pico_possible() { %s; }
emulator_there() { false; }
emulator_do() { echo "no wheel for you"; false; }
set_up_pico_for_tests
echo done >&2
"""


def test_a_machine_that_can_not_emulate_a_pico_tests_without_it(sh):
    assert sh(PICO % "false") == (0, "done\n")
    code, said = sh(PICO % "true")
    assert code == 0 and "no wheel for you" in said and said.endswith("done\n")
    assert "pico-sdk-source" not in said


# --- what is fetched -----------------------------------------------------------------------

LOCKS = ("build", "run", "test", "pico")


def locked(name):
    """{package: [(version, marker)]} of a list, each with the SHA-256 of its files."""
    found = {}
    text = (tree.root() / f"host_tools/requirements-{name}.txt").read_text()
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.startswith("#") or not entry.strip():
            continue
        requirement, *hashes = entry.split("--hash=")
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes)
        wanted = Requirement(requirement.strip())
        (version,) = wanted.specifier
        assert version.operator == "==", "one version"
        found.setdefault(wanted.name, []).append(version.version)
    return found


def allowed():
    """{name of a lock: requirements of pyproject.toml}"""
    project = tomllib.loads((tree.root() / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    return {
        "build": project["build-system"]["requires"],
        "run": project["project"]["dependencies"],
        "test": extras["test"],
        "pico": extras["pico"],
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_locked_to_what_is_allowed(name):
    versions = locked(name)
    for requirement in map(Requirement, allowed()[name]):
        assert versions[requirement.name]
        for version in versions[requirement.name]:
            assert requirement.specifier.contains(version)


def test_what_the_tools_need_is_apart_from_what_tests_need():
    assert not locked("run").keys() & {"pytest", "hypothesis", "mypy", "ruff", "pytest-xdist"}
    common = locked("run").keys() & locked("test").keys()
    assert all(locked("run")[one] == locked("test")[one] for one in common)


SOURCE = """
set -eu
. "$LIFEBOAT_ROOT/host_tools/setup.sh"
choose_suite() { version=$MICROPYTHON_PIN; }
private_apt() { echo "another file" >micropython_1.25.0+ds.orig.tar.xz; }
set_up micropython
"""


def test_another_source_of_micropython_is_refused(sh):
    code, said = sh(SOURCE)
    assert code == 1 and "micropython_1.25.0+ds.orig.tar.xz: FAILED" in said
    assert not (sh.cache / "micropython").exists()


def test_no_command_but_the_package_step_asks_for_root():
    text = (tree.root() / "host_tools/setup.sh").read_text()
    start, end = text.index("packages_do() {"), text.index("packages_hint() {")
    assert "sudo" in text[start:end]
    assert "sudo" not in text[:start] + text[end:]
    sources = (tree.root() / "host_tools" / "lifeboat_host").rglob("*.py")
    assert not [path for path in sources if "sudo" in path.read_text()]


# --- the package ---------------------------------------------------------------------------


def test_a_wheel_has_all_of_the_host_tools(tmp_path):
    """It is built, and installed where nothing else of lifeboat is; its command works there."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(tree.root() / name, copy)
    shutil.copytree(
        tree.root() / "host_tools",
        copy / "host_tools",
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([*pip, "wheel", *options, copy], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", place, wheel],
        check=True,
        timeout=300,
    )
    packed = {str(path.relative_to(place)) for path in (place / "lifeboat_host").rglob("*.py")}
    tools = tree.root() / "host_tools"
    sources = {str(path.relative_to(tools)) for path in (tools / "lifeboat_host").rglob("*.py")}
    # The demo's applications are built into images, from the source tree that a demo needs anyway.
    assert packed == {path for path in sources if not path.startswith("lifeboat_host/apps/")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIFEBOAT")}
    (tmp_path / "os.bin").write_bytes(b"code" * 1000)
    numbers = "--product p --flash-size 1M --block-size 4K --version 1".split()
    for arguments in (
        ["--version"],
        ["image", "build", "-o", "code.img", *numbers, "os=os.bin"],
        ["image", "verify", "code.img"],
    ):
        script = [sys.executable, place / "bin" / "lifeboat", *arguments]
        done = subprocess.run(
            script,
            env={**environment, "PYTHONPATH": str(place)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
