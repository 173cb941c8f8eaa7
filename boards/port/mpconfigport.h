// MicroPython's configuration, common to all boards. The feature level already has asyncio,
// select, deflate, hashlib, binascii, json, uctypes and more; here stands what differs.

#include <alloca.h>
#include <stddef.h>
#include <stdint.h>

#include "mpconfigboard.h"

#define MICROPY_CONFIG_ROM_LEVEL (MICROPY_CONFIG_ROM_LEVEL_EXTRA_FEATURES)

// Core
#define MICROPY_EMIT_RV32 (1)
#define MICROPY_EMIT_INLINE_RV32 (1)
#define MICROPY_PERSISTENT_CODE_LOAD (1)
#define MICROPY_ENABLE_GC (1)
// Calls keep what they need on a stack of their own. Else it is taken from the heap and given back
// at each call, which is a search for free memory each time, and leaves holes.
#define MICROPY_ENABLE_PYSTACK (1)
#define MICROPY_ENABLE_EMERGENCY_EXCEPTION_BUF (1)
#define MICROPY_EMERGENCY_EXCEPTION_BUF_SIZE (256)
#define MICROPY_STACK_CHECK_MARGIN (2048)
#define MICROPY_OPT_COMPUTED_GOTO (1)
#define MICROPY_LONGINT_IMPL (MICROPY_LONGINT_IMPL_MPZ)
#define MICROPY_FLOAT_IMPL (MICROPY_FLOAT_IMPL_FLOAT)
#define MICROPY_PY_SYS_PLATFORM "lifeboat"

// Raw paste mode offers half of this at a time: what makes uploads fast.
#define MICROPY_REPL_STDIN_BUFFER_MAX (4096)

// Files
#define MICROPY_VFS (1)
#define MICROPY_READER_VFS (1)
#define MICROPY_VFS_ROM (1)
// The ROM partition is lifeboat's to find and mount, once it has verified it.
#define MICROPY_VFS_ROM_IOCTL (0)
#define MICROPY_FATFS_ENABLE_LFN (1)
#define MICROPY_FATFS_LFN_CODE_PAGE 437
#define MICROPY_FATFS_USE_LABEL (1)
#define MICROPY_FATFS_RPATH (2)

// Modules
#define MICROPY_EPOCH_IS_1970 (1)
#define MICROPY_PY_TIME_TIME_TIME_NS (1)
#define MICROPY_PY_TIME_GMTIME_LOCALTIME_MKTIME (1)
#define MICROPY_PY_TIME_INCLUDEFILE "port_time.h"
#define MICROPY_PY_DEFLATE_COMPRESS (1)
#define MICROPY_PY_MACHINE (1)
#define MICROPY_PY_MACHINE_INCLUDEFILE "port_machine.h"
#define MICROPY_PY_MACHINE_RESET (1)
#define MICROPY_PY_MACHINE_PIN_BASE (0)
#define MICROPY_PY_MACHINE_SIGNAL (0)
#define MICROPY_PY_MACHINE_PULSE (0)

// select, asyncio and sleep wait with these.
#define MICROPY_INTERNAL_EVENT_HOOK port_poll()
#define MICROPY_INTERNAL_WFE(TIMEOUT_MS) port_wait_ms(TIMEOUT_MS)

// Nothing interrupts bytecode: look for Ctrl-C now and then, at one of 256 jumps.
#define MICROPY_VM_HOOK_COUNT (256)
#define MICROPY_VM_HOOK_INIT static unsigned vm_hook_left = MICROPY_VM_HOOK_COUNT;
#define MICROPY_VM_HOOK_LOOP \
    if (--vm_hook_left == 0) { \
        vm_hook_left = MICROPY_VM_HOOK_COUNT; \
        port_poll(); \
    }
#define MICROPY_VM_HOOK_RETURN MICROPY_VM_HOOK_LOOP

// Types
#define MP_SSIZE_MAX (0x7fffffff)
#define UINT_FMT "%lu"
#define INT_FMT "%ld"
#define HEX_FMT "%lx"
typedef int32_t mp_int_t;
typedef uint32_t mp_uint_t;
typedef long mp_off_t;
#define MP_NEED_LOG2 (1)
#define MP_STATE_PORT MP_STATE_VM

#include "port.h"
