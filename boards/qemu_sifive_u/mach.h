// QEMU `sifive_u`; what each function must do stands in ../port/port.h.

#include <stdbool.h>
#include <stdint.h>

#include "port.h"

#define MACH_TIMEBASE_HZ (1000000)
#define MACH_UART_IRQ (4)

// SiFive UART 0
#define UART_TXDATA PORT_REG32(0x10010000)
#define UART_RXDATA PORT_REG32(0x10010004)
#define UART_TXCTRL PORT_REG32(0x10010008)
#define UART_RXCTRL PORT_REG32(0x1001000c)
#define UART_IE PORT_REG32(0x10010010)
#define UART_TX_FULL (1u << 31)
#define UART_RX_EMPTY (1u << 31)

static inline void mach_uart_init(void) {
    UART_TXCTRL = 1;
    // Interrupt when more than 0 bytes have come.
    UART_RXCTRL = 1;
    UART_IE = 1 << 1;
}

static inline int mach_uart_rx(void) {
    uint32_t data = UART_RXDATA;
    return data & UART_RX_EMPTY ? -1 : (int)(data & 0xff);
}

// QEMU never says full: what its host end has no room for is lost.
static inline bool mach_uart_tx(uint8_t byte) {
    if (UART_TXDATA & UART_TX_FULL) {
        return false;
    }
    UART_TXDATA = byte;
    return true;
}

// No real-time clock: 1970 begins with every reset.
static inline uint64_t mach_time_ns(void) {
    return port_mtime() * (1000000000 / MACH_TIMEBASE_HZ);
}

// Pin 10 of the GPIO block is the board's reset line, active low.
#define GPIO_OUTPUT_EN PORT_REG32(0x10060008)
#define GPIO_OUTPUT_VAL PORT_REG32(0x1006000c)
#define GPIO_RESTART (1u << 10)

static inline void mach_reset(void) {
    GPIO_OUTPUT_VAL &= ~GPIO_RESTART;
    GPIO_OUTPUT_EN |= GPIO_RESTART;
}

// Nothing here switches the machine off.
static inline void mach_fail(void) {
}
