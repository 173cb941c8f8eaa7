#define MICROPY_HW_BOARD_NAME "lifeboat-qemu-virt"
#define MICROPY_HW_MCU_NAME "rv32imac"
