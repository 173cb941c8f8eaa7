"""The pages of docs/, command by command: what is printed there works as it is printed.

Only names are replaced: of disks and ports, of keys that lie elsewhere, and of what a command said
before. At a terminal a person says yes; here --yes does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lifeboat_host.base import tree

ROOT = tree.root()
MB = 1 << 20
PRINTED = r"^    (?:\$ )?((?:\./)?(?:lifeboat|ansible-playbook|sudo|cp|echo) .*?)(?:  +#.*)?$"
# Where else a command is run, or why it can't be here.
ELSEWHERE = {
    "sudo setfacl -m u:alice:rw /dev/disk/by-id/ata-MODEL_SERIAL": "changes a device node",
    "ansible-playbook -i inventory.yml boards.yml --tags status": "test_ansible.py",
    "./lifeboat mpremote connect PORT mip install http://ADDRESS/package.json": "test_mip.py",
    "./lifeboat demo --usb": "test_demo.py",
    "./lifeboat demo --usb only": "test_demo.py",
    "./lifeboat bench": "test_bench.py",
    "./lifeboat bench --quick": "test_bench.py",
    "./lifeboat bench --json": "test_bench.py",
    "./lifeboat bench --board sifive_u": "test_bench.py",
    "./lifeboat bench --board rp2_sd": "test_bench.py",
}
SERVICE = """
import sys
from pyhsslms import pyhsslms
if sys.argv[1:] == ["new"]:
    pyhsslms.HssLmsPrivateKey.genkey(
        "release", levels=1, lms_type=pyhsslms.lms_sha256_m24_h5,
        lmots_type=pyhsslms.lmots_sha256_n24_w4,
    )
else:
    key = pyhsslms.HssLmsPrivateKey("release")
    sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))
"""
PAGES = {"update", "operations", "porting", "provisioning", "keys", "memory", "usb", "performance"}


def printed(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    commands = [match.strip() for match in re.findall(PRINTED, text, re.M)]
    return [command for command in commands if not command.startswith("lifeboat: ")]


@pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)
def test_every_page_with_commands_is_walked(spec):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md") if printed(path.stem)}
    assert pages == PAGES
    assert set(printed("performance")) <= ELSEWHERE.keys()


class Walk:
    """A person who reads a page in a folder of her own."""

    def __init__(self, page, folder):
        self.folder = folder
        self._left = [command for command in printed(page) if command not in ELSEWHERE]
        cache = folder / "cache"  # a board that runs already has the real one
        cache.mkdir()
        for path in tree.cache().iterdir():
            if path.name != "run":
                (cache / path.name).symlink_to(path)
        tools = folder / "bin"
        tools.mkdir()
        for tool in (tools / "lifeboat", folder / "lifeboat"):
            start = f'exec {sys.executable} -m lifeboat_host "$@"'
            tool.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT}/host_tools {start}\n")
            tool.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "LIFEBOAT_CACHE": str(cache),
            "LIFEBOAT_ROOT": str(ROOT),
        }
        self.machine("first")
        (folder / "u-boot.bin").write_bytes(os.urandom(600_000))
        (folder / "src").mkdir()
        (folder / "src" / "main.py").write_text("print('app: it runs')\n")

    def __call__(self, command, names=None, more=""):
        """Do what is printed, with names replaced: {printed: real}. Gives what it says."""
        assert command in self._left, f"not printed any more, or done already: {command}"
        self._left.remove(command)
        for old, new in (names or {}).items():
            assert old in command
            command = command.replace(old, str(new))
        return self.shell(command + more)

    def shell(self, command):
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def machine(self, name):
        """From here on at another machine: with its own records of keys."""
        self._environment["XDG_STATE_HOME"] = str(self.folder / name)

    def disks(self, *names):
        self.shell(f"truncate -s 96M {' '.join(names)}")

    def board(self, command, *disks):
        """Switch a board on; its port."""
        self.shell(command + "".join(f" --disk {disk}" for disk in disks))
        return self.port()

    def port(self):
        return json.loads(self.shell("lifeboat board status --json"))["pty"]

    def off(self):
        self.shell("lifeboat board off")

    def end(self):
        self.off()
        assert self._left == [], "printed, and not done here"


@pytest.fixture
def walk(tmp_path):
    made = []

    def start(page):
        made.append(Walk(page, tmp_path))
        return made[-1]

    yield start
    for one in made:
        one.off()
    shutil.rmtree(tmp_path, ignore_errors=True)


IMAGE = "lifeboat image build -o code.img --version 1.0 os=u-boot.bin app=src/"
RUN = "lifeboat board run --flash code.img"


@pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)
class TestUnsigned:
    def test_provisioning(self, walk, spec):
        do = walk("provisioning")
        do(IMAGE)
        do.disks("a.img", "b.img")
        port = do.board("lifeboat board run", "a.img", "b.img")
        said = do(
            "lifeboat provision --port /dev/ttyACM0 --image code.img",
            names={"/dev/ttyACM0": port}, more=" --yes",
        )  # fmt: skip
        assert "RUN" in said
        do.end()

    @pytest.mark.slow
    def test_operations(self, walk, spec):
        do = walk("operations")
        do.disks("sdX", "sdY", "a.img", "b.img")
        disks = {"/dev/sdX": "sdX"}
        assert "free" in do("lifeboat region plan /dev/sdX", names=disks)
        both = {**disks, "/dev/sdY": "sdY"}
        do("lifeboat region create /dev/sdX /dev/sdY", names=both, more=" --yes")

        do.shell(IMAGE)
        port = {"/dev/ttyUSB0": do.board(RUN, "a.img", "b.img")}
        do("lifeboat region create --port /dev/ttyUSB0", names=port, more=" --yes")
        do.shell(f"lifeboat unprovision --yes --port {port['/dev/ttyUSB0']}")
        do("lifeboat region create --port /dev/ttyUSB0 sata0", names=port, more=" --yes")
        do.off()

        # The set of the first two disks is not this board's, until somebody says so.
        port = {"/dev/ttyUSB0": do.board(RUN, "sdX", "sdY")}
        said = do("lifeboat adopt --dry-run", more=" --json")
        (foreign,) = json.loads(said)["sets"]
        assert not foreign["own"]
        do("lifeboat adopt", more=" --yes")
        name = {"58585858": foreign["set"][:8]}
        said = do("lifeboat adopt 58585858", names=name, more=" --yes --json")
        assert json.loads(said)["adopted"] == foreign["set"]

        assert "sata0" in do("lifeboat log")
        assert "sata1" in do("lifeboat log --port /dev/ttyUSB0", names=port)
        do.off()
        assert "sdY" in do("lifeboat log /dev/sdX /dev/sdY", names=both)
        do("lifeboat log /dev/sdX --picture log.html", names=disks)
        assert "<svg" in (do.folder / "log.html").read_text()
        with open(do.folder / "code.img", "r+b") as flash:
            bad = bytes([flash.read(1)[0] ^ 4])
            flash.seek(0)
            flash.write(bad)
        do.board(RUN, "sdX", "sdY")
        do.off()
        said = do("lifeboat log --evidence /dev/sdX /dev/sdY", names=both)
        assert "block 0 " in said and "1 bit" in said
        file = do.folder / "lifeboat.prom"
        do(
            "lifeboat log --quiet --openmetrics "
            "/var/lib/prometheus/node-exporter/lifeboat.prom /dev/disk/by-id/ata-*",
            names={
                "/var/lib/prometheus/node-exporter/lifeboat.prom": file,
                "/dev/disk/by-id/ata-*": "sd?",
            },
        )  # fmt: skip
        assert "lifeboat_sessions_total" in file.read_text()
        (undo,) = do.folder.glob("lifeboat-undo-sdX-*.json")
        do(
            "lifeboat region remove /dev/sdX --undo lifeboat-undo-sdX-1a2b3c4d.json",
            names={**disks, "lifeboat-undo-sdX-1a2b3c4d.json": undo.name}, more=" --yes",
        )  # fmt: skip
        assert not any((do.folder / "sdX").read_bytes())
        do.end()

    @pytest.mark.slow
    def test_memory(self, walk, spec):
        do = walk("memory")
        do.disks("OLD", "NEW", "lost", "a.img", "b.img", "c.img")
        do.shell("lifeboat region create --yes OLD lost && rm lost")
        do("lifeboat region create NEW --join OLD", more=" --yes")

        do.shell(IMAGE)
        do.shell("lifeboat region create --yes a.img c.img")
        do.board(RUN, "a.img", "c.img")
        do.off()
        port = do.board(RUN, "a.img", "b.img")  # c.img has failed, b.img takes its place
        do(
            "lifeboat region create --port PORT sata1 --join sata0",
            names={"PORT": port}, more=" --yes",
        )  # fmt: skip
        do.off()
        do.board(RUN, "OLD", "NEW")
        (foreign,) = json.loads(do("lifeboat adopt --dry-run", more=" --json"))["sets"]
        do("lifeboat adopt", more=" --yes")
        do("lifeboat adopt 58585858", names={"58585858": foreign["set"][:8]}, more=" --yes")
        do.off()

        do.shell("cp code.img dump.img")
        said = do("lifeboat image build --ranges -o code.img --version 1.1 os=u-boot.bin app=src/")
        assert re.search(r"manifest +0x01fc0000 +262144", said)
        do("lifeboat image put code.img dump.img", more=" --yes")
        do.end()

    def test_porting(self, walk, spec):
        do = walk("porting")
        do.shell(IMAGE)
        do.disks("a.img")
        port = do.board(RUN, "a.img")
        check = do.folder / "check.py"
        (do.folder / "tests").symlink_to(ROOT / "tests")
        here = {"/tmp/check.py": check}
        do("cp tests/conformance/flash.py /tmp/check.py", names=here)
        call = "check_flash(board.flash(), first=100, blocks=4)"
        do(f"echo 'import board; {call}' >> /tmp/check.py", names=here)
        run = {"mpremote run /tmp/check.py": f"mpremote connect {port} resume run {check}"}
        said = do("./lifeboat mpremote run /tmp/check.py", names=run)
        assert re.search(r"flash \w+: 1\d checks passed", said)
        # What the comment there says of disks.
        text = (ROOT / "tests" / "conformance" / "disk.py").read_text()
        last = "check_disk(board.disks()[0], first=2048, count=4096)"
        check.write_text(f"{text}\nimport board\n{last}\n")
        said = do.shell(f"./lifeboat mpremote connect {port} resume run {check}")
        assert "disk sata0: 10 checks passed" in said
        do.end()

    def test_update(self, walk, spec):
        do = walk("update")
        do.shell(IMAGE)
        do.disks("a.img", "b.img")
        do.shell("lifeboat region create --yes a.img b.img")
        port = do.board(RUN, "a.img", "b.img")
        do.shell(IMAGE.replace("code.img --version 1.0", "new.img --version 2.0"))
        tried = do("lifeboat update --image new.img", more=" --yes")
        assert "staged on" in tried and "lifeboat update --confirm" in tried
        assert "trying: 2.0" in do("lifeboat update")
        do('lifeboat update --reject "no link"')
        assert "returned: 2.0" in do.shell(f"lifeboat update --port {port}")
        do.shell(f"lifeboat update --port {port} --image new.img --yes --again")
        assert "2.0 stays" in do("lifeboat update --confirm")
        do.shell("cp a.img card.img")
        do("lifeboat update stage card.img --image new.img", more=" --yes")
        said = do("lifeboat rollback --dry-run")
        assert re.search(r"2\.0, build \w+, in flash", said) and "1.0, build" in said
        back = json.loads(do("lifeboat rollback", more=" --yes --json"))
        assert back["done"] and back["report"]["version"] == "1.0"
        do("lifeboat rollback 1.0")  # it is in flash already
        do.end()

    def test_usb(self, walk, spec):
        do = walk("usb")
        do.shell(IMAGE)
        do.disks("disk0.img", "disk1.img", "stick.img")
        do.shell("lifeboat region create --yes disk0.img disk1.img stick.img")
        said = do("./lifeboat board run --flash code.img --disk disk0.img --usb-disk stick.img")
        assert "usb0" in said
        do.end()


@pytest.mark.parametrize("spec", ["qemu_virt-signed"], indirect=True)
class TestSigned:
    def test_keys(self, walk, spec):
        do = walk("keys")

        def key(name):
            do.shell(
                f"lifeboat key new {name}.key; lifeboat key show {name}.key --public {name}.pub"
            )

        do("lifeboat key new owner.key")
        do("lifeboat key show owner.key --public owner.pub")
        assert "KEYS = bytes" in do("lifeboat key set -o set1.keys --serial 1 owner.pub:code,keys")
        build = "lifeboat image build -o code.img --version 1.0"
        do(f"{build} --sign owner.key os=u-boot.bin app=src/")
        do("lifeboat image verify code.img --public set1.keys")
        do.machine("second")  # its record was lost
        do("lifeboat key move owner.key --skip 50", more=" --yes")

        for name in ("daily", "master", "service", "old", "new"):
            key(name)
        do(
            "lifeboat key set -o set1.keys --serial 1 "
            "daily.pub:code master.pub:code,keys service.pub:unlock"
        )
        do(f"{build} --security-counter 4 os=u-boot.bin app=src/")
        vault = {"/media/vault/": ""}
        do("lifeboat image sign code.img --key /media/vault/daily.key", names=vault)
        do("lifeboat image verify code.img --public set1.keys")
        do("lifeboat key split daily.key server.key --count 200")
        do.machine("server")
        do("lifeboat key move server.key --skip 0", more=" --yes")
        do.shell("lifeboat image sign code.img --key server.key")
        do.machine("second")

        do("lifeboat key set -o set2.keys --serial 2 old.pub:code,keys new.pub:code,keys")
        sign = "lifeboat image build -o v{0}.img --version {0}.0 --keys set{0}.keys --sign {1}.key"
        do(f"{sign.format(2, 'old')} os=u-boot.bin app=src/")
        do("lifeboat key set -o set3.keys --serial 3 new.pub:code,keys")
        do(f"{sign.format(3, 'new')} os=u-boot.bin app=src/")

        # A signing service: another tool, with a key of its own.
        (do.folder / "sign-release.py").write_text(SERVICE)
        do.shell(f"{sys.executable} sign-release.py new")
        do(
            "lifeboat image sign code.img --signer 'ssh signer@vault sign-release'"
            " --public owner.pub",
            names={
                "ssh signer@vault sign-release": f"{sys.executable} sign-release.py",
                "owner.pub": "release.pub",
            },
        )

        do("lifeboat key demo keys/")
        do(f"{build} --sign keys/code.key os=u-boot.bin app=src/")
        do.disks("disk0.img", "disk1.img")
        do.shell("lifeboat region create --yes disk0.img disk1.img")
        do("lifeboat board run --signed --flash code.img --disk disk0.img --disk disk1.img")
        do("lifeboat lock", more=" --yes")
        do("lifeboat board reset")
        do("lifeboat unlock --key keys/unlock.key")
        # The same in the text, with a key of another name.
        do("lifeboat lock", more=" --yes")
        do.shell("lifeboat board reset")
        do("lifeboat unlock --key service.key", names={"service.key": "keys/unlock.key"})
        do.shell("lifeboat board reset")
        log = json.loads(do.shell("lifeboat board status --json"))["console_log"]
        asked = re.findall(r'"challenge": "([0-9a-f]{90})"', Path(log).read_text())[-1]
        line = do(
            "lifeboat unlock --key service.key --challenge 4c42554e4c4f434b...",
            names={"service.key": "keys/unlock.key", "4c42554e4c4f434b...": asked},
        )
        assert line.startswith("unlock ")
        do.end()
