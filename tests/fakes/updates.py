"""A board on its way from version 1.0 to 2.0 by the disks; no test framework here."""

import struct
from errno import EIO

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat import stage, trial
from lifeboat.codeflash import CodeFlash
from lifeboat.trust import Trust
from sim.power import Power

OLD, NEW = scenarios.OLD, scenarios.NEW
DIFFERENT = 7  # blocks, the manifest's with them


def manifest_of(image, size=sim.ERASE):
    """Return the manifest of an image with blocks of that size."""
    at = len(image) - size
    return bytes(image[at : at + struct.unpack_from("<I", image, at + 12)[0]])


def block_of(image, block, size=sim.ERASE):
    return bytes(image[block * size : (block + 1) * size])


def running_old(old=OLD, **kwargs):
    """Return a board that runs the old version, with a backup of it on each disk."""
    board = sim.SimBoard(bytearray(old), **kwargs)
    assert lifeboat.power_on(board).verdict == "RUN"
    board.supply(Power())
    return board


def stage_new(board, image=NEW, arm=True, **kwargs):
    """Stage an image as an application does; returns the Stage."""
    staged = stage.Stage(board, manifest_of(image, board.BLOCK_SIZE), **kwargs)
    for _ in staged.gather():
        pass
    for block in staged.needed:
        staged.put(block, block_of(image, block, board.BLOCK_SIZE))
    staged.commit()
    if arm:
        staged.arm()
    return staged


def memory_of(board):
    """Return the memory of a board, read anew."""
    return Trust(board, CodeFlash(board.flash(), board.BLOCK_SIZE)).recall().memory


def trying(board):
    """Return the Trial in the memory of a board."""
    return trial.Trial(memory_of(board))


def dies_after(disk, commands):
    """Let a disk give errors after so many commands."""
    left = commands

    def fault(op, lba, count):
        nonlocal left
        left -= 1
        return EIO if left < 0 else None

    disk.fault = fault


def copy_of(board):
    """Return a board with the same media, and its own power supply."""
    other = sim.SimBoard(bytearray(board.nor.data), len(board.drives))
    other.chip.data[:] = board.chip.data
    for disk, its in zip(other.drives, board.drives):
        disk.sectors = dict(its.sectors)
    return other
