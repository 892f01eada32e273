/* Register budget, out of 32: 12 rows x 2 registers of columns = 24 accumulators, 2 of weights, 1
 * broadcast x, 5 spare. The inner loop is then 14 loads for 24 FMAs, where the core starts two of
 * each per cycle.
 *
 * An FMA takes 4 cycles and two can start per cycle, so at least 8 chains are needed: 4 rows have
 * them. A single row gets its chains from eight registers of columns instead, which in linear
 * layers are four panels, read as four streams. More rows would fit (14 x 2 + 3 = 31), but in many
 * models rows are a multiple of 4096 bytes apart (n_embd 1024, n_inner 3072), hence in one set of a
 * 12-way L1, where 14 evict each other.
 *
 * Measured on a core that reads 35 GB/s and does 240 GFLOP/s: with several rows the loop is too
 * slow for the hardware prefetcher to run far ahead, and software prefetching makes 12 rows over
 * weights in memory 1.7 times as fast; a single row it only slows down. Output lines are prefetched
 * before the sum, or the stores wait for them: 6 %. Blocking along k gains nothing, since a panel
 * of 3072 steps (384 KB) stays in L2 until all rows are done.
 *
 * Halves (attention's K and V under kv_f16) are widened as they are loaded, by one conversion per
 * 16 columns, which is exact and shared by all rows; the sums are those of floats. Here a single
 * row does gain from prefetching, 11 % where K and V come from memory: its streams advance by 32
 * bytes per step. */
#include "tile_avx512.h"

#include <immintrin.h>

#include "lanes.h"

/* How many steps ahead the weights are prefetched: 8 KB of a panel, about 300 ns of work. */
#define PREFETCH_STEPS 64

/* How far ahead a single row prefetches halves: the next eight blocks of K of a head of 64. */
#define PREFETCH_F16_BYTES 16384

/* A prefetch never faults, whatever the address. */
static GPT2C_ALWAYS_INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
static GPT2C_ALWAYS_INLINE void prefetch_l2(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

/* Elements i, i + 1, ..., i + 15 of w. */
static GPT2C_ALWAYS_INLINE __m512 load16(const void *w, size_t i, const int f16) {
    if (!f16) return _mm512_load_ps((const float *)w + i);
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)((const uint16_t *)w + i)));
}

/* All arguments but `given` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile_of(const gpt2c_tile *given, const size_t rows, const size_t vectors,
                                            const int f16) {
    const gpt2c_tile tile = *given; /* a copy, which the stores below cannot change */
    __m512 sums[GPT2C_TILE_ROWS][8];
    __mmask16 lanes[8]; /* for the stores: the last column may be inside a register */
    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++)
        lanes[v] = gpt2c_lanes(tile.columns > v * GPT2C_LANES ? tile.columns - v * GPT2C_LANES : 0);
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const float *out = tile.out + r * tile.out_stride + v * GPT2C_LANES;
            prefetch(out);
            sums[r][v] = tile.resume ? _mm512_maskz_loadu_ps(lanes[v], out) : _mm512_setzero_ps();
        }
    }

    /* Every third row has a pointer; the two rows after it are addressed by the stride and twice
     * the stride. */
    const size_t stride = tile.x_stride, pair = tile.w_pair, odd = tile.w_odd;
    const float *x[4];
    GPT2C_UNROLL(4)
    for (size_t i = 0; i < 4; i++) x[i] = tile.x + (3 * i < rows ? 3 * i : 0) * stride;
    const size_t element_bytes = f16 ? sizeof(uint16_t) : sizeof(float), step = tile.w_step * element_bytes;
    const char *w = tile.w;
    /* Never NULL: prefetching an address that is not mapped is slow. */
    const char *next_panel = tile.ahead != NULL ? tile.ahead : tile.w;
    for (size_t k = 0; k < tile.n; k++, w += step, next_panel += tile.ahead_step) {
        if (rows > 1) prefetch_l2(next_panel);
        const char *ahead = w + (rows > 1 ? PREFETCH_STEPS * step : PREFETCH_F16_BYTES);
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++)
            if (rows > 1 || f16) prefetch(ahead + (v / 2 * pair + v % 2 * odd) * element_bytes);
        __m512 weights[8];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) weights[v] = load16(w, v / 2 * pair + v % 2 * odd, f16);
        GPT2C_UNROLL(12)
        for (size_t r = 0; r < rows; r++) {
            const __m512 one_x = _mm512_set1_ps(x[r / 3][r % 3 * stride + k]);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                sums[r][v] = _mm512_fmadd_ps(one_x, weights[v], sums[r][v]);
        }
    }

    const int whole = tile.columns >= vectors * GPT2C_LANES;
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            float *out = tile.out + r * tile.out_stride + v * GPT2C_LANES;
            if (whole) /* see gpt2c_load */
                _mm512_storeu_ps(out, sums[r][v]);
            else
                _mm512_mask_storeu_ps(out, lanes[v], sums[r][v]);
        }
    }
}

static GPT2C_ALWAYS_INLINE void sum_tile(const gpt2c_tile *tile, const size_t rows, const size_t vectors) {
    if (tile->w_f16)
        sum_tile_of(tile, rows, vectors, 1);
    else
        sum_tile_of(tile, rows, vectors, 0);
}

static void sum_tile_1x8(const gpt2c_tile *tile) { sum_tile(tile, 1, 8); }
static void sum_tile_1x4(const gpt2c_tile *tile) { sum_tile(tile, 1, 4); }

static void sum_tile_Nx2(const gpt2c_tile *tile, size_t rows) {
    switch (rows) {
#define GPT2C_ROWS(N) \
    case N: sum_tile(tile, N, 2); break;
        GPT2C_EACH_TILE_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
    default: break;
    }
}

void gpt2c_tile_avx512(const gpt2c_tile *tile, size_t rows) {
    const size_t blocks = (tile->columns + GPT2C_BLOCK - 1) / GPT2C_BLOCK;
    size_t b = 0;
    for (; rows == 1 && b + 8 <= blocks; b += 8) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        sum_tile_1x8(&remaining);
    }
    for (; rows == 1 && b + 4 <= blocks; b += 4) {
        const gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        sum_tile_1x4(&remaining);
    }
    for (; b < blocks; b += 2) {
        gpt2c_tile remaining = gpt2c_tile_from(tile, b);
        if (b + 1 == blocks) remaining.w_odd = 0; /* no second block: load the first one twice */
        sum_tile_Nx2(&remaining, rows);
    }
}
