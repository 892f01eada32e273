/* The loop in which GPT-2 spends its time: for a few rows r and all columns c
 *
 *     out[r][c] = sum over k of x[r][k] * w[k][c],    k = 0, 1, ..., n - 1
 *
 * with one accumulator for each out[r][c], so the sum runs in the order of k, whatever the number
 * of rows. Linear layers, attention's scores (x: queries, w: keys) and its weighted sum (x:
 * probabilities, w: values) all have this form and differ in the layout of their operands.
 *
 * An instruction set implements this loop (its tile.c) and takes everything else from linear.h and
 * attention.h in this folder, which serve all sets whose registers hold several columns. */
#ifndef GPT2C_TILE_H
#define GPT2C_TILE_H

#include "kernels.h"

/* Columns come in blocks of one cache line: half a panel, or a tile of K or V. */
#define GPT2C_BLOCK 16

typedef struct gpt2c_tile {
    float *out; /* [rows][out_stride] */
    size_t out_stride;
    const float *x; /* [rows][x_stride] */
    size_t x_stride;
    /* Block b of step k begins at element k * w_step + b / 2 * w_pair + b % 2 * w_odd. It is
     * aligned to its size, and readable to its end even where `columns` ends before that. */
    const void *w;
    size_t w_pair;
    size_t w_odd;
    size_t w_step;
    int w_f16; /* 1: w is halves, which are widened; 0: floats */
    size_t n;
    size_t columns;
    const char *ahead; /* NULL, or what to prefetch meanwhile, `ahead_step` bytes further on in each step */
    size_t ahead_step;
    int resume; /* 1: add to the contents of out; 0: start from 0 */
} gpt2c_tile;

/* For functions with arguments that must be constants, so that loops over them are unrolled. */
#define GPT2C_ALWAYS_INLINE inline __attribute__((always_inline))

/* Placed before a loop whose count, at most `max`, is a constant once the function is inlined:
 * unrolls it completely. (GCC does not do this without the pragma. Clang, given a factor larger
 * than the count, would run all iterations in the loop for the remainder.) */
#if defined(__clang__)
#define GPT2C_UNROLL(max) _Pragma("clang loop unroll(full)")
#else
#define GPT2C_PRAGMA(text) _Pragma(#text)
#define GPT2C_UNROLL(max) GPT2C_PRAGMA(GCC unroll max)
#endif

/* What the tile.c of an instruction set defines; its header says how many rows a call may have. A
 * set that does not override attention_f16 never gets a tile of halves. */
typedef void gpt2c_tile_function(const gpt2c_tile *tile, size_t rows);

static inline const void *gpt2c_tile_w(const gpt2c_tile *tile, size_t element) {
    return tile->w_f16 ? (const void *)((const uint16_t *)tile->w + element)
                       : (const void *)((const float *)tile->w + element);
}

/* The part of a tile from block b onwards. From an odd b onwards the blocks are not in pairs, so
 * only one of them can be computed. */
static inline gpt2c_tile gpt2c_tile_from(const gpt2c_tile *tile, size_t b) {
    gpt2c_tile remaining = *tile;
    remaining.out += b * GPT2C_BLOCK;
    remaining.w = gpt2c_tile_w(tile, b / 2 * tile->w_pair + b % 2 * tile->w_odd);
    remaining.columns -= b * GPT2C_BLOCK;
    return remaining;
}

/* Part i of n items that are divided evenly into `parts` parts. */
static inline gpt2c_span gpt2c_share(size_t n, size_t parts, size_t i) {
    return (gpt2c_span){n * i / parts, n * (i + 1) / parts};
}

#endif
