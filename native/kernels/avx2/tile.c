/* Register budget, out of 16: 6 rows x 2 registers (one block of columns) = 12 accumulators, 2 of
 * weights, 1 broadcast x, 1 spare. The inner loop is then 8 loads for 12 FMAs, where the core
 * starts two of each per cycle.
 *
 * An FMA takes 4 cycles (5 on older machines) and two can start per cycle, so 8 to 10 chains are
 * needed. A single row gets them from four blocks, which in linear layers are two panels; two rows
 * take two blocks. Prefetching is as for AVX-512: it helps with several rows and slows down a
 * single one. Three or more rows traverse a panel twice, one half after the other, and prefetch
 * both halves the first time: 1.2 times as fast as leaving the second half to the second traversal.
 *
 * Halves (attention's K and V under kv_f16) are widened as they are loaded, which is exact; the
 * sums are those of floats. Here a single row does gain from prefetching, 1.4 times where K and V
 * come from memory: loads of 16 bytes are too small to keep enough bytes in flight. */
#include "tile_avx2.h"

#include <immintrin.h>

#include "lanes.h"

#define PER_BLOCK (GPT2C_BLOCK / GPT2C_LANES)

/* How many steps ahead the weights are prefetched: 8 KB of a panel. */
#define PREFETCH_STEPS 64

/* How far ahead a single row prefetches halves: eight blocks of K of a head of 64. */
#define PREFETCH_F16_BYTES 16384

/* A prefetch never faults, whatever the address. */
static GPT2C_ALWAYS_INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* How many of the tile's columns are in register v and after it. */
static GPT2C_ALWAYS_INLINE size_t columns_from(const gpt2c_tile *tile, size_t v) {
    return tile->columns > v * GPT2C_LANES ? tile->columns - v * GPT2C_LANES : 0;
}

/* Elements i, i + 1, ..., i + 7 of w. */
static GPT2C_ALWAYS_INLINE __m256 load8(const void *w, size_t i, const int f16) {
    if (!f16) return _mm256_load_ps((const float *)w + i);
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)((const uint16_t *)w + i)));
}

/* All arguments but `given` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile_of(const gpt2c_tile *given, const size_t rows, const size_t blocks,
                                            const int f16) {
    const gpt2c_tile tile = *given; /* a copy, which the stores below cannot change */
    const size_t vectors = PER_BLOCK * blocks;
    __m256 sums[GPT2C_TILE_ROWS][8];
    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const float *out = tile.out + r * tile.out_stride + v * GPT2C_LANES;
            prefetch(out);
            sums[r][v] = tile.resume ? gpt2c_load(out, columns_from(&tile, v)) : _mm256_setzero_ps();
        }
    }

    /* Every third row has a pointer; the two rows after it are addressed by the stride and twice
     * the stride. */
    const size_t stride = tile.x_stride, pair = tile.w_pair, odd = tile.w_odd;
    const float *const x[2] = {tile.x, tile.x + (rows > 3 ? 3 : 0) * stride};
    const size_t element_bytes = f16 ? sizeof(uint16_t) : sizeof(float), step = tile.w_step * element_bytes;
    const char *w = tile.w;
    for (size_t k = 0; k < tile.n; k++, w += step) {
        __m256 weights[8];
        GPT2C_UNROLL(4)
        for (size_t b = 0; b < blocks; b++) {
            const char *block = w + (b / 2 * pair + b % 2 * odd) * element_bytes;
            const char *ahead = block + PREFETCH_STEPS * step;
            if (rows > 1) prefetch(ahead);
            if (rows == 1 && f16) prefetch(block + PREFETCH_F16_BYTES);
            if (rows > 1 && blocks == 1) prefetch(ahead + odd * element_bytes);
            weights[2 * b] = load8(block, 0, f16);
            weights[2 * b + 1] = load8(block, GPT2C_LANES, f16);
        }
        GPT2C_UNROLL(6)
        for (size_t r = 0; r < rows; r++) {
            const __m256 one_x = _mm256_set1_ps(x[r / 3][r % 3 * stride + k]);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                sums[r][v] = _mm256_fmadd_ps(one_x, weights[v], sums[r][v]);
        }
    }

    GPT2C_UNROLL(6)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++)
        gpt2c_store(tile.out + r * tile.out_stride + v * GPT2C_LANES, columns_from(&tile, v), sums[r][v]);
}

static GPT2C_ALWAYS_INLINE void sum_tile(const gpt2c_tile *tile, const size_t rows, const size_t blocks) {
    if (tile->w_f16)
        sum_tile_of(tile, rows, blocks, 1);
    else
        sum_tile_of(tile, rows, blocks, 0);
}

static void sum_tile_1x4(const gpt2c_tile *tile) { sum_tile(tile, 1, 4); }
static void sum_tile_1x2(const gpt2c_tile *tile) { sum_tile(tile, 1, 2); }
static void sum_tile_2x2(const gpt2c_tile *tile) { sum_tile(tile, 2, 2); }

static void sum_tile_Nx1(const gpt2c_tile *tile, size_t rows) {
    switch (rows) {
    case 1: sum_tile(tile, 1, 1); break;
    case 2: sum_tile(tile, 2, 1); break;
    case 3: sum_tile(tile, 3, 1); break;
    case 4: sum_tile(tile, 4, 1); break;
    case 5: sum_tile(tile, 5, 1); break;
    case 6: sum_tile(tile, 6, 1); break;
    default: break;
    }
}

void gpt2c_tile_avx2(const gpt2c_tile *tile, size_t rows) {
    const size_t blocks = (tile->columns + GPT2C_BLOCK - 1) / GPT2C_BLOCK;
    size_t b = 0;
    for (; rows == 1 && b + 4 <= blocks; b += 4) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        sum_tile_1x4(&remaining);
    }
    for (; rows <= 2 && b + 2 <= blocks; b += 2) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        (rows == 1 ? sum_tile_1x2 : sum_tile_2x2)(&remaining);
    }
    for (; b < blocks; b++) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        sum_tile_Nx1(&remaining, rows);
    }
}
