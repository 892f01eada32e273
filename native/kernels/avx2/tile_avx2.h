#ifndef GPT2C_TILE_AVX2_H
#define GPT2C_TILE_AVX2_H

#include "kernels/tiled/tile.h"

/* The maximum number of rows of a call; tile.c gives the reason. */
#define GPT2C_TILE_ROWS 6

gpt2c_tile_function gpt2c_tile_avx2;

#endif
