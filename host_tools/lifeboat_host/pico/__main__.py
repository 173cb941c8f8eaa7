"""The emulator as a process of its own, as QEMU is one."""

import sys

from lifeboat_host.pico.machine import main

sys.exit(main())
