#include "shared/runtime/interrupt_char.h"
