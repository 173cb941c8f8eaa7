"""The flow at power-on: S1 inspect, S2 check, S3 create, S4 recover; one verdict.

A board is a module or object with

    PRODUCT       text, as in the images made for it
    BLOCK_SIZE    bytes; format.md section 1
    UNSIGNED      True: code runs that nobody signed; or KEYS, see owner.Owner, whose names are
                  optional, too
    REGION_LBAS   LBAs where regions may start that neither a GPT nor the disk's end tells
    start()       begin what takes time, such as the disks' spin-up; does not wait
    flash()       the code flash, a block device
    disks()       the disks, block devices with a name, not yet initialised
    retained()    a bytearray that survives a soft reset, or None
    memory()      optional: a block device for the controller's memory in place of the code flash's
                  blocks before the manifest, or None: then nothing is remembered
    watchdog(ms)  optional, with TRIAL_MS: begin to watch code that is tried (docs/update.md);
                  TRIAL_STARTS, OFFLINE_UPDATE: see there, too
    REPAIR        optional, "ask": damage waits for a person (needs the extra update, too);
                  "report": what a repair erases is kept on the disks before (extra evidence)
    uid()         optional: bytes that no other controller has, as machine.unique_id()
"""

from time import ticks_diff, ticks_ms

from . import running
from .codeflash import CodeFlash
from .report import Report
from .trust import Trust

# An extra: new builds that are tried, parity, evidence.
try:
    from .extended import PowerOn
except ImportError:
    from .poweron import PowerOn


def report():
    """Return the Report of the last power-on, or None."""
    return running.report


def start(board):
    """Return the verdict's Report: the stored one after a soft reset, else from power_on().

    A soft reset restarts the interpreter only. Not inspecting again keeps tools that soft-reset
    the board on every connect from waiting.
    """
    kept = None
    try:
        import machine

        if machine.reset_cause() == machine.SOFT_RESET:
            kept = Report.kept(board.retained())
    except Exception:  # noqa: BLE001 - then all is found out anew
        pass
    if not kept:
        return power_on(board)
    running.report = kept
    # The application wants to find its disks as after a power-on, and where the regions lie.
    kept.attempt("disks-failed", "", lambda: board.start())
    try:
        Trust(board, CodeFlash(board.flash(), board.BLOCK_SIZE)).recall()
    except Exception:  # noqa: BLE001 - then the disks' tables tell
        pass
    print(kept.line())
    return kept


def power_on(board, adopt=None, unlimited=False):
    """Inspect, recover, back up; print and return the Report. Never raises.

    For a person: adopt names the set id that is the controller's own from now on; unlimited: read
    all copies, however long it takes, and try again what failed before.
    """
    result = Report()
    began = ticks_ms()
    running.power_on = True
    try:
        result.attempt("internal", "", PowerOn(board, result, adopt, unlimited).run)
    finally:  # Ctrl-C, too
        running.power_on = False
    result.data["ms"]["total"] = ticks_diff(ticks_ms(), began)
    running.report = result
    # Both are for comfort: the verdict stands.
    for tell in result.show, lambda: result.keep(board.retained()):
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - too little memory, perhaps
            print("[lifeboat]", result.verdict, repr(error))
    return result
