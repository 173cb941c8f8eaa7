#define MICROPY_HW_BOARD_NAME "lifeboat-qemu-sifive_u"
#define MICROPY_HW_MCU_NAME "rv32imac"
