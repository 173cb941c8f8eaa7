# What is frozen into MicroPython's qemu port for its MPS2_AN385 board: lifeboat, with every
# variant of the kernels that a Cortex-M3 can run, and what tests/arm needs.
include(
    "../../firmware/manifest.py",
    arch="viper",
    drivers="spinor sdspi",
    extras="evidence journal parity partitioning romfs scrub userarea",
)
kernels = ("kernels_plain.py", "kernels_copy.py", "mmio.py")
package("lifeboat", files=kernels, base_path="../../firmware")
package("conformance", base_path="../../tests")
package("fakes", base_path="../../tests")
package("sim", files=("__init__.py", "disk.py", "nor.py", "power.py"), base_path="../../tests")
package(
    "lifeboat_host",
    files=("__init__.py", "pico/__init__.py", "pico/sdcard.py"),
    base_path="../../host_tools",
)
module("time.py")
