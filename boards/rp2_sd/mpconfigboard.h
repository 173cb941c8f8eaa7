#define MICROPY_HW_BOARD_NAME "Raspberry Pi Pico with lifeboat"

// Embedded code takes the first 1024 KiB of it.
#define MICROPY_HW_FLASH_STORAGE_BYTES (1408 * 1024)

// Not used, but without it the port leaves out vfs.VfsRom.
#define MICROPY_HW_ROMFS_BYTES (4096)
