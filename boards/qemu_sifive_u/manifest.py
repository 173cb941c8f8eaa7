# What is frozen into the boot stage of the QEMU `sifive_u` board.
include("$(MPY_DIR)/extmod/asyncio")
include(
    "$(PORT_DIR)/../../firmware/manifest.py",
    arch="rv32",
    drivers="sifive_spi sifive_spi_rv32 spinor sdspi",
    extras="partitioning journal scrub agent line",
)
freeze("$(BOARD_DIR)", "board.py")
freeze("$(BOARD_DIR)/..", "_boot.py")
