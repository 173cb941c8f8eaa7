# MicroPython's own qemu port, its board MPS2_AN385 with lifeboat frozen in:
#
#   make -C ports/qemu BOARD=MPS2_AN385 BOARD_DIR=/path/to/boards/mps2_an385 BUILD=/path/to/build
include boards/MPS2_AN385/mpconfigboard.mk

LDSCRIPT = $(BOARD_DIR)/board.ld
FROZEN_MANIFEST = $(BOARD_DIR)/manifest.py
MICROPY_HEAP_SIZE = 12582912
CFLAGS_EXTRA = -O2

# Release tarballs come without micropython-lib, of which nothing is needed here, but the rule that
# freezes modules wants to see some README.md there.
ifeq ($(wildcard $(MPY_LIB_DIR)/README.md),)
MPY_LIB_DIR = $(TOP)
endif
