/* The loop in which a GPT-2 spends its time: for a few rows r and all columns c
 *
 *     out[r][c] = sum over k of x[r][k] * w[k][c],    k = 0, 1, ..., n - 1
 *
 * with one accumulator for each out[r][c], so the order of the sum is that of k, whatever the number
 * of rows. Linear layers, attention's scores (x: queries, w: keys) and its weighted sum (x:
 * probabilities, w: values) are all of this form and differ in where the numbers lie.
 *
 * An instruction set writes this loop (its tile.c) and takes all else from linear.h and attention.h
 * beside this file, which are the same for all that have registers of columns. */
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
    const void *w; /* block b of step k: number k * w_step + b / 2 * w_pair + b % 2 * w_odd, aligned to */
    size_t w_pair; /*   its size; a block may be read to its end where columns ends before */
    size_t w_odd;
    size_t w_step;
    int w_f16; /* 1: of halves, which are widened; 0: of floats */
    size_t n;
    size_t columns;
    const char *ahead; /* NULL, or what to ask for meanwhile, `ahead_step` bytes further on in each step */
    size_t ahead_step;
    int resume; /* 1: add to what out holds; 0: start from 0 */
} gpt2c_tile;

/* For functions some of whose arguments have to be constants for their loops to vanish. */
#define GPT2C_ALWAYS_INLINE inline __attribute__((always_inline))

/* In front of a loop whose count, at most `max`, is a constant once the function is inlined: unrolls
 * all of it. (GCC does not without being told; clang would unroll by a number larger than the count
 * and then run the remainder as a loop.) */
#if defined(__clang__)
#define GPT2C_UNROLL(max) _Pragma("clang loop unroll(full)")
#else
#define GPT2C_PRAGMA(text) _Pragma(#text)
#define GPT2C_UNROLL(max) GPT2C_PRAGMA(GCC unroll max)
#endif

/* What tile.c of an instruction set defines; it says how many rows a call may have. One that has no
 * attention_f16 of its own never gets a tile of halves. */
typedef void gpt2c_tile_function(const gpt2c_tile *tile, size_t rows);

static inline const void *gpt2c_tile_w(const gpt2c_tile *tile, size_t number) {
    return tile->w_f16 ? (const void *)((const uint16_t *)tile->w + number)
                       : (const void *)((const float *)tile->w + number);
}

/* The same tile from block b on. Behind an odd b the blocks do not come in pairs any more, so only one
 * of them can be computed. */
static inline gpt2c_tile gpt2c_tile_from(const gpt2c_tile *tile, size_t b) {
    gpt2c_tile remaining = *tile;
    remaining.out += b * GPT2C_BLOCK;
    remaining.w = gpt2c_tile_w(tile, b / 2 * tile->w_pair + b % 2 * tile->w_odd);
    remaining.columns -= b * GPT2C_BLOCK;
    return remaining;
}

/* Part i of n things that are shared out evenly among so many parts. */
static inline gpt2c_span gpt2c_share(size_t n, size_t parts, size_t i) {
    return (gpt2c_span){n * i / parts, n * (i + 1) / parts};
}

#endif
