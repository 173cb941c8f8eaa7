// What the files of this port share. The machine's part is "mach.h" in the board's folder:
//
//   MACH_TIMEBASE_HZ                   rate of the CLINT's mtime
//   MACH_UART_IRQ                      the console UART's number at the PLIC
//   void mach_uart_init(void)          receive interrupt on
//   int mach_uart_rx(void)             next byte received, -1 if there is none
//   bool mach_uart_tx(uint8_t byte)    false if there is no room yet
//   uint64_t mach_time_ns(void)        wall clock, since 1970
//   void mach_reset(void)              reset the whole machine, as its reset button would
//   void mach_fail(void)               boot stage is broken: stop the machine, if it can be
//
// and, where devices access memory by themselves:
//
//   MACH_DMA_SIZE                      bytes that machine.dma() has for their drivers
//   void mach_stop_dma(void)           end all such accesses, whatever state drivers left them in
//
#ifndef LIFEBOAT_PORT_H
#define LIFEBOAT_PORT_H

#include <stdbool.h>
#include <stdint.h>

#define PORT_REG8(addr) (*(volatile uint8_t *)(uintptr_t)(addr))
#define PORT_REG32(addr) (*(volatile uint32_t *)(uintptr_t)(addr))

// Values of machine.reset_cause(), numbered as on other ports.
enum {
    PORT_PWRON_RESET = 1,
    PORT_HARD_RESET = 2,
    PORT_WDT_RESET = 3,
    PORT_SOFT_RESET = 5,
};

// Memory that survives every reset but loss of power, which clears it: machine.retained().
#define PORT_RETAINED_SIZE (2048)
extern uint8_t port_retained[PORT_RETAINED_SIZE];

// Memory for DMA that no reset clears and no heap contains: machine.dma(). Where there is DMA.
extern uint32_t port_dma[];

void port_console_init(void);

// The CLINT's clock, in ticks of 1 / MACH_TIMEBASE_HZ seconds since reset.
uint64_t port_mtime(void);

// Take what the UART has received. True if there was something.
bool port_poll(void);

// Sleep until input arrives, but not longer than `ms` (or a second: callers loop anyway).
void port_wait_ms(unsigned ms);

// Who may use the console: nobody yet, who has a signed answer, everybody.
typedef enum {
    PORT_CONSOLE_UNDECIDED,
    PORT_CONSOLE_LOCKED,
    PORT_CONSOLE_OPEN,
} port_console_t;

bool port_console_is_open(void);
void port_console_open(void);
void port_console_lock(void);
void port_console_interrupted(void);

unsigned port_reset_cause(void);
__attribute__((noreturn)) void port_reset(void);

// Report an error from which there is no way on, and stop.
__attribute__((noreturn)) void port_panic(const char *what);

#endif
