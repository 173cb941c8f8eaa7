"""Real file systems on region.user_area(), and what is left of the region afterwards."""

import vfs

from fakes import board as sim
from fakes.disk import RamDisk
from lifeboat.blockdev import Window
from lifeboat.region import find, user_area


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
    region = find(disk)
    assert region and not region.bad_copies
    start = region.start
    assert max(lba for lba in disk.written) < start
    # Full to the brim: the file system ends before the region does.
    print("fs", kind, "ok")
