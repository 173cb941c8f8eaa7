# Freeze lifeboat into a board:
#
#     include("firmware/manifest.py", arch="rv32", drivers="cfi ahci", extras="journal scrub")
#
# arch      "rv32": viper and inline assembler, for mpy-cross -march=rv32imc
#           "viper": viper only, for the other architectures with a native emitter
#           "": plain bytecode
# drivers   names of the modules in lifeboat/drivers that the board uses, separated by blanks
# extras    what power-on can do without: "partitioning" makes regions at the board's REPL,
#           "journal" keeps a log in the regions, "scrub" inspects during operation, "agent"
#           lets `lifeboat provision` and its friends talk to the board, "romfs" mounts the
#           applications in flash, "userarea" gives them a disk without its region, "update"
#           tries new builds and goes back to older ones, "parity" heals a block that is bad in
#           flash and in every copy, "evidence" keeps what the damage was (and a journal), "advice"
#           has a sentence for each reason code on the console, "signed" is for boards that run
#           only what their owner signed, "lock" (beside it) lets such a board close its console
options.defaults(arch="", drivers="", extras="")

_CORE = (
    "__init__",
    "blockdev",
    "boot",
    "checking",
    "codeflash",
    "creating",
    "errors",
    "inspecting",
    "kernels",
    "manifest",
    "members",
    "memory",
    "poweron",
    "records",
    "recovery",
    "region",
    "report",
    "running",
    "trust",
    "drivers/__init__",
)
_EXTRAS = {
    "advice": ("advice",),
    "agent": ("agent", "agent_disks", "line"),
    "evidence": ("evidence", "extended", "journal"),
    "journal": ("journal",),
    "lock": ("lock",),
    "signed": ("owner", "lms"),
    "parity": ("parity", "extended"),
    "partitioning": ("partitioning",),
    "romfs": ("romfs",),
    "scrub": ("scrub", "scrub_state", "patrol", "patrol_copies", "operation"),
    "update": ("update", "stage", "trial", "trying", "agent_update", "extended"),
    "userarea": ("userarea",),
}
_MMIO = {"rv32": ("mmio", "kernels_copy"), "viper": ("mmio", "kernels_copy"), "": ("mmio",)}
_MAPPED = {"ahci", "cfi", "ohci"}  # drivers of memory-mapped devices
# Drivers whose hot loops are modules of their own, and in which form.
_LOOPED = {"ahci", "sdspi", "sifive_spi"}
_LOOPS = {"rv32": "rv32", "viper": "plain", "": "plain"}
_HOT = {  # of extras, in machine code
    "rv32": {"evidence": "kernels_compare_rv32", "parity": "kernels_xor"},
    "viper": {"evidence": "kernels_compare", "parity": "kernels_xor"},
    "": {},
}
_KERNELS = {
    "rv32": ("kernels_viper", "kernels_rv32"),
    "viper": ("kernels_viper", "kernels_viper_crc"),
    "": ("kernels_plain",),
}

# What a power-on needs is frozen without line numbers, which are 7 % of it: what goes wrong there
# is told by its code or its repr(), not by a traceback.
_drivers = options.drivers.split()
_loops = [name for name in _drivers if name in _LOOPED]
_extras = options.extras.split()
package(
    "lifeboat",
    files=[
        name + ".py"
        for name in _CORE
        + _KERNELS[options.arch]
        + (_MMIO[options.arch] if _MAPPED & set(_drivers) else ())
        + tuple(f"drivers/{name}" for name in _drivers)
        + tuple(f"drivers/{name}_{_LOOPS[options.arch]}" for name in _loops)
    ],
    opt=3,
)
_modules = {name for extra in _extras for name in _EXTRAS[extra]}
_modules.update(name for extra, name in _HOT[options.arch].items() if extra in _extras)
package(
    "lifeboat",
    files=[name + ".py" for name in sorted(_modules)],
)
