# What is frozen into the boot stage of the QEMU `sifive_u` board.
include("$(MPY_DIR)/extmod/asyncio")
include(
    "$(PORT_DIR)/../../firmware/manifest.py",
    arch="rv32",
    drivers="sifive_spi spinor sdspi",
    extras="advice agent evidence journal lock parity partitioning romfs scrub signed update"
    " userarea",
)
freeze("$(BOARD_DIR)", "board.py")
freeze("$(BOARD_DIR)/..", "_boot.py")
freeze("$(PORT_DIR)", ("_console.py", "_crash.py", "_lock.py"))
freeze("$(POLICY_DIR)", "policy.py")
