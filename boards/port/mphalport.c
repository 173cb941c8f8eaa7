// MicroPython's hardware abstraction: console, sleeping, time.

#include "py/mphal.h"
#include "py/ringbuf.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "shared/runtime/interrupt_char.h"
#include "shared/timeutils/timeutils.h"
#include "lib/oofatfs/ff.h"
#include "mach.h"
#include "port.h"

// SiFive's CLINT and PLIC, the same on all machines here; registers of hart 0, machine mode.
#define CLINT_MTIMECMP (0x02004000)
#define CLINT_MTIME (0x0200bff8)
#define PLIC_PRIORITY (0x0c000000)
#define PLIC_ENABLE (0x0c002000)
#define PLIC_THRESHOLD (0x0c200000)
#define PLIC_CLAIM (0x0c200004)

#define MIE_TIMER (1u << 7)
#define MIE_EXTERNAL (1u << 11)

#define TICKS_PER_MS (MACH_TIMEBASE_HZ / 1000)
#define TICKS_PER_US (MACH_TIMEBASE_HZ / 1000000)

// A sender in raw-paste mode has up to MICROPY_REPL_STDIN_BUFFER_MAX bytes under way.
static uint8_t rx_buf[2 * MICROPY_REPL_STDIN_BUFFER_MAX];
static ringbuf_t rx = { rx_buf, sizeof(rx_buf), 0, 0 };

void port_console_init(void) {
    mach_uart_init();
    PORT_REG32(PLIC_PRIORITY + 4 * MACH_UART_IRQ) = 1;
    PORT_REG32(PLIC_ENABLE) = 1u << MACH_UART_IRQ;
    PORT_REG32(PLIC_THRESHOLD) = 0;
}

bool port_poll(void) {
    bool took = false;
    // When the buffer is full the rest stays in the UART, which then holds the sender back.
    while (ringbuf_free(&rx)) {
        int c = mach_uart_rx();
        if (c < 0) {
            break;
        }
        took = true;
        if (c == mp_interrupt_char && port_console_is_open()) {
            port_console_interrupted();
            mp_sched_keyboard_interrupt();
        } else {
            ringbuf_put(&rx, c);
        }
    }
    return took;
}

uint64_t port_mtime(void) {
    uint32_t high, low;
    do {
        high = PORT_REG32(CLINT_MTIME + 4);
        low = PORT_REG32(CLINT_MTIME);
    } while (high != PORT_REG32(CLINT_MTIME + 4));
    return (uint64_t)high << 32 | low;
}

// Sleep until `wake` (in mtime ticks) or until one of the interrupts `sources` (mie bits) is
// pending. Never loop on a device register instead: in QEMU that costs a host core, and
// starves the thread that would bring the awaited input. Interrupts stay disabled in
// mstatus, wfi does not need them.
static void sleep_until(uint64_t wake, uint32_t sources) {
    PORT_REG32(CLINT_MTIMECMP + 4) = 0xffffffff;
    PORT_REG32(CLINT_MTIMECMP) = wake;
    PORT_REG32(CLINT_MTIMECMP + 4) = wake >> 32;
    __asm volatile ("csrw mie, %0 \n wfi" : : "r" (sources | MIE_TIMER));
}

void port_wait_ms(unsigned ms) {
    if (port_poll()) {
        return;
    }
    // With a full buffer the UART's interrupt stays pending, and would end every sleep.
    uint64_t wake = port_mtime() + (uint64_t)MIN(ms, 1000) * TICKS_PER_MS;
    sleep_until(wake, ringbuf_free(&rx) ? MIE_EXTERNAL : 0);
    uint32_t irq = PORT_REG32(PLIC_CLAIM);
    port_poll();
    if (irq) {
        PORT_REG32(PLIC_CLAIM) = irq;
    }
}

// ---- console ----

uintptr_t mp_hal_stdio_poll(uintptr_t flags) {
    port_poll();
    uintptr_t ready = flags & MP_STREAM_POLL_WR;
    if (ringbuf_avail(&rx)) {
        ready |= flags & MP_STREAM_POLL_RD;
    }
    return ready;
}

int mp_hal_stdin_rx_chr(void) {
    for (;;) {
        port_poll();
        int c = ringbuf_get(&rx);
        if (c >= 0) {
            return c;
        }
        mp_event_wait_indefinite();
    }
}

mp_uint_t mp_hal_stdout_tx_strn(const char *str, size_t len) {
    for (size_t i = 0; i < len; i++) {
        while (!mach_uart_tx(str[i])) {
            sleep_until(port_mtime() + TICKS_PER_MS, 0);
        }
    }
    return len;
}

// ---- time ----

// Counted on from the last call: these CPUs divide 32 bits by 32, and nothing longer. No interrupt
// comes in between, they are disabled in mstatus.
mp_uint_t mp_hal_ticks_ms(void) {
    static uint64_t counted;
    static uint32_t ms;
    uint64_t more = port_mtime() - counted;
    uint32_t more_ms = more >> 32 ? more / TICKS_PER_MS : (uint32_t)more / TICKS_PER_MS;
    counted += (uint64_t)more_ms * TICKS_PER_MS;
    ms += more_ms;
    return ms;
}

mp_uint_t mp_hal_ticks_us(void) {
    return port_mtime() / TICKS_PER_US;
}

// Clock cycles; under QEMU's -icount, exactly the instructions executed.
mp_uint_t mp_hal_ticks_cpu(void) {
    uint32_t cycles;
    __asm volatile ("csrr %0, mcycle" : "=r" (cycles));
    return cycles;
}

void mp_hal_delay_us(mp_uint_t us) {
    uint64_t wake = port_mtime() + (uint64_t)us * TICKS_PER_US;
    while (port_mtime() < wake) {
        sleep_until(wake, 0);
    }
}

void mp_hal_delay_ms(mp_uint_t ms) {
    uint64_t wake = port_mtime() + (uint64_t)ms * TICKS_PER_MS;
    uint64_t now;
    while ((now = port_mtime()) < wake) {
        mp_event_wait_ms((wake - now + TICKS_PER_MS - 1) / TICKS_PER_MS);
    }
}

uint64_t mp_hal_time_ns(void) {
    return mach_time_ns();
}

// Time stamp for files on FAT.
DWORD get_fattime(void) {
    timeutils_struct_time_t t;
    timeutils_seconds_since_epoch_to_struct_time(mp_hal_time_ns() / 1000000000, &t);
    return (MAX(t.tm_year, 1980) - 1980) << 25 | t.tm_mon << 21 | t.tm_mday << 16
           | t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec / 2;
}
