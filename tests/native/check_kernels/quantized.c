/* The operands of q8 and q4, rounded as native/quantized.h specifies, recomputed in double. */
#include "quantized.h"

#include "check.h"

/* Without fmax: GCC 12 for aarch64 stops with an internal error when it vectorizes fmax. */
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

/* Rounds up to a bfloat16, which has eight significant bits. */
static double to_bf16_upwards(double x) {
    const double unit = ldexp(1.0, ilogb(x) - 7);
    return ceil(x / unit) * unit;
}

/* From the rule alone, without reading the matrix. */
static void round_q8(operand *stored, const float *w, size_t n_in, size_t n_out) {
    for (size_t c = 0; c < n_out; c++) {
        for (size_t begin = 0; begin < n_in; begin += 64) {
            const size_t end = n_in - begin < 64 ? n_in : begin + 64;
            const double largest = largest_of(w + begin * n_out + c, end - begin, n_out);
            const double scale = largest > 0.0 ? to_bf16_upwards((double)(float)(largest / 127.0)) : 1.0;
            for (size_t k = begin; k < end; k++) {
                const double value = scale * rint((double)(float)((double)w[k * n_out + c] / scale));
                stored[k * n_out + c] = (operand){value, fabs(value)};
            }
        }
    }
}

/* The best fit follows no simple rule, so integers and scales are read from the matrix, in its
 * documented layout. */
static void read_q4(operand *stored, const gpt2c_matrix *matrix) {
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
            stored[k * n_out + c] = (operand){above - (double)offset, above + (double)offset};
        }
    }
}

operand *new_operands(const float *w, const gpt2c_matrix *matrix) {
    const size_t n = matrix->n_in * matrix->n_out;
    operand *stored = allocate(n, sizeof *stored);
    for (size_t i = 0; i < n; i++) {
        const double value = (double)(matrix->layout == GPT2C_LAYOUT_PANELS_BF16 ? to_bf16(w[i]) : w[i]);
        stored[i] = (operand){value, fabs(value)};
    }
    if (matrix->layout == GPT2C_LAYOUT_PANELS_Q8) round_q8(stored, w, matrix->n_in, matrix->n_out);
    if (matrix->layout == GPT2C_LAYOUT_PANELS_Q4) read_q4(stored, matrix);
    return stored;
}

/* The bound of formats.def: how far a stored weight may be from the original, as a fraction of its
 * column's range. */
void check_q4_roundoff(check *c, const float *w, const operand *stored, size_t n_in, size_t n_out) {
    for (size_t col = 0; col < n_out; col++) {
        double low = 0.0, high = 0.0;
        for (size_t k = 0; k < n_in; k++) {
            const double exact = (double)w[k * n_out + col];
            if (exact < low) low = exact;
            if (exact > high) high = exact;
        }
        for (size_t k = 0; k < n_in; k++) {
            const double error = fabs(stored[k * n_out + col].value - (double)w[k * n_out + col]);
            expect(c, error <= 0x1.ap-3 * (high - low), "q4 is too far off", k, col);
        }
    }
}
