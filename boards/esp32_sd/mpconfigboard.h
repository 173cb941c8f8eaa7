#define MICROPY_HW_BOARD_NAME "ESP32 with lifeboat"
#define MICROPY_HW_MCU_NAME "ESP32"

// vfs.VfsRom for applications, without a ROMFS partition of its own.
#define MICROPY_VFS_ROM (1)
#define MICROPY_VFS_ROM_IOCTL (0)
