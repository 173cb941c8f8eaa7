"""MicroPython's own mip installs the package, from an index on this machine; then it heals.

mip is frozen into Debian's build of MicroPython, which ./lifeboat test fetches.
"""

import functools
import hashlib
import http.server
import json
import subprocess
import threading

import pytest

from .example import ROOT, FileBoard
from .floor import CACHE

MICROPYTHON = CACHE / "mip" / "micropython"
FIRMWARE = ROOT / "firmware"
pytestmark = pytest.mark.skipif(
    not MICROPYTHON.exists(), reason="no build of MicroPython with mip: ./lifeboat test fetches it"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Serve the package as MicroPython's own index does, and as a package.json.

    This mip, 0.3, does not know addresses that are relative to the package.json.
    """
    index = tmp_path / "index"
    listing = {"v": 1, "version": "0.1.0", "hashes": [], "deps": []}
    urls = json.loads((FIRMWARE / "package.json").read_text())["urls"]
    for name, url in urls:
        data = (FIRMWARE / url).read_bytes()
        short = hashlib.sha256(data).hexdigest()[:8]
        (index / "file" / short[:2]).mkdir(parents=True, exist_ok=True)
        (index / "file" / short[:2] / short).write_bytes(data)
        listing["hashes"].append([name, short])
    package = index / "package" / "py" / "lifeboat"
    package.mkdir(parents=True)
    (package / "latest.json").write_text(json.dumps(listing))
    (index / "firmware").symlink_to(FIRMWARE)
    handler = functools.partial(Quiet, directory=str(index))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        absolute = [[name, f"{address}/firmware/{url}"] for name, url in urls]
        (index / "package.json").write_text(json.dumps({"urls": absolute, "version": "0.1.0"}))
        yield address
        server.shutdown()


def install(folder, arguments):
    code = f"import mip; mip.install({arguments}, target={str(folder)!r})"
    done = subprocess.run(
        [MICROPYTHON, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and "Done" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    ['"lifeboat", index="{}", mpy=False', '"{}/package.json"'],
    ids=["from an index", "from a package.json"],
)
def test_mip_installs_the_package_whole_and_it_heals(server, tmp_path, arguments):
    library = tmp_path / "lib"
    install(library, arguments.format(server))
    came = {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}
    assert came == {str(p.relative_to(FIRMWARE)) for p in (FIRMWARE / "lifeboat").rglob("*.py")}
    assert all((library / name).read_bytes() == (FIRMWARE / name).read_bytes() for name in came)
    (tmp_path / "board").mkdir()
    board = FileBoard(tmp_path / "board", MICROPYTHON, library)
    board.prepare()
    board.heals()
