/* One row times q8 or q4: the weights are read once, at memory speed, up to four panels at a time,
 * each as one stream. Where x has two parts (x and its remainder), both are multiplied with the
 * weights while these are in registers. */
#include "int8_avx512_vnni.h"

#define MAX_PANELS 4
#define MAX_VECTORS (2 * MAX_PANELS)

/* All arguments but args, row and columns are constants at every call, so that all loops over them
 * are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_columns(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                            const size_t panels, const size_t parts, const int q4) {
    const size_t n_in = args->w->n_in, vectors = 2 * panels;
    const size_t groups = q4 ? gpt2c_q4_blocks(n_in) : gpt2c_int8_groups(n_in);
    const gpt2c_q8_block *q8_panel = gpt2c_q8_panel(args->w, columns.begin);
    const gpt2c_q4_block *q4_panel = gpt2c_q4_panel(args->w, columns.begin);
    const gpt2c_q4_columns *factors = q4 ? gpt2c_q4_columns_of(args->w, columns.begin) : NULL;
    const gpt2c_int8_group *x[2] = {gpt2c_int8_row_at(args->packed_x, row, n_in), NULL};
    if (parts == 2) x[1] = gpt2c_int8_row_at(args->packed_remainder, row, n_in);
    __m512 sums[MAX_VECTORS];
    __m512i integers[2][MAX_VECTORS];

    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) sums[v] = _mm512_setzero_ps();
    for (size_t g = 0; g < groups; g++) {
        const gpt2c_q8_block *q8[MAX_PANELS];
        const gpt2c_q4_block *q4s[MAX_PANELS];
        GPT2C_UNROLL(4)
        for (size_t p = 0; p < panels; p++) {
            q8[p] = q8_panel + p * gpt2c_q8_blocks(n_in) + g / 2;
            q4s[p] = q4_panel + p * gpt2c_q4_blocks(n_in) + g;
        }
        GPT2C_UNROLL(2)
        for (size_t i = 0; i < parts; i++) {
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                integers[i][v] = q4 ? _mm512_setzero_si512() : _mm512_set1_epi32(x[i][g].correction);
        }
        GPT2C_UNROLL(8)
        for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += q4 ? 2 : 1) {
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) {
                gpt2c_q4_quads two;
                if (q4)
                    two = gpt2c_q4_two_quads(q4s[v / 2], quad, v % 2);
                else
                    two.w[0] = gpt2c_q8_quad(q8[v / 2], g, quad, v % 2);
                GPT2C_UNROLL(2)
                for (size_t i = 0; i < parts; i++) {
                    const __m512i first = _mm512_set1_epi32(*gpt2c_quad_of(&x[i][g], quad));
                    integers[i][v] = gpt2c_add_dots(integers[i][v], two.w[0], first);
                    if (!q4) continue;
                    const __m512i second = _mm512_set1_epi32(*gpt2c_quad_of(&x[i][g], quad + 1));
                    integers[i][v] = gpt2c_add_dots(integers[i][v], two.w[1], second);
                }
            }
        }
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const gpt2c_q4_block *block = q4s[v / 2];
            const __m512 scale = q4 ? gpt2c_q4_scales(factors[v / 2].scale, block->scale, v % 2)
                                    : gpt2c_q8_scales(q8[v / 2], v % 2);
            GPT2C_UNROLL(2)
            for (size_t i = 0; i < parts; i++) {
                const __m512 dots = _mm512_cvtepi32_ps(integers[i][v]);
                sums[v] = _mm512_fmadd_ps(scale, _mm512_mul_ps(_mm512_set1_ps(x[i][g].scale), dots), sums[v]);
                if (!q4) continue;
                const __m512 offset = gpt2c_q4_scales(factors[v / 2].offset, block->offset, v % 2);
                sums[v] = _mm512_fnmadd_ps(offset, _mm512_set1_ps(x[i][g].scaled_sum), sums[v]);
            }
        }
    }

    float *out = args->out + row * args->w->n_out;
    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) {
        const size_t c = columns.begin + v * GPT2C_LANES;
        if (c < columns.end) gpt2c_store(out + c, columns.end - c, sums[v]);
    }
}

static GPT2C_ALWAYS_INLINE void sum_panels(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                           const size_t panels) {
    const int q4 = gpt2c_is_q4(args->w), has_remainder = args->packed_remainder != NULL;
    if (q4 && has_remainder)
        sum_columns(args, row, columns, panels, 2, 1);
    else if (q4)
        sum_columns(args, row, columns, panels, 1, 1);
    else if (has_remainder)
        sum_columns(args, row, columns, panels, 2, 0);
    else
        sum_columns(args, row, columns, panels, 1, 0);
}

void gpt2c_linear_int8_one_row(const gpt2c_linear_args *args, size_t row, gpt2c_span columns) {
    const size_t width = MAX_PANELS * GPT2C_PANEL;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span part = {c, c + width < columns.end ? c + width : columns.end};
        switch (gpt2c_panels(part.end - part.begin)) {
        case 1: sum_panels(args, row, part, 1); break;
        case 2: sum_panels(args, row, part, 2); break;
        case 3: sum_panels(args, row, part, 3); break;
        default: sum_panels(args, row, part, 4); break;
        }
        gpt2c_finish_row_avx512(args, row, part, args->out + row * args->w->n_out + part.begin);
    }
}
