// Our part of the module `time` (included by extmod/modtime.c).

#include "py/mphal.h"
#include "shared/timeutils/timeutils.h"

static mp_obj_t mp_time_time_get(void) {
    return mp_obj_new_int_from_ull(mp_hal_time_ns() / 1000000000);
}

static mp_obj_t mp_time_localtime_get(void) {
    timeutils_struct_time_t t;
    timeutils_seconds_since_epoch_to_struct_time(mp_hal_time_ns() / 1000000000, &t);
    mp_obj_t items[8] = {
        mp_obj_new_int(t.tm_year), mp_obj_new_int(t.tm_mon), mp_obj_new_int(t.tm_mday),
        mp_obj_new_int(t.tm_hour), mp_obj_new_int(t.tm_min), mp_obj_new_int(t.tm_sec),
        mp_obj_new_int(t.tm_wday), mp_obj_new_int(t.tm_yday),
    };
    return mp_obj_new_tuple(MP_ARRAY_SIZE(items), items);
}
