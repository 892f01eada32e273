/* Register budget, out of 32: 5 rows x 4 registers (one block of columns) = 20 accumulators, 4 of
 * weights, 5 for x. An FMA takes its x from one lane of a register, so x need not be broadcast. The
 * inner loop is 9 loads (7 instructions, since one instruction loads two registers of weights) for
 * 20 FMAs. With 6 rows everything would just fit, but compilers load every x early and then spill
 * an accumulator.
 *
 * An FMA takes 4 cycles and two to four can start per cycle, so 8 to 16 chains are needed. One row
 * and two rows take a pair of blocks, which gives 8 and 16 chains; the weights of a single row are
 * then read as fast as any memory delivers them.
 *
 * Halves (attention's K and V under kv_f16) are widened as they are loaded, which is exact; the
 * sums are those of floats. */
#include "tile_neon.h"

#include <arm_neon.h>

#include "lanes.h"

#define PER_BLOCK (GPT2C_BLOCK / GPT2C_LANES)
#define MAX_VECTORS 8

/* How many of the tile's columns are in register v and after it. */
static GPT2C_ALWAYS_INLINE size_t columns_from(const gpt2c_tile *tile, size_t v) {
    return tile->columns > v * GPT2C_LANES ? tile->columns - v * GPT2C_LANES : 0;
}

/* Elements i, i + 1, i + 2, i + 3 of w. */
static GPT2C_ALWAYS_INLINE float32x4_t load4(const void *w, size_t i, const int f16) {
    if (!f16) return vld1q_f32((const float *)w + i);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)w + i)));
}

/* All arguments but `given` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile_of(const gpt2c_tile *given, const size_t rows, const size_t blocks,
                                            const int f16) {
    const gpt2c_tile tile = *given; /* a copy, which the stores below cannot change */
    const size_t vectors = PER_BLOCK * blocks;
    float32x4_t sums[GPT2C_TILE_ROWS][MAX_VECTORS];
    GPT2C_UNROLL(5)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const float *out = tile.out + r * tile.out_stride + v * GPT2C_LANES;
            sums[r][v] = tile.resume ? gpt2c_load(out, columns_from(&tile, v)) : vdupq_n_f32(0.0f);
        }
    }

    const size_t n = tile.n, stride = tile.x_stride, odd = tile.w_odd;
    const size_t step = tile.w_step * (f16 ? sizeof(uint16_t) : sizeof(float));
    const float *x = tile.x;
    const char *w = tile.w;
    for (size_t k = 0; k < n; k++, x++, w += step) {
        float32x4_t weights[MAX_VECTORS];
        GPT2C_UNROLL(2)
        for (size_t b = 0; b < blocks; b++) {
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < PER_BLOCK; v++)
                weights[b * PER_BLOCK + v] = load4(w, b * odd + v * GPT2C_LANES, f16);
        }
        GPT2C_UNROLL(5)
        for (size_t r = 0; r < rows; r++) {
            const float one_x = x[r * stride];
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) sums[r][v] = vfmaq_n_f32(sums[r][v], weights[v], one_x);
        }
    }

    GPT2C_UNROLL(5)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++)
            gpt2c_store(tile.out + r * tile.out_stride + v * GPT2C_LANES, columns_from(&tile, v), sums[r][v]);
    }
}

static GPT2C_ALWAYS_INLINE void sum_tile(const gpt2c_tile *tile, const size_t rows, const size_t blocks) {
    if (tile->w_f16)
        sum_tile_of(tile, rows, blocks, 1);
    else
        sum_tile_of(tile, rows, blocks, 0);
}

/* One function per shape, so that every compiler sees the constants. */
#define SUM_TILE(rows, blocks) \
    static void sum_tile_##rows##x##blocks(const gpt2c_tile *tile) { sum_tile(tile, rows, blocks); }
SUM_TILE(1, 1)
SUM_TILE(2, 1)
SUM_TILE(3, 1)
SUM_TILE(4, 1)
SUM_TILE(5, 1)
SUM_TILE(1, 2)
SUM_TILE(2, 2)

static void (*const sum_tile_Nx1[])(const gpt2c_tile *tile) = {
    NULL, sum_tile_1x1, sum_tile_2x1, sum_tile_3x1, sum_tile_4x1, sum_tile_5x1};

void gpt2c_tile_neon(const gpt2c_tile *tile, size_t rows) {
    const size_t blocks = (tile->columns + GPT2C_BLOCK - 1) / GPT2C_BLOCK;
    size_t b = 0;
    for (; rows <= 2 && b + 2 <= blocks; b += 2) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        (rows == 1 ? sum_tile_1x2 : sum_tile_2x2)(&remaining);
    }
    for (; b < blocks; b++) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        sum_tile_Nx1[rows](&remaining);
    }
}
