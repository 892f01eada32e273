/* Shared by the programs that run a model in C (generate.c and tests/native/sessions.c): parsing numbers on the
 * command line, finding instruction sets by name. */
#ifndef GPT2C_EXAMPLES_COMMON_H
#define GPT2C_EXAMPLES_COMMON_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gpt2c.h"

/* A whole number in [min, max]; for any other text, prints the program's usage and exits. */
static inline long example_number(const char *text, long min, long max, int (*usage)(void)) {
    char *end;
    const long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < min || value > max) exit(usage());
    return value;
}

/* The instruction set of that name, or for NULL the fastest that this machine supports; -1 if it is not
 * supported. */
static inline int32_t example_find_isa(const char *name) {
    int32_t found = -1;
    for (int32_t i = 0; i < gpt2c_isa_count(); i++) {
        gpt2c_isa_info info;
        if (gpt2c_isa_get(i, &info) != GPT2C_STATUS_OK || !info.supported) continue;
        if (name == NULL || strcmp(name, info.name) == 0) found = i;
    }
    return found;
}

#endif
