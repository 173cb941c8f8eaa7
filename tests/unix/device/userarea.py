"""Real file systems on userarea.user_area(), and what is left of the region afterwards."""

from errno import EPERM

import vfs

from fakes import board as sim
from fakes import gpt as tables
from lifeboat.blockdev import Window
from lifeboat.region import find
from lifeboat.userarea import user_area
from sim.disk import RamDisk


def exercise(kind, make):
    vfs.mount(make, "/user")
    for i in range(6):
        with open("/user/file%d" % i, "wb") as f:
            for _ in range(20):
                f.write(bytes([i]) * 1000)
    vfs.umount("/user")
    print("fs", kind, "written")


def check(make):
    vfs.mount(make, "/user")
    for i in range(6):
        with open("/user/file%d" % i, "rb") as f:
            assert f.read() == bytes([i]) * 20000
    vfs.umount("/user")


for kind in ("FAT", "LFS2"):
    disk = RamDisk("disk0", 2048 + sim.REGION // 512)
    sim.make_region(disk)
    area = user_area(disk)
    if kind == "FAT":
        vfs.VfsFat.mkfs(area)
        exercise(kind, vfs.VfsFat(area))
        check(vfs.VfsFat(user_area(disk)))
    else:
        # A part of the area, as a partition would be; littlefs wants larger blocks than sectors.
        args = {"readsize": 512, "progsize": 512, "lookahead": 128}
        part = Window(area, 8, 1600)
        vfs.VfsLfs2.mkfs(part, **args)
        exercise(kind, vfs.VfsLfs2(part, **args))
        check(vfs.VfsLfs2(Window(user_area(disk), 8, 1600), **args))
    disk.settle("all")
    region = find(disk, (), bytearray(4096), ())
    assert region and not region.bad_copies
    start = region.start
    assert max(lba for lba in disk.written) < start
    # Full to the brim: the file system ends before the region does.
    print("fs", kind, "ok")

# In a partition of a disk with a GPT, beside the region's own partition.
SECTORS = sim.REGION // 512
disk = RamDisk("disk0", 6000 + SECTORS)
tables.both(
    disk, [(tables.LINUX, 2048, 5047), (tables.LIFEBOAT, 5120, 5120 + SECTORS - 1)], entries=512
)
sim.make_region(disk, 5120)
before = dict(disk.sectors)
part = Window(user_area(disk), 2048, 3000)
vfs.VfsFat.mkfs(part)
exercise("GPT", vfs.VfsFat(part))
check(vfs.VfsFat(Window(user_area(disk), 2048, 3000)))
disk.settle("all")
for lba in before:
    assert disk.sectors[lba] == before[lba], lba
for lba in (0, 1, 2, 129, disk.count - 1):
    try:
        user_area(disk).writeblocks(lba, bytearray(512))
        raise AssertionError(lba)
    except OSError as error:
        assert error.errno == EPERM
region = find(disk, (), bytearray(4096), ())
assert region.place == "gpt" and region.agreed and not region.bad_copies
known = find(disk, (), bytearray(4096), (region.key,))
assert known.known and not known.claimed
tables.both(disk, [(tables.LINUX, 2048, 5120)], entries=512)
assert find(disk, (), bytearray(4096), (region.key,)).claimed
print("fs GPT ok")
