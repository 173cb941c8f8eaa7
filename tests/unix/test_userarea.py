"""File systems of MicroPython live beside the region."""

from .floor import run


def test_fat_and_littlefs_live_on_the_user_area():
    lines = run("userarea.py")
    assert "fs FAT ok" in lines and "fs LFS2 ok" in lines and "fs GPT ok" in lines
