"""The one error type of lifeboat, and what each of its codes asks a person to do."""


class LifeboatError(Exception):
    """Something read or written is not as the format or the policy requires.

    code: one of the keys of ADVICE, stable; detail: the offending value, for people.
    """

    def __init__(self, code, detail=""):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


# docs/operations.md explains each at length; a test holds the two lists equal.
ADVICE = {
    "backup-none": "no disk has a good backup; make a region: lifeboat region create",
    "block-lost": "no good copy anywhere; attach a disk that has one or flash an image",
    "commit-crc": "a commit record is damaged; the slot is free",
    "commit-field": "a commit record is wrong; the slot is free",
    "commit-magic": "the slot is free",
    "commit-version": "the backup is too new; update the boot stage",
    "copy-bad": "a backup copy was damaged; it is rewritten",
    "disk-in-use": "the disk may hold data; choose another, or free the range",
    "disk-failed": "the disk gives errors; check its cable, then replace it",
    "disk-lies": "the disk does not return what was written; replace it",
    "disk-timeout": "the disk did not answer; check its power, then replace it",
    "disks-failed": "the disk controller fails; check board.py, then hardware",
    "flash-changed": "flash is not what was inspected; reset, then check its supply",
    "flash-failed": "the code flash gives errors; replace it or the board",
    "flash-verify": "flash does not hold what was programmed; replace it",
    "generation-limit": "the counter is used up; make the region anew",
    "header-bad": "a region header copy was damaged; it is rewritten",
    "internal": "a fault in lifeboat; report it with this line",
    "manifest-board": "the image is for another board; build it for this one",
    "manifest-crc": "the manifest is damaged",
    "manifest-field": "the manifest is wrong; build the image again",
    "manifest-magic": "there is no manifest; flash an image: lifeboat image build",
    "manifest-padding": "bytes after the manifest are damaged; repaired once a backup exists",
    "manifest-product": "the image is for another product; check PRODUCT in board.py",
    "manifest-size": "the manifest's sizes disagree; build the image again",
    "manifest-version": "the image is too new; update the boot stage",
    "member-missing": "a disk of the set is absent; attach it or join a new one",
    "older-build": "the code was beyond repair; an older backup was restored",
    "policy": "board.py must say UNSIGNED = True to run unsigned code",
    "region-crc": "the region header is damaged",
    "region-field": "the region header is wrong; make the region anew",
    "region-magic": "there is no region header here",
    "region-place": "it is not where it was made; make the region anew",
    "region-version": "the region is too new; update the boot stage",
    "set-unclear": "disks of other controllers are here; take them out",
    "slot-small": "the code does not fit; make the region anew with larger slots",
}
