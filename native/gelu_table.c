#include "gelu_table.h"

#include "half.h"
#include "kernels/ref/ref.h"

/* Always uses the reference kernel, so that every instruction set has the same table. */
gpt2c_status gpt2c_gelu_table_fill(uint16_t *table) {
    if (table == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    for (uint32_t h = 0; h < GPT2C_GELU_TABLE_SIZE; h++) {
        float value = gpt2c_f16_to_f32((uint16_t)h);
        gpt2c_gelu_ref(&value, &value, 1);
        table[h] = gpt2c_f32_to_f16(value);
    }
    return GPT2C_STATUS_OK;
}
