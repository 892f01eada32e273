#ifndef GPT2C_TILE_AVX512_H
#define GPT2C_TILE_AVX512_H

#include "kernels/tiled/tile.h"

/* The maximum number of rows of a call; tile.c gives the reason. */
#define GPT2C_TILE_ROWS 12
#define GPT2C_EACH_TILE_ROWS(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)

gpt2c_tile_function gpt2c_tile_avx512;

#endif
