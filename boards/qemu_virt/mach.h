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

// QEMU exits with status 1.
static inline void mach_fail(void) {
    FINISHER = 1 << 16 | 0x3333;
}
