// Start, soft reset loop, and the ways out when something is badly wrong.

#include <stdio.h>
#include <string.h>

#include "py/cstack.h"
#include "py/gc.h"
#include "py/mphal.h"
#include "py/runtime.h"
#include "shared/runtime/gchelper.h"
#include "shared/runtime/pyexec.h"
#include "mach.h"
#include "port.h"

// Set by the linker script.
extern char _sstack, _estack, _sheap, _eheap;

static mp_obj_t pystack[16 * 1024 / sizeof(mp_obj_t)];

// What RAM holds after power-on is anybody's guess, but not this.
#define WARM_MAGIC (UINT64_C(0x6c69666562617421))

static uint64_t warm __attribute__((section(".noinit")));
uint8_t port_retained[PORT_RETAINED_SIZE] __attribute__((section(".noinit"), aligned(8)));

#ifdef MACH_DMA_SIZE
uint32_t port_dma[MACH_DMA_SIZE / 4] __attribute__((section(".dma"), aligned(1024)));
#endif

// Not cleared by a soft reset: what an answer opened stays open until the board is reset.
static port_console_t console = PORT_CONSOLE_UNDECIDED;

static unsigned reset_cause;

unsigned port_reset_cause(void) {
    return reset_cause;
}

// Whether Ctrl-C came since main.py began: its end is no crash then.
static bool interrupted;

void port_console_interrupted(void) {
    interrupted = true;
}

bool port_console_is_open(void) {
    return console == PORT_CONSOLE_OPEN;
}

void port_console_open(void) {
    console = PORT_CONSOLE_OPEN;
}

void port_console_lock(void) {
    if (console == PORT_CONSOLE_UNDECIDED) {
        console = PORT_CONSOLE_LOCKED;
    }
}

void port_reset(void) {
    mach_reset();
    for (;;) {
        __asm volatile ("wfi");
    }
}

// One life of the interpreter. _boot.py is lifeboat itself, so Ctrl-C does not reach it;
// main.py is the verified code's. A host that resets from raw mode (mpremote) wants the
// board for itself: then main.py is left out, as on every MicroPython board.
//
// _console.py says whether the console is open. Until it does there is no REPL of any kind and
// no Ctrl-C; where it is locked _lock.py waits for a signed answer.
static void run(void) {
    pyexec_frozen_module("_boot.py", false);
    pyexec_frozen_module("_console.py", false);
    if (pyexec_mode_kind == PYEXEC_MODE_FRIENDLY_REPL) {
        interrupted = false;
        int ret = pyexec_file_if_exists("main.py");
        if (ret & PYEXEC_FORCED_EXIT) {
            return;
        }
        if (ret == 0 && !interrupted) {
            pyexec_frozen_module("_crash.py", false);
        }
    }
    while (console != PORT_CONSOLE_OPEN) {
        pyexec_frozen_module(console == PORT_CONSOLE_LOCKED ? "_lock.py" : "_console.py", false);
        mp_hal_delay_ms(1000); // it ends only with an exception
    }
    int ret;
    do {
        ret = pyexec_mode_kind == PYEXEC_MODE_RAW_REPL ? pyexec_raw_repl() : pyexec_friendly_repl();
    } while (!(ret & PYEXEC_FORCED_EXIT));
}

int main(void) {
    if (warm == WARM_MAGIC) {
        reset_cause = PORT_HARD_RESET;
    } else {
        reset_cause = PORT_PWRON_RESET;
        memset(port_retained, 0, sizeof(port_retained));
        warm = WARM_MAGIC;
    }
    port_console_init();
    mp_cstack_init_with_top(&_estack, &_estack - &_sstack);
    for (;;) {
        gc_init(&_sheap, &_eheap);
        mp_pystack_init(pystack, pystack + MP_ARRAY_SIZE(pystack));
        mp_init();
        run();
        mp_hal_stdout_tx_str("MPY: soft reboot\r\n");
        gc_sweep_all();
        mp_deinit();
        #ifdef MACH_DMA_SIZE
        // Buffers of disk commands lie on the heap, which now is used anew. Not left to Python,
        // which may have ended in any state; and not sooner: finalisers write files.
        mach_stop_dma();
        #endif
        reset_cause = PORT_SOFT_RESET;
    }
}

void gc_collect(void) {
    gc_collect_start();
    gc_helper_collect_regs_and_stack();
    gc_collect_end();
}

void port_panic(const char *what) {
    mp_printf(&mp_plat_print, "\nPANIC: %s\n", what);
    mach_fail();
    for (;;) {
        __asm volatile ("wfi");
    }
}

// Called by the trap vector.
void port_trap(uint32_t mcause, uint32_t mepc, uint32_t mtval) {
    mp_printf(&mp_plat_print, "\nTRAP mcause=%x mepc=%x mtval=%x", mcause, mepc, mtval);
    port_panic("trap");
}

void nlr_jump_fail(void *val) {
    port_panic("exception without a handler");
}

// picolibc's string functions refer to it, though nothing here prints through it.
FILE *const stdout;
