# What is frozen into the boot stage of the QEMU `virt` board.
include("$(MPY_DIR)/extmod/asyncio")
include(
    "$(PORT_DIR)/../../firmware/manifest.py",
    arch="rv32",
    drivers="cfi ahci",
    extras="partitioning journal scrub agent line",
)
freeze("$(BOARD_DIR)", "board.py")
freeze("$(BOARD_DIR)/..", "_boot.py")
