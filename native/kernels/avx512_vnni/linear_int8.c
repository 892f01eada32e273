/* Linear layers over q8 and q4 by VPDPBUSD: for each of 16 columns four products of an unsigned and a
 * signed byte, added up in 32 bits, four times the arithmetic of an FMA. The unsigned bytes are the
 * weights: those of q4 are so; q8 takes w + 128, and -128 times the sum of x makes up for it.
 *
 * Registers for 6 rows: 12 sums in float32, 12 in integers, 2 of weights, 2 to 4 of scales. Behind each
 * group of 32 steps the integers are scaled and added: 3 operations (q4: 4) behind 8 dot products. A
 * panel is walked in pieces that stay in L1 while all rows pass by; sums wait in the output meanwhile. */
#include <immintrin.h>

#include "avx512_vnni.h"
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"
#include "kernels/tiled/tile.h"
#include "quantized.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define MOST_ROWS 6
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)

/* Groups in a piece of a panel: 26 KB of q8. */
#define PIECE_GROUPS 24

/* Some rows of some columns, and the groups of k that are added to what out holds. */
typedef struct tile {
    float *out;
    size_t n_out;
    const gpt2c_matrix *w;
    const char *x;      /* prepared rows */
    const char *x_rest; /* NULL, or the same of their rest */
    size_t column;
    size_t columns;
    gpt2c_span groups;
    int resume; /* 0: out holds nothing yet */
} tile;

/* sums += the dot products of four bytes in each lane. By hand, because GCC 12 copies the sums to and fro
 * around its intrinsic, which halves the speed of the loop. */
static ALWAYS_INLINE __m512i add_dots(__m512i sums, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}

/* One column register's weights of a quad or two. */
static ALWAYS_INLINE __m512i q8_quad(const gpt2c_q8_block *block, size_t group, size_t quad, size_t v) {
    return _mm512_xor_si512(_mm512_load_si512(block->q[group % 2][quad][v % 2 * GPT2C_LANES]),
                            _mm512_set1_epi8(-128));
}

static ALWAYS_INLINE __m512 q8_scale(const gpt2c_q8_block *block, size_t v) {
    const __m256i halves = _mm256_load_si256((const __m256i *)(block->scale + v % 2 * GPT2C_LANES));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* largest * a byte, for 16 columns. */
static ALWAYS_INLINE __m512 q4_scale(const float *largest, const uint8_t *steps, size_t v) {
    const __m128i bytes = _mm_load_si128((const __m128i *)(steps + v % 2 * GPT2C_LANES));
    return _mm512_mul_ps(_mm512_load_ps(largest + v % 2 * GPT2C_LANES),
                         _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
}

/* Row r of x; where there are two parts, the second half of the rows is the rest of the first. */
static ALWAYS_INLINE gpt2c_int8_row x_row(const tile *t, size_t r, const size_t rows, const size_t parts) {
    const size_t half = rows / parts, n_in = t->w->n_in;
    return r < half ? gpt2c_int8_row_at(t->x, r, n_in) : gpt2c_int8_row_at(t->x_rest, r - half, n_in);
}

/* All but `t` are constants wherever this is used, so all loops over them vanish. */
static ALWAYS_INLINE void add_groups(const tile *t, const size_t rows, const size_t vectors, const int q4,
                                     const size_t parts) {
    const size_t n_in = t->w->n_in;
    const gpt2c_q8_block *q8 = gpt2c_q8_panel(t->w, t->column);
    const gpt2c_q4_block *q4s = gpt2c_q4_panel(t->w, t->column);
    const size_t q8_panel = gpt2c_q8_blocks(n_in), q4_panel = gpt2c_q4_blocks(n_in);
    const gpt2c_q4_columns *largest = q4 ? gpt2c_q4_columns_of(t->w, t->column) : NULL;
    const __m512i low = _mm512_set1_epi8(15);
    __m512 sums[MOST_ROWS][8];
    __m512i integers[MOST_ROWS][8];
    __mmask16 lanes[8];
    float *out = t->out;
    const size_t n_out = t->n_out;

    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++)
        lanes[v] = gpt2c_lanes(t->columns > v * GPT2C_LANES ? t->columns - v * GPT2C_LANES : 0);
    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++)
        sums[r][v] = t->resume ? _mm512_maskz_loadu_ps(lanes[v], out + r * n_out + v * GPT2C_LANES)
                               : _mm512_setzero_ps();

    for (size_t g = t->groups.begin; g < t->groups.end; g++) {
        const gpt2c_q8_block *q8_block = q8 + g / 2;
        const gpt2c_q4_block *q4_block = q4s + g;
        GPT2C_UNROLL(6)
        for (size_t r = 0; r < rows; r++) {
            const int32_t *offset = x_row(t, r, rows, parts).offset + g;
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                integers[r][v] = q4 ? _mm512_setzero_si512() : _mm512_set1_epi32(*offset);
        }
        GPT2C_UNROLL(8)
        for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += q4 ? 2 : 1) {
            __m512i w[8], upper[8];
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) {
                if (q4) {
                    const __m512i both =
                        _mm512_load_si512(q4_block[v / 2 * q4_panel].q[quad / 2][v % 2 * GPT2C_LANES]);
                    w[v] = _mm512_and_si512(both, low);
                    upper[v] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
                } else {
                    w[v] = q8_quad(q8_block + v / 2 * q8_panel, g, quad, v);
                }
            }
            GPT2C_UNROLL(6)
            for (size_t r = 0; r < rows; r++) {
                const int32_t *x_quads =
                    (const int32_t *)(x_row(t, r, rows, parts).q + g * GPT2C_GROUP) + quad;
                const __m512i first = _mm512_set1_epi32(x_quads[0]);
                GPT2C_UNROLL(8)
                for (size_t v = 0; v < vectors; v++)
                    integers[r][v] = add_dots(integers[r][v], w[v], first);
                if (!q4) continue;
                const __m512i second = _mm512_set1_epi32(x_quads[1]);
                GPT2C_UNROLL(8)
                for (size_t v = 0; v < vectors; v++)
                    integers[r][v] = add_dots(integers[r][v], upper[v], second);
            }
        }
        __m512 scale[8], least[8];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            if (q4) {
                const gpt2c_q4_block *block = q4_block + v / 2 * q4_panel;
                scale[v] = q4_scale(largest[v / 2].scale, block->scale, v);
                least[v] = q4_scale(largest[v / 2].least, block->least, v);
            } else {
                scale[v] = q8_scale(q8_block + v / 2 * q8_panel, v);
            }
        }
        GPT2C_UNROLL(6)
        for (size_t r = 0; r < rows; r++) {
            const gpt2c_int8_row x = x_row(t, r, rows, parts);
            const __m512 x_scale = _mm512_set1_ps(x.scale[g]), x_sum = _mm512_set1_ps(x.scaled_sum[g]);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) {
                const __m512 scaled = _mm512_mul_ps(x_scale, _mm512_cvtepi32_ps(integers[r][v]));
                sums[r][v] = _mm512_fmadd_ps(scale[v], scaled, sums[r][v]);
                if (q4) sums[r][v] = _mm512_fnmadd_ps(least[v], x_sum, sums[r][v]);
            }
        }
    }

    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows / parts; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const __m512 sum = parts == 2 ? _mm512_add_ps(sums[r][v], sums[rows / 2 + r][v]) : sums[r][v];
            _mm512_mask_storeu_ps(out + r * n_out + v * GPT2C_LANES, lanes[v], sum);
        }
    }
}

/* One row of up to four panels, which are as many streams. */
static ALWAYS_INLINE void add_wide(const tile *t, size_t panels, const int q4) {
    switch (panels) {
    case 1: add_groups(t, 1, 2, q4, 1); break;
    case 2: add_groups(t, 1, 4, q4, 1); break;
    case 3: add_groups(t, 1, 6, q4, 1); break;
    default: add_groups(t, 1, 8, q4, 1); break;
    }
}

static ALWAYS_INLINE void add_rows(const tile *t, size_t rows, const int q4) {
    switch (rows) {
#define GPT2C_ROWS(N) \
    case N: add_groups(t, N, 2, q4, 1); break;
        EACH_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
    default: break;
    }
}

/* Rows whose rest is added: half as many. */
static ALWAYS_INLINE void add_rows_and_rest(const tile *t, size_t rows, const int q4) {
    switch (rows) {
    case 1: add_groups(t, 2, 2, q4, 2); break;
    case 2: add_groups(t, 4, 2, q4, 2); break;
    default: add_groups(t, 6, 2, q4, 2); break;
    }
}

static ALWAYS_INLINE void add_tile(const tile *t, size_t rows, const int q4) {
    const size_t panels = gpt2c_panels(t->columns);
    if (t->x_rest != NULL && panels == 2)
        add_groups(t, 2, 4, q4, 2);
    else if (t->x_rest != NULL)
        add_rows_and_rest(t, rows, q4);
    else if (rows == 1)
        add_wide(t, panels, q4);
    else
        add_rows(t, rows, q4);
}

static ALWAYS_INLINE const char *row_of(const void *prepared, size_t row, size_t n_in) {
    return prepared == NULL ? NULL : (const char *)prepared + row * gpt2c_prepared_bytes(n_in);
}

/* Some panels of all rows, over some groups. */
static ALWAYS_INLINE void add_piece(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                    gpt2c_span groups, const int q4) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out, n = rows.end - rows.begin;
    const size_t most = args->prepared_rest != NULL ? MOST_ROWS / 2 : MOST_ROWS;
    const size_t tiles = (n + most - 1) / most;
    for (size_t i = 0; i < tiles; i++) {
        const gpt2c_span part = gpt2c_share(n, tiles, i);
        const size_t row = rows.begin + part.begin;
        const tile t = {
            .out = args->out + row * n_out + columns.begin,
            .n_out = n_out,
            .w = args->w,
            .x = row_of(args->prepared, row, n_in),
            .x_rest = row_of(args->prepared_rest, row, n_in),
            .column = columns.begin,
            .columns = columns.end - columns.begin,
            .groups = groups,
            .resume = groups.begin > 0,
        };
        add_tile(&t, part.end - part.begin, q4);
    }
}

static ALWAYS_INLINE void linear_int8(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                      size_t groups, const int q4) {
    const size_t n = rows.end - rows.begin;
    const int has_rest = args->prepared_rest != NULL;
    const size_t width = (n > 1 ? 1 : has_rest ? 2
                                               : 4) *
                         GPT2C_PANEL;
    const size_t piece = n > 1 && !has_rest ? PIECE_GROUPS : groups;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span panels = {c, c + width < columns.end ? c + width : columns.end};
        for (size_t g = 0; g < groups; g += piece)
            add_piece(args, rows, panels, (gpt2c_span){g, g + piece < groups ? g + piece : groups}, q4);
        for (size_t r = rows.begin; r < rows.end; r++)
            gpt2c_finish_row_avx512(args, r, panels, args->out + r * args->w->n_out + panels.begin);
    }
}

void gpt2c_linear_q8_avx512_vnni(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    linear_int8(args, rows, columns, gpt2c_int8_groups(args->w->n_in), 0);
}

void gpt2c_linear_q4_avx512_vnni(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    linear_int8(args, rows, columns, gpt2c_q4_blocks(args->w->n_in), 1);
}
