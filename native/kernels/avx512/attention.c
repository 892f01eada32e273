/* Causal self-attention: scores and weighted sum as tiles of rows (tile.c), softmax in between.
 *
 * K lies as [head][position / 16][head_dim][16]: lanes are positions, so a score is summed over the
 * head's numbers in order, and reading is one stream. V lies as [head][position][head_dim padded to
 * 16]: lanes are the head's numbers, summed over positions in order. Lanes, tiles and sums sit at
 * absolute positions; that is why a row comes out the same whatever is computed beside it.
 *
 * A block of rows goes through a head together, for K and V to be read once for all of them. All but
 * the last few positions are seen by every row of the block; those few are added row by row rather
 * than multiplied by probabilities of zero, which would turn an infinite value into a NaN. */
#include <math.h>
#include <string.h>

#include "avx512.h"
#include "lanes.h"
#include "softmax_avx512.h"
#include "tile.h"

/* Ten, with rows of scores an odd number of cache lines apart, (padded | 16) floats: never more than
 * the 16 rows of pad(n_ctx, 16) that there is room for, and never all in one set of L1. */
#define BLOCK_ROWS 10

/* Where a head's K and V begin. */
typedef struct head_kv {
    const float *k;
    const float *v;
    size_t head_dim;
    size_t v_stride;
} head_kv;

static head_kv head_of(const gpt2c_kv *kv, size_t head) {
    const size_t positions = gpt2c_pad(kv->n_ctx, GPT2C_LANES);
    const size_t v_stride = gpt2c_pad(kv->head_dim, GPT2C_LANES);
    return (head_kv){kv->k + head * positions * kv->head_dim, kv->v + head * positions * v_stride,
                     kv->head_dim, v_stride};
}

static size_t k_offset(const gpt2c_kv *kv, size_t head, size_t position) {
    const size_t tiles = gpt2c_pad(kv->n_ctx, GPT2C_LANES) / GPT2C_LANES;
    return (head * tiles + position / GPT2C_LANES) * kv->head_dim * GPT2C_LANES + position % GPT2C_LANES;
}

static size_t v_offset(const gpt2c_kv *kv, size_t head, size_t position) {
    const size_t positions = gpt2c_pad(kv->n_ctx, GPT2C_LANES);
    return (head * positions + position) * gpt2c_pad(kv->head_dim, GPT2C_LANES);
}

void gpt2c_keep_avx512(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    for (size_t h = 0; h < kv->n_head; h++) {
        for (size_t r = 0; r < rows; r++) {
            const float *k = qkv + r * 3 * n_embd + n_embd + h * head_dim, *v = k + n_embd;
            float *to_k = kv->k + k_offset(kv, h, position + r);
            float *to_v = kv->v + v_offset(kv, h, position + r);
            for (size_t d = 0; d < head_dim; d++) to_k[d * GPT2C_LANES] = k[d];
            memcpy(to_v, v, head_dim * sizeof(float));
            for (size_t d = head_dim; d % GPT2C_LANES != 0; d++) to_v[d] = 0.0f;
        }
    }
}

/* scores[r][t] = q[r] . k[t] for all t < n, and junk up to the next multiple of 16. */
static void scores_of(float *scores, size_t stride, const float *q, size_t q_stride, size_t rows,
                      head_kv kv, size_t n) {
    const size_t tile_floats = kv.head_dim * GPT2C_LANES;
    const gpt2c_tile tile = {.out = scores, .out_stride = stride, .x = q, .x_stride = q_stride,
                             .w = kv.k, .w_pair = 2 * tile_floats, .w_odd = tile_floats,
                             .w_step = GPT2C_LANES, .n = kv.head_dim, .columns = n};
    gpt2c_tile_avx512(&tile, rows);
}

/* out[r] = sum over t of p[r][t] v[t], where row r sees n + r positions. */
static void weighted_sum(float *out, size_t out_stride, const float *p, size_t p_stride, size_t rows,
                         head_kv kv, size_t n) {
    gpt2c_tile tile = {.out = out, .out_stride = out_stride, .x = p, .x_stride = p_stride,
                       .w = kv.v, .w_pair = 2 * GPT2C_LANES, .w_odd = GPT2C_LANES,
                       .w_step = kv.v_stride, .n = n, .columns = kv.head_dim};
    gpt2c_tile_avx512(&tile, rows);
    tile.w += n * kv.v_stride;
    tile.resume = 1;
    for (size_t r = 1; r < rows; r++) {
        tile.out = out + r * out_stride;
        tile.x = p + r * p_stride + n;
        tile.n = r;
        gpt2c_tile_avx512(&tile, 1);
    }
}

static void scale_scores(float *scores, size_t n, float scale) {
    for (size_t t = 0; t < n; t += GPT2C_LANES)
        _mm512_storeu_ps(scores + t, _mm512_mul_ps(_mm512_loadu_ps(scores + t), _mm512_set1_ps(scale)));
}

/* At most BLOCK_ROWS rows through one head. */
static void attend_block(const gpt2c_attention_args *args, size_t row, size_t rows, size_t head) {
    const gpt2c_kv *kv = args->kv;
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    const head_kv of_head = head_of(kv, head);
    const float scale = 1.0f / sqrtf((float)head_dim);
    const size_t n = args->position + row + 1; /* positions that the first row sees */
    const size_t stride = gpt2c_pad(n + rows - 1, GPT2C_LANES) | GPT2C_LANES;
    const float *q = args->qkv + row * 3 * n_embd + head * head_dim;

    scores_of(args->scores, stride, q, 3 * n_embd, rows, of_head, n + rows - 1);
    for (size_t r = 0; r < rows; r++) {
        float *scores = args->scores + r * stride;
        if (!args->fused) scale_scores(scores, n + r, scale);
        gpt2c_scaled_softmax_avx512(scores, scores, n + r, args->fused ? scale : 1.0f);
    }
    weighted_sum(args->out + row * n_embd + head * head_dim, n_embd, args->scores, stride, rows, of_head, n);
}

void gpt2c_attention_avx512(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    const size_t n = rows.end - rows.begin, blocks = (n + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (size_t h = heads.begin; h < heads.end; h++)
        for (size_t i = 0; i < blocks; i++) {
            const size_t begin = n * i / blocks, end = n * (i + 1) / blocks;
            attend_block(args, rows.begin + begin, end - begin, h);
        }
}
