"""Signatures and key sets on MicroPython; the test on the host says what each line is to be.

argv: a JSON file with a list of [kind, hex, ...].
"""

import json
import sys
from binascii import unhexlify

from lifeboat import lms
from lifeboat.owner import KeySet

with open(sys.argv[1]) as file:
    cases = json.load(file)

for kind, *args in cases:
    args = [unhexlify(arg) for arg in args]
    if kind == "verify":
        print(lms.verify(*args))
    elif kind == "shape":
        print(lms.shape(*args))
    else:
        try:
            keys = KeySet(memoryview(args[0]))
            print(keys.serial, len(keys.keys))
        except ValueError:
            print(None)
