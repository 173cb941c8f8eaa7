// QEMU `virt`; what each function must do stands in ../port/port.h.

#include <stdbool.h>
#include <stdint.h>

#include "port.h"

#define MACH_TIMEBASE_HZ (10000000)
#define MACH_UART_IRQ (10)

// 16550 UART
#define UART_DATA PORT_REG8(0x10000000)
#define UART_IER PORT_REG8(0x10000001)
#define UART_FCR PORT_REG8(0x10000002)
#define UART_LSR PORT_REG8(0x10000005)
#define UART_LSR_RX_READY (0x01)
#define UART_LSR_TX_EMPTY (0x20)

static inline void mach_uart_init(void) {
    // FIFOs on and empty, interrupt at 14 bytes or a pause. QEMU hands over as many bytes at
    // a time as the trigger level says.
    UART_FCR = 0xc7;
    UART_IER = 0x01;
}

static inline int mach_uart_rx(void) {
    return UART_LSR & UART_LSR_RX_READY ? UART_DATA : -1;
}

static inline bool mach_uart_tx(uint8_t byte) {
    if (!(UART_LSR & UART_LSR_TX_EMPTY)) {
        return false;
    }
    UART_DATA = byte;
    return true;
}

// Goldfish real-time clock: reading the low half latches the high half.
static inline uint64_t mach_time_ns(void) {
    uint32_t low = PORT_REG32(0x101000);
    return (uint64_t)PORT_REG32(0x101004) << 32 | low;
}

// SiFive's test finisher.
#define FINISHER PORT_REG32(0x100000)

static inline void mach_reset(void) {
    FINISHER = 0x7777;
}

// A port of the AHCI driver takes 7 KB: room for two controllers with six each. Four OHCI controllers
// take 1 KB each.
#define MACH_DMA_SIZE (12 * 7168 + 4 * 1024)

#define ECAM (0x30000000)
#define PCI_COMMAND (0x04)
#define PCI_COMMAND_MEMORY (0x02)
#define PCI_CLASS (0x08)
#define PCI_BAR0 (0x10)
#define PCI_BAR5 (0x24)
#define CLASS_AHCI (0x010601)
#define AHCI_GHC (0x04)
#define AHCI_GHC_RESET (0x80000001)
#define CLASS_OHCI (0x0c0310)
#define OHCI_COMMAND_STATUS (0x08)
#define OHCI_RESET (0x00000001)

// Reset every AHCI and OHCI controller on bus 0 that a driver has put to use (AHCI 1.3.1, 10.4.3;
// OpenHCI 1.0a, 7.1.3). That is one write where to stop its ports is a sequence for each of them,
// and the only way that ends a read in QEMU too: clearing ST leaves one in the host's hands to
// complete into the buffer.
static inline void mach_stop_dma(void) {
    for (unsigned function = 0; function < 32 * 8; function++) {
        uintptr_t config = ECAM + (function << 12);
        uint32_t class = PORT_REG32(config + PCI_CLASS) >> 8;
        if ((class != CLASS_AHCI && class != CLASS_OHCI)
            || !(PORT_REG32(config + PCI_COMMAND) & PCI_COMMAND_MEMORY)) {
            continue;
        }
        uintptr_t at;
        if (class == CLASS_AHCI) {
            at = (PORT_REG32(config + PCI_BAR5) & ~0xfu) + AHCI_GHC;
            PORT_REG32(at) = AHCI_GHC_RESET;
        } else {
            at = (PORT_REG32(config + PCI_BAR0) & ~0xfu) + OHCI_COMMAND_STATUS;
            PORT_REG32(at) = OHCI_RESET;
        }
        // A controller that takes longer than a second is hung.
        uint64_t end = port_mtime() + MACH_TIMEBASE_HZ;
        while (PORT_REG32(at) & 1 && port_mtime() < end) {
        }
    }
}

// QEMU exits with status 1.
static inline void mach_fail(void) {
    FINISHER = 1 << 16 | 0x3333;
}
