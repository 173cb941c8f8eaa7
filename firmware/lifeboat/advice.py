"""The report in words, and what each code asks a person to do: for boards with room for it."""

# docs/operations.md explains each at length; a test holds the two lists equal.
ADVICE = {
    "adopted": "the controller remembers these disks from now on",
    "backup-late": "no time for a backup at power-on; the scrubber makes it",
    "backup-none": "no disk has a good backup; make a region: lifeboat region create",
    "block-lost": "no good copy anywhere; attach a disk that has one or flash an image",
    "build-none": "no copy of such a build is here; name one that is listed",
    "build-unknown": "disks hold code that never ran here; flash it if it is yours",
    "commit-crc": "a commit record is damaged; the slot is free",
    "commit-field": "a commit record is wrong; the slot is free",
    "commit-magic": "the slot is free",
    "commit-version": "the backup is too new; update the boot stage",
    "copy-bad": "a backup copy was damaged; it is rewritten",
    "counter-low": "this build is older than one that ran; flash a newer image",
    "digest-wrong": "the bytes are not what the manifest says; build the image again",
    "disk-failed": "the disk gives errors; check its cable, then replace it",
    "disk-in-use": "the disk may hold data; choose another, or free the range",
    "disk-lies": "the disk does not return what was written; replace it",
    "disk-limited": "the disk works, but for what is told here; use another kind if that matters",
    "disk-refused": "the disk can't be used as it is, for what is told here; mend that",
    "disk-slow": "the disk takes too long; replace it",
    "disk-timeout": "the disk did not answer; check its power, then replace it",
    "disks-failed": "the disk controller fails; check board.py, then hardware",
    "flash-changed": "flash is not what was inspected; reset, then check its supply",
    "flash-failed": "the code flash gives errors; replace it or the board",
    "flash-locked": "the flash does not erase; end its write protection (status bits, WP pin)",
    "flash-verify": "flash does not hold what was programmed; replace it",
    "fuses-failed": "the board could not keep what rules from now on; reset, then replace it",
    "gpt-unknown": "the partition table is too large to be read; use another disk",
    "header-bad": "a region header copy was damaged; it is rewritten",
    "internal": "a fault in lifeboat; report it with this line",
    "journal-version": "the journal is too new; update the boot stage",
    "key-revoked": "a key signed this that no longer counts here; flash a newer image",
    "key-unknown": "not one of this board's keys signed this; sign the image with the owner's",
    "keys-refused": "the build brings keys that its own key may not bring; sign it with another",
    "lock-answer": "that is no answer; lifeboat unlock makes one of the challenge",
    "lock-keyless": "no key of this board could open it again; give it a key with the role unlock",
    "lock-missing": "this boot stage can not close its console; freeze the extra lock into it",
    "lock-nameless": "the board has no id and no set, so no answer fits; provision it first",
    "manifest-board": "the image is for another board; build it for this one",
    "manifest-crc": "the manifest is damaged",
    "manifest-field": "the manifest is wrong; build the image again",
    "manifest-magic": "there is no manifest; flash an image: lifeboat image build",
    "manifest-padding": "bytes after the manifest are damaged; repaired once a backup exists",
    "manifest-product": "the image is for another product; check PRODUCT in board.py",
    "manifest-size": "the manifest's sizes disagree; build the image again",
    "manifest-version": "the image is too new; update the boot stage",
    "member-missing": "a disk of the set is absent; attach it or join a new one",
    "member-new": "a region that is not remembered: only read; lifeboat adopt",
    "memory-cloned": "the flash has the memory of another controller; lifeboat adopt",
    "memory-damaged": "a record of the memory is lost; look with lifeboat status",
    "memory-failed": "the memory can't be written; the flash may be worn out",
    "memory-full": "too many members for the memory; 16 at most",
    "memory-lost": "the memory was lost and is learned anew; look with lifeboat status",
    "memory-none": "nothing is remembered here: disks are believed",
    "memory-place": "the image leaves no room for the memory; build it anew",
    "memory-version": "the memory is too new; update the boot stage",
    "older-build": "the code was beyond repair; an older backup was restored",
    "other-build": "the code was beyond repair; another build that the owner signed was restored",
    "policy": "board.py must have KEYS that can be used, or say UNSIGNED = True; not both",
    "read-limit": "looked long enough; lifeboat recover looks at all copies",
    "region-claimed": "a partition reaches into the region: only read; remove it",
    "region-crc": "the region header is damaged",
    "region-field": "the region header is wrong; make the region anew",
    "region-magic": "there is no region header here",
    "region-place": "it is not where it was made; make the region anew",
    "region-version": "the region is too new; update the boot stage",
    "repair-limit": "the repair failed too often; replace the flash, lifeboat recover tries again",
    "return-none": "nothing could bring the code in flash back; make its backup first",
    "set-other": "disks of another set; if they are to be this controller's: lifeboat adopt",
    "set-unclear": "unclear which set is the own one; take the others out, or lifeboat adopt SET",
    "signature-bad": "the signature does not fit; sign the image again, or distrust who gave it",
    "signature-none": "nobody signed this, and this board wants it signed: lifeboat image sign",
    "slot-small": "the code does not fit; make the region anew with larger slots",
    "update-missing": "this boot stage can not change builds; freeze the extra update into it",
}


def tell(data):
    """Print what of a report people want to know."""
    for code, where, detail in data["reasons"]:
        _say("%s %s: %s" % (code, (where + " " + detail).strip(), ADVICE.get(code, "")))
    _say(
        "%s: %s %s, %d bad, %d erased, %s ms"
        % (
            data["verdict"],
            data["product"] or "no code",
            data["version"] or "",
            sum([n for _, n in data["bad"]]),
            data["erases"],
            data["ms"].get("total"),
        )
    )


# Texts from manifests are untrusted: they must not look like a line of their own.
def _say(text):
    print("[lifeboat] " + "".join([c if " " <= c < "\x7f" else "?" for c in text]))
