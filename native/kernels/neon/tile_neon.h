#ifndef GPT2C_TILE_NEON_H
#define GPT2C_TILE_NEON_H

#include "kernels/tiled/tile.h"

/* The maximum number of rows of a call; tile.c gives the reason. */
#define GPT2C_TILE_ROWS 5

gpt2c_tile_function gpt2c_tile_neon;

#endif
