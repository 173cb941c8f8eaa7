# Freeze lifeboat into a board:
#
#     include("firmware/manifest.py", arch="rv32", drivers="cfi ahci", extras="journal scrub")
#
# arch      "rv32": viper and inline assembler, for mpy-cross -march=rv32imc
#           "viper": viper only, for the other architectures with a native emitter
#           "": plain bytecode
# drivers   names of the modules in lifeboat/drivers that the board uses, separated by blanks
# extras    what power-on can do without: "partitioning" makes regions at the board's REPL,
#           "journal" keeps a log in the regions, "scrub" inspects during operation, "agent
#           line" let `lifeboat provision` and its friends talk to the board
options.defaults(arch="", drivers="", extras="")

_CORE = (
    "__init__",
    "blockdev",
    "boot",
    "checking",
    "codeflash",
    "creating",
    "errors",
    "gpt",
    "inspecting",
    "kernels",
    "manifest",
    "recovery",
    "region",
    "report",
    "drivers/__init__",
)
_KERNELS = {
    "rv32": ("kernels_viper", "kernels_rv32"),
    "viper": ("kernels_viper", "kernels_viper_crc"),
    "": ("kernels_plain",),
}

package(
    "lifeboat",
    files=[
        name + ".py"
        for name in _CORE
        + _KERNELS[options.arch]
        + tuple("drivers/" + name for name in options.drivers.split())
        + tuple(options.extras.split())
    ],
)
