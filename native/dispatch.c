/* The instruction sets of isa.def: their kernels, and which of them this machine can run.
 *
 * Each set's folder defines its const table, gpt2c_kernels_<name> in table.c. A set of another
 * architecture is not compiled; the table in its row is NULL. */
#include "cpu.h"
#include "gpt2c.h"
#include "kernels.h"

#define GPT2C_ISA(name, architecture, features, flags) extern const gpt2c_kernels gpt2c_kernels_##name;
#include "isa.def"
#undef GPT2C_ISA

typedef struct isa_row {
    const char *name;
    uint32_t features;
    const gpt2c_kernels *kernels;
} isa_row;

#define GPT2C_ISA(name, architecture, features, flags) \
    {#name, features, GPT2C_ON_##architecture(&gpt2c_kernels_##name, NULL)},
static const isa_row isa_rows[] = {
#include "isa.def"
};
#undef GPT2C_ISA

int32_t gpt2c_isa_count(void) { return (int32_t)(sizeof isa_rows / sizeof isa_rows[0]); }

const gpt2c_kernels *gpt2c_kernels_of(int32_t isa) {
    return isa >= 0 && isa < gpt2c_isa_count() ? isa_rows[isa].kernels : NULL;
}

gpt2c_status gpt2c_isa_get(int32_t isa, gpt2c_isa_info *info) {
    if (info == NULL || isa < 0 || isa >= gpt2c_isa_count()) return GPT2C_STATUS_INVALID_ARGUMENT;
    const isa_row *row = &isa_rows[isa];
    info->name = row->name;
    info->compiled = row->kernels != NULL;
    info->supported = info->compiled && (row->features & ~gpt2c_cpu_features()) == 0;
    return GPT2C_STATUS_OK;
}
