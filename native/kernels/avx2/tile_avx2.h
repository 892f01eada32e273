#ifndef GPT2C_TILE_AVX2_H
#define GPT2C_TILE_AVX2_H

#include "kernels/tiled/tile.h"

/* Rows that a call may have; tile.c says why so many. */
#define GPT2C_TILE_ROWS 6

gpt2c_tile_function gpt2c_tile_avx2;

#endif
