#ifndef GPT2C_TILE_NEON_H
#define GPT2C_TILE_NEON_H

#include "kernels/tiled/tile.h"

/* Rows that a call may have; tile.c says why so many. */
#define GPT2C_TILE_ROWS 5

gpt2c_tile_function gpt2c_tile_neon;

#endif
