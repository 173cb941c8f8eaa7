"""A board for tries: it runs only what the demo's keys signed.

Everybody knows these keys (host_tools/lifeboat_host/signing/demo_keys.py). For a board of your
own make keys with `lifeboat key new`, and put the line that `lifeboat key set` prints here.
"""

from binascii import unhexlify

# Key set 1: the code key (code, keys) and the unlock key (unlock).
KEYS = unhexlify(
    "010000000200000005000000000b00000007fecd07f84ed34fb5cd2d7057894d38d77bb1a724f8a2"
    "acf91bbf8a245f38c45927acc3f8e37fa134000000000000000002000000000b0000000773b7c3cd"
    "07b1edb4069594506e3ab53f97bc51574d7e5b48245115783e30a442bf0fb28fb5a1cb9500000000"
    "00000000"
)
