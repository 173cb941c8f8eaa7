"""`mpremote mip install` of the package, from an index on this machine, onto a running board."""

import functools
import http.server
import threading

import pytest

from lifeboat_host.base import tree

pytestmark = [pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)]

# A file system in RAM, as large as the package.
MOUNT = """
import vfs
class RAM:
    def __init__(self, blocks):
        self.data = bytearray(512 * blocks)
    def readblocks(self, n, buf, offset=0):
        at = 512 * n + offset
        buf[:] = memoryview(self.data)[at:at + len(buf)]
    def writeblocks(self, n, buf, offset=0):
        at = 512 * n + offset
        memoryview(self.data)[at:at + len(buf)][:] = buf
    def ioctl(self, op, arg):
        return {4: len(self.data) // 512, 5: 512}.get(op, 0)
ram = RAM(4096)
vfs.VfsFat.mkfs(ram)
vfs.mount(vfs.VfsFat(ram), "/ram")
"""
LOOK = """
import os
def walk(folder):
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & 0x4000:
            walk(path)
        else:
            print("file", path[9:], os.stat(path)[6])
walk("/ram/lib")
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def index():
    """The address of a server of the package's folder."""
    handler = functools.partial(Quiet, directory=str(tree.root() / "firmware"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_mpremote_installs_the_package_whole(rig8, mpremote, index):
    install = ["mip", "--target", "/ram/lib", "install", f"{index}/package.json"]
    said = mpremote(rig8, "exec", MOUNT, *install, "+", "exec", LOOK, timeout=300)
    sizes = {
        line.split()[1]: int(line.split()[2])
        for line in said.splitlines()
        if line.startswith("file ")
    }
    package = tree.root() / "firmware"
    assert sizes == {
        str(path.relative_to(package)): path.stat().st_size
        for path in (package / "lifeboat").rglob("*.py")
    }
