// Our part of the module `machine` (included by extmod/modmachine.c).

#include "py/objarray.h"
#include "mach.h"
#include "port.h"

static void mp_machine_idle(void) {
    port_wait_ms(1);
}

__attribute__((noreturn)) static void mp_machine_reset(void) {
    port_reset();
}

static mp_int_t mp_machine_reset_cause(void) {
    return port_reset_cause();
}

// retained() -> bytearray over the memory that survives resets
static mp_obj_t machine_retained(void) {
    return mp_obj_new_bytearray_by_ref(PORT_RETAINED_SIZE, port_retained);
}
static MP_DEFINE_CONST_FUN_OBJ_0(machine_retained_obj, machine_retained);

// console_open(), console_lock(): whether the console has a REPL and Ctrl-C. Open stays open until
// the next hard reset.
static mp_obj_t machine_console_open(void) {
    port_console_open();
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(machine_console_open_obj, machine_console_open);

static mp_obj_t machine_console_lock(void) {
    port_console_lock();
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(machine_console_lock_obj, machine_console_lock);

#ifdef MACH_DMA_SIZE
// dma() -> memoryview of 32-bit words, aligned to 1024 bytes
static mp_obj_t machine_dma(void) {
    char words = 'I' | MP_OBJ_ARRAY_TYPECODE_FLAG_RW;
    return mp_obj_new_memoryview(words, MACH_DMA_SIZE / 4, port_dma);
}
static MP_DEFINE_CONST_FUN_OBJ_0(machine_dma_obj, machine_dma);
#define PORT_MACHINE_DMA { MP_ROM_QSTR(MP_QSTR_dma), MP_ROM_PTR(&machine_dma_obj) },
#else
#define PORT_MACHINE_DMA
#endif

#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    PORT_MACHINE_DMA \
    { MP_ROM_QSTR(MP_QSTR_console_open), MP_ROM_PTR(&machine_console_open_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_console_lock), MP_ROM_PTR(&machine_console_lock_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_retained), MP_ROM_PTR(&machine_retained_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_PWRON_RESET), MP_ROM_INT(PORT_PWRON_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_HARD_RESET), MP_ROM_INT(PORT_HARD_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_WDT_RESET), MP_ROM_INT(PORT_WDT_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_SOFT_RESET), MP_ROM_INT(PORT_SOFT_RESET) },
