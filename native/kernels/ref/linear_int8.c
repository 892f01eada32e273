/* Linear layers over integer formats (native/quantized.h). For each group of 32 steps of k the
 * products are summed exactly, in integers; then
 *
 *     q8:  sum += scale_w * (scale_x * integers)
 *     q4:  sum += scale_w * (scale_x * integers);  sum -= offset_w * (scale_x * sum of x's integers)
 *
 * with fused multiply-adds, group by group in order. If x has two parts (x and its remainder), each
 * group of x is followed by the same group of the remainder. Other instruction sets perform exactly
 * these operations, so they give the same bits. */
#include <math.h>
#include <string.h>

#include "quantized.h"
#include "ref.h"

static gpt2c_int8_scale round_group(int8_t *q, int32_t *sum, const float *x, size_t n) {
    uint32_t largest = 0;
    for (size_t k = 0; k < n; k++) {
        const uint32_t bits = gpt2c_bits_of(x[k]) & 0x7fffffffu;
        if (bits > largest) largest = bits;
    }
    const gpt2c_int8_scale s = gpt2c_int8_scale_of(largest);
    memset(q, 0, GPT2C_GROUP);
    *sum = 0;
    for (size_t k = 0; k < n && s.inverse > 0.0f; k++) {
        q[k] = (int8_t)gpt2c_to_integer(x[k] * s.inverse);
        *sum += q[k];
    }
    return s;
}

void gpt2c_pack_int8_ref(void *out, const float *x, size_t rows, size_t n_in) {
    gpt2c_pack_int8(out, x, rows, n_in, round_group);
}

/* Returns sum plus group g of column c. */
typedef float add_function(float sum, const gpt2c_matrix *w, const gpt2c_int8_group *x, size_t g, size_t c);

static float add_q8(float sum, const gpt2c_matrix *w, const gpt2c_int8_group *x, size_t g, size_t c) {
    const gpt2c_q8_block *block = gpt2c_q8_panel(w, c) + g / 2;
    const size_t lane = c % GPT2C_PANEL;
    int32_t integers = 0;
    for (size_t k = 0; k < GPT2C_GROUP; k++)
        integers += x->q[k] * gpt2c_q8_integer(block, g * GPT2C_GROUP + k, lane);
    return fmaf(gpt2c_bf16_to_f32(block->scale[lane]), x->scale * (float)integers, sum);
}

static float add_q4(float sum, const gpt2c_matrix *w, const gpt2c_int8_group *x, size_t g, size_t c) {
    const gpt2c_q4_block *block = gpt2c_q4_panel(w, c) + g;
    const gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, c);
    const size_t lane = c % GPT2C_PANEL;
    const float scale = columns->scale[lane] * (float)block->scale[lane];
    const float offset = columns->offset[lane] * (float)block->offset[lane];
    int32_t integers = 0;
    for (size_t k = 0; k < GPT2C_GROUP; k++) integers += x->q[k] * gpt2c_q4_integer(block, k, lane);
    sum = fmaf(scale, x->scale * (float)integers, sum);
    return fmaf(-offset, x->scaled_sum, sum);
}

static void linear_int8(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, size_t groups,
                        add_function *add) {
    const gpt2c_matrix *w = args->w;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const gpt2c_int8_group *x = gpt2c_int8_row_at(args->packed_x, r, w->n_in);
        const gpt2c_int8_group *remainder =
            args->packed_remainder == NULL ? NULL : gpt2c_int8_row_at(args->packed_remainder, r, w->n_in);
        for (size_t c = columns.begin; c < columns.end; c++) {
            float sum = 0.0f;
            for (size_t g = 0; g < groups; g++) {
                sum = add(sum, w, &x[g], g, c);
                if (remainder != NULL) sum = add(sum, w, &remainder[g], g, c);
            }
            args->out[r * w->n_out + c] = sum;
        }
        gpt2c_finish_row_ref(args, r, columns);
    }
}

void gpt2c_linear_q8_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    linear_int8(args, rows, columns, gpt2c_int8_groups(args->w->n_in), add_q8);
}

void gpt2c_linear_q4_ref(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    linear_int8(args, rows, columns, gpt2c_q4_blocks(args->w->n_in), add_q4);
}
