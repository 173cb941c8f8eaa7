# What is frozen into MicroPython's qemu port for its MPS2_AN385 board: lifeboat, with every
# variant of the kernels that a Cortex-M3 can run, and what tests/arm needs.
include(
    "../../firmware/manifest.py",
    arch="viper",
    drivers="spinor sdspi",
    extras="partitioning journal scrub",
)
package("lifeboat", files=("kernels_plain.py",), base_path="../../firmware")
package("conformance", base_path="../../tests")
package("fakes", base_path="../../tests")
module("time.py")
