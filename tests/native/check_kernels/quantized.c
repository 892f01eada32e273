/* The operands of q8 and q4 as native/quantized.h says that they are rounded, found once more in double. */
#include "quantized.h"

#include "check.h"

/* Without fmax, over whose vectors GCC 12 breaks for aarch64. */
static double largest_of(const float *x, size_t n, size_t stride) {
    double largest = 0.0;
    for (size_t k = 0; k < n; k++)
        if (fabs((double)x[k * stride]) > largest) largest = fabs((double)x[k * stride]);
    return largest;
}

void round_int8(double *rounded, const float *x, size_t n) {
    for (size_t begin = 0; begin < n; begin += 32) {
        const size_t end = n - begin < 32 ? n : begin + 32;
        const double largest = largest_of(x + begin, end - begin, 1);
        const float scale = (float)(largest / 127.0), inverse = (float)(127.0 / largest);
        for (size_t k = begin; k < end; k++)
            rounded[k] = (double)scale * rint((double)(float)((double)x[k] * (double)inverse));
    }
}

/* The bfloat16 that is not smaller: eight binary digits. */
static double to_bf16_upwards(double x) {
    const double unit = ldexp(1.0, ilogb(x) - 7);
    return ceil(x / unit) * unit;
}

/* By the rule alone, without a look at the matrix. */
static void keep_q8(operand *kept, const float *w, size_t n_in, size_t n_out) {
    for (size_t c = 0; c < n_out; c++) {
        for (size_t begin = 0; begin < n_in; begin += 64) {
            const size_t end = n_in - begin < 64 ? n_in : begin + 64;
            const double largest = largest_of(w + begin * n_out + c, end - begin, n_out);
            const double scale = largest > 0.0 ? to_bf16_upwards((double)(float)(largest / 127.0)) : 1.0;
            for (size_t k = begin; k < end; k++) {
                const double value = scale * rint((double)(float)((double)w[k * n_out + c] / scale));
                kept[k * n_out + c] = (operand){value, fabs(value)};
            }
        }
    }
}

/* What was fitted best is no simple rule: read from where it is said to lie. */
static void keep_q4(operand *kept, const gpt2c_matrix *matrix) {
    const size_t n_in = matrix->n_in, n_out = matrix->n_out, n_blocks = (n_in + 31) / 32;
    const gpt2c_q4_block *blocks = matrix->data;
    const gpt2c_q4_columns *columns = (const void *)(blocks + (n_out + 31) / 32 * n_blocks);
    for (size_t k = 0; k < n_in; k++) {
        for (size_t c = 0; c < n_out; c++) {
            const gpt2c_q4_block *block = &blocks[c / 32 * n_blocks + k / 32];
            const unsigned byte = block->q[k % 32 / 8][c % 32][k % 4];
            const float scale = columns[c / 32].scale[c % 32] * (float)block->scale[c % 32];
            const float offset = columns[c / 32].offset[c % 32] * (float)block->offset[c % 32];
            const double above = (double)scale * (double)(k % 8 < 4 ? byte % 16 : byte / 16);
            kept[k * n_out + c] = (operand){above - (double)offset, above + (double)offset};
        }
    }
}

operand *new_operands(const float *w, const gpt2c_matrix *matrix) {
    const size_t n = matrix->n_in * matrix->n_out;
    operand *kept = allocate(n, sizeof *kept);
    for (size_t i = 0; i < n; i++) {
        const double value = (double)(matrix->layout == GPT2C_LAYOUT_PANELS_BF16 ? to_bf16(w[i]) : w[i]);
        kept[i] = (operand){value, fabs(value)};
    }
    if (matrix->layout == GPT2C_LAYOUT_PANELS_Q8) keep_q8(kept, w, matrix->n_in, matrix->n_out);
    if (matrix->layout == GPT2C_LAYOUT_PANELS_Q4) keep_q4(kept, matrix);
    return kept;
}

/* Of formats.def: how far a weight may be from what is kept, in parts of its column's range. */
void check_kept_q4(check *c, const float *w, const operand *kept, size_t n_in, size_t n_out) {
    for (size_t col = 0; col < n_out; col++) {
        double low = 0.0, high = 0.0;
        for (size_t k = 0; k < n_in; k++) {
            const double exact = (double)w[k * n_out + col];
            if (exact < low) low = exact;
            if (exact > high) high = exact;
        }
        for (size_t k = 0; k < n_in; k++) {
            const double error = fabs(kept[k * n_out + col].value - (double)w[k * n_out + col]);
            expect(c, error <= 0x1.ap-3 * (high - low), "q4 is too far off", k, col);
        }
    }
}
