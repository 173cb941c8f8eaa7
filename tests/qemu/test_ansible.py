"""The Ansible role, with Ansible itself: it asks, verifies and flashes boards at a bench host."""

import json
import os
import subprocess
import sys

import pytest

from lifeboat_host.base import tree
from qemu.rig import MB, Rig, pty_board

FOLDER = tree.root() / "host_tools" / "contrib" / "ansible"
BIN = tree.cache() / "ansible" / "bin"

pytestmark = [
    pytest.mark.parametrize(
        "spec", ["qemu_virt", pytest.param("qemu_sifive_u", marks=pytest.mark.slow)], indirect=True
    ),
    pytest.mark.skipif(
        not (BIN / "ansible-playbook").exists(),
        reason="no Ansible: ./lifeboat setup could not install it (Python 3.11 or newer)",
    ),
]


@pytest.fixture
def environment(tmp_path):
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
    }


@pytest.fixture
def play(environment, tmp_path):
    """Run the example playbook on this machine as the bench host; gives (exit code, output)."""

    def run(tag, *options, **variables):
        start = "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        start += "from lifeboat_host.commands.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", start, str(tree.root() / "host_tools")]
        bench = {
            "ansible_connection": "local",
            "ansible_python_interpreter": str(BIN / "python3"),
            "lifeboat_command": command,
            **variables,
        }
        inventory = tmp_path / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": {"bench": bench}}}))
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory, "boards.yml", "--tags", tag, *options],
            cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=300,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def recap(out):
    """The numbers of the last line: ok=..., changed=..., failed=..."""
    line = out[out.index("PLAY RECAP") :].split("bench", 1)[1]
    return {key: int(value) for key, value in (w.split("=") for w in line.split() if "=" in w)}


def test_lint_has_nothing_to_say(environment, spec):
    if spec.id != "qemu_virt":
        pytest.skip("once is enough")
    done = subprocess.run(
        ["ansible-lint", "--offline", "--profile", "production"],
        cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_boards_are_asked_verified_and_flashed_once(rig2, play, tmp_path):
    (tmp_path / "new").mkdir()
    new = Rig(rig2.spec, tmp_path / "new")
    new.make_image(2 * MB, version="2.0")
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with pty_board(rig2) as (port, _):
        board = {"lifeboat_ports": [port]}
        code, out = play("status", **board, lifeboat_openmetrics=str(metrics))
        assert code == 0 and recap(out)["failed"] == recap(out)["changed"] == 0, out
        (written,) = metrics.iterdir()
        assert "lifeboat_up{" in written.read_text()

        flash = {**board, "lifeboat_image": str(new.flash)}
        old = rig2.flash.read_bytes()
        code, out = play("flash", "--check", **flash)
        assert code == 0 and "1 of 1" in out and rig2.flash.read_bytes() == old, out
        for changed in (1, 0):
            code, out = play("flash", **flash)
            assert code == 0 and f"{changed} of 1" in out, out
            assert recap(out)["changed"] == changed
        code, out = play("verify", **board)
        assert code == 0, out
    rig2.good, rig2.blocks = new.good, new.blocks
    assert rig2.content() == new.good


def test_what_is_not_well_fails_and_says_why(rig2, play, tmp_path):
    rig2.rot(rig2.drives[0], 1)
    with pty_board(rig2) as (port, _):
        board = {"lifeboat_ports": [port]}
        code, out = play("verify", **board)
        assert code == 2 and "'bad': [1]" in out, out
        code, out = play("status", **board, lifeboat_verdicts=["RESCUE"])
        assert code == 2 and "assertion" in out.lower() and "'verdict': 'RUN'" in out, out
    code, out = play("status", lifeboat_ports=[str(tmp_path / "none")])
    assert code == 2 and "link-open" in out and "there is no such port" in out
    code, out = play("flash", lifeboat_ports=["/dev/null"])
    assert code == 2 and "missing required arguments: lifeboat_image" in out
