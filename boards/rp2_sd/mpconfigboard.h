#define MICROPY_HW_BOARD_NAME "Raspberry Pi Pico with lifeboat"

// Embedded code takes the first 1024 KiB of it.
#define MICROPY_HW_FLASH_STORAGE_BYTES (1408 * 1024)

// Not used, but without it the port leaves out vfs.VfsRom.
#define MICROPY_HW_ROMFS_BYTES (4096)

// The port's C stack of 8 KB is too small for lifeboat's calls: frames go to the heap.
#define MICROPY_STACKLESS (1)

// The port starts USB after lifeboat: what a power-on has to say is on UART 0, and so is a REPL.
#define MICROPY_HW_ENABLE_UART_REPL (1)
