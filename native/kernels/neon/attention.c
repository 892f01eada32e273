#include "kernels/tiled/attention.h"

#include "neon.h"
#include "softmax_neon.h"
#include "tile_neon.h"

static const gpt2c_attention_parts parts = {GPT2C_TILE_ROWS, gpt2c_tile_neon, gpt2c_scaled_softmax_neon};

void gpt2c_keep_neon(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_keep_tiled(kv, qkv, rows, position);
}

void gpt2c_attention_neon(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    gpt2c_attention_tiled(args, rows, heads, &parts);
}
