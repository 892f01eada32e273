/* The loop in which a GPT-2 spends its time: for a few rows r and all columns c
 *
 *     out[r][c] = sum over k of x[r][k] * w[k][c],    k = 0, 1, ..., n - 1
 *
 * with one accumulator for each out[r][c], so the order of the sum is that of k, whatever the number
 * of rows. Linear layers, attention's scores (x: queries, w: keys) and its weighted sum (x:
 * probabilities, w: values) are all of this form and differ in where the numbers lie. */
#ifndef GPT2C_TILE_AVX512_H
#define GPT2C_TILE_AVX512_H

#include <stddef.h>

/* Rows that a call may have; tile.c says why so many. */
#define GPT2C_TILE_ROWS 12
#define GPT2C_EACH_TILE_ROWS(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)

typedef struct gpt2c_tile {
    float *out; /* [rows][out_stride] */
    size_t out_stride;
    const float *x; /* [rows][x_stride] */
    size_t x_stride;
    const float *w;  /* columns 16 v .. 16 v + 15 of step k: */
    size_t w_pair;   /*     w + k * w_step + v / 2 * w_pair + v % 2 * w_odd, */
    size_t w_odd;    /*     whole registers that may be read even where columns ends before */
    size_t w_step;
    size_t n;
    size_t columns;
    int resume; /* 1: add to what out holds; 0: start from 0 */
} gpt2c_tile;

void gpt2c_tile_avx512(const gpt2c_tile *tile, size_t rows);

#endif
