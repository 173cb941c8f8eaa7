// Our part of the module `machine` (included by extmod/modmachine.c).

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

#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    { MP_ROM_QSTR(MP_QSTR_retained), MP_ROM_PTR(&machine_retained_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_PWRON_RESET), MP_ROM_INT(PORT_PWRON_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_HARD_RESET), MP_ROM_INT(PORT_HARD_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_WDT_RESET), MP_ROM_INT(PORT_WDT_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_SOFT_RESET), MP_ROM_INT(PORT_SOFT_RESET) },
