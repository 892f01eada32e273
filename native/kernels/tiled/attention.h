/* Causal self-attention: the instruction set's tile loop computes the scores, its softmax makes
 * probabilities of them, and the tile loop computes the weighted sum of the values.
 *
 * K is laid out as [head][position / 16][head_dim][16]: lanes are positions, so a score is summed
 * over the head's elements in order, and reading is one stream. V is laid out as
 * [head][position][head_dim padded to 16]: lanes are the head's elements, summed over positions in
 * order. Floats and halves have the same layout. The lane, the tile and the order of each sum
 * depend on absolute positions only; that is why a row has the same bits whatever is computed
 * together with it.
 *
 * A group of rows is processed together for each head, so that K and V are read once for all of
 * them. Every row of the group attends to all positions but the last few. Those few are added row
 * by row, rather than multiplied by probabilities of zero, which would turn an infinite value into
 * a NaN. */
#ifndef GPT2C_TILED_ATTENTION_H
#define GPT2C_TILED_ATTENTION_H

#include <string.h>

#include "tile.h"

/* Rows of scores are (positions padded to 16) | 16 floats apart, an odd number of cache lines, so
 * that they do not all map to one set of L1. Ten such rows fit into the buffer of 16 rows of
 * pad(n_ctx, 16) floats. */
#define GPT2C_MAX_GROUP_ROWS 10

/* out = softmax of scale * x[0 .. n), where scale * x[i] is rounded before it is used. */
typedef void gpt2c_scaled_softmax_function(float *out, const float *x, size_t n, float scale);

/* Rounds n elements to half precision, as store_f16 in kernels.h specifies. */
typedef void gpt2c_narrow_function(uint16_t *out, const float *x, size_t n);

/* What an instruction set provides. */
typedef struct gpt2c_attention_parts {
    size_t group_rows; /* at most GPT2C_MAX_GROUP_ROWS, and at most what one call of `sum` takes */
    gpt2c_tile_function *sum;
    gpt2c_scaled_softmax_function *softmax;
} gpt2c_attention_parts;

/* The index of the first element of a position's K, and below of its V. */
static inline size_t gpt2c_k_at(const gpt2c_kv *kv, size_t head, size_t position) {
    const size_t tiles = gpt2c_pad(kv->n_ctx, GPT2C_BLOCK) / GPT2C_BLOCK;
    const size_t tile = head * tiles + position / GPT2C_BLOCK;
    return tile * kv->head_dim * GPT2C_BLOCK + position % GPT2C_BLOCK;
}

static inline size_t gpt2c_v_stride(const gpt2c_kv *kv) { return gpt2c_pad(kv->head_dim, GPT2C_BLOCK); }

static inline size_t gpt2c_v_at(const gpt2c_kv *kv, size_t head, size_t position) {
    const size_t positions = gpt2c_pad(kv->n_ctx, GPT2C_BLOCK);
    return (head * positions + position) * gpt2c_v_stride(kv);
}

static inline void gpt2c_store_tiled(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    for (size_t h = 0; h < kv->n_head; h++) {
        for (size_t r = 0; r < rows; r++) {
            const float *k = qkv + r * 3 * n_embd + n_embd + h * head_dim, *v = k + n_embd;
            float *to_k = (float *)kv->k + gpt2c_k_at(kv, h, position + r);
            float *to_v = (float *)kv->v + gpt2c_v_at(kv, h, position + r);
            for (size_t d = 0; d < head_dim; d++) to_k[d * GPT2C_BLOCK] = k[d];
            memcpy(to_v, v, head_dim * sizeof(float));
            for (size_t d = head_dim; d % GPT2C_BLOCK != 0; d++) to_v[d] = 0.0f;
        }
    }
}

static inline void gpt2c_store_f16_tiled(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position,
                                         gpt2c_narrow_function *narrow) {
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    for (size_t h = 0; h < kv->n_head; h++) {
        for (size_t r = 0; r < rows; r++) {
            const float *k = qkv + r * 3 * n_embd + n_embd + h * head_dim, *v = k + n_embd;
            uint16_t *to_k = (uint16_t *)kv->k + gpt2c_k_at(kv, h, position + r);
            uint16_t *to_v = (uint16_t *)kv->v + gpt2c_v_at(kv, h, position + r);
            for (size_t d = 0; d < head_dim; d += GPT2C_BLOCK) {
                const size_t n = head_dim - d < GPT2C_BLOCK ? head_dim - d : GPT2C_BLOCK;
                uint16_t halves[GPT2C_BLOCK];
                narrow(halves, k + d, n);
                for (size_t i = 0; i < n; i++) to_k[(d + i) * GPT2C_BLOCK] = halves[i];
            }
            narrow(to_v, v, head_dim);
            for (size_t d = head_dim; d % GPT2C_BLOCK != 0; d++) to_v[d] = 0;
        }
    }
}

static inline const void *gpt2c_kv_element(const gpt2c_kv *kv, const void *first, size_t i) {
    return (const char *)first + i * gpt2c_kv_element_bytes(kv->f16);
}

/* Visits a range of positions of one head. Tiles of K are visited whole, except the last one, of
 * which only the lanes in use are visited, because the contents of the others are undefined. */
static inline void gpt2c_kv_runs_of_head(const gpt2c_kv *kv, size_t head, gpt2c_span positions,
                                         gpt2c_kv_visit *visit, void *context) {
    const size_t bytes = gpt2c_kv_element_bytes(kv->f16);
    const size_t first = positions.begin / GPT2C_BLOCK * GPT2C_BLOCK;
    const size_t last = positions.end / GPT2C_BLOCK * GPT2C_BLOCK, n_left = positions.end - last;
    char *k = kv->k, *v = kv->v, *last_tile = k + gpt2c_k_at(kv, head, last) * bytes;
    visit(context, k + gpt2c_k_at(kv, head, first) * bytes, (last - first) * kv->head_dim * bytes);
    for (size_t d = 0; d < kv->head_dim && n_left > 0; d++)
        visit(context, last_tile + d * GPT2C_BLOCK * bytes, n_left * bytes);
    visit(context, v + gpt2c_v_at(kv, head, positions.begin) * bytes,
          (positions.end - positions.begin) * gpt2c_v_stride(kv) * bytes);
}

static inline void gpt2c_kv_runs_tiled(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit,
                                       void *context) {
    for (size_t head = 0; head < kv->n_head; head++)
        gpt2c_kv_runs_of_head(kv, head, positions, visit, context);
}

/* out[r] = sum over t of p[r][t] v[t], where row r attends to n + r positions. */
static inline void gpt2c_weighted_sum(gpt2c_tile tile, size_t rows, size_t n, gpt2c_tile_function *sum) {
    const gpt2c_tile first = tile;
    tile.n = n;
    sum(&tile, rows);
    tile.w = gpt2c_tile_w(&tile, n * tile.w_step);
    tile.resume = 1;
    for (size_t r = 1; r < rows; r++) {
        tile.out = first.out + r * first.out_stride;
        tile.x = first.x + r * first.x_stride + n;
        tile.n = r;
        sum(&tile, 1);
    }
}

/* The attention of one head for a group of rows. */
static inline void gpt2c_attend_group(const gpt2c_attention_args *args, size_t row, size_t rows, size_t head,
                                      const gpt2c_attention_parts *parts) {
    const gpt2c_kv *kv = args->kv;
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    const size_t n = args->position + row + 1; /* positions that the first row attends to */
    const size_t stride = gpt2c_pad(n + rows - 1, GPT2C_BLOCK) | GPT2C_BLOCK;

    const gpt2c_tile scores = {
        .out = args->scores,
        .out_stride = stride,
        .x = args->qkv + row * 3 * n_embd + head * head_dim,
        .x_stride = 3 * n_embd,
        .w = gpt2c_kv_element(kv, kv->k, gpt2c_k_at(kv, head, 0)),
        .w_f16 = kv->f16,
        .w_pair = 2 * head_dim * GPT2C_BLOCK,
        .w_odd = head_dim * GPT2C_BLOCK,
        .w_step = GPT2C_BLOCK,
        .n = head_dim,
        .columns = n + rows - 1,
    };
    parts->sum(&scores, rows);

    const float scale = args->scale;
    for (size_t r = 0; r < rows; r++) {
        float *p = args->scores + r * stride;
        for (size_t t = 0; !args->fused && t < n + r; t++) p[t] *= scale;
        parts->softmax(p, p, n + r, args->fused ? scale : 1.0f);
    }

    const gpt2c_tile values = {
        .out = args->out + row * n_embd + head * head_dim,
        .out_stride = n_embd,
        .x = args->scores,
        .x_stride = stride,
        .w = gpt2c_kv_element(kv, kv->v, gpt2c_v_at(kv, head, 0)),
        .w_f16 = kv->f16,
        .w_pair = 2 * GPT2C_BLOCK,
        .w_odd = GPT2C_BLOCK,
        .w_step = gpt2c_v_stride(kv),
        .columns = head_dim,
    };
    gpt2c_weighted_sum(values, rows, n, parts->sum);
}

/* A single row reads little of each head, too little for the hardware prefetcher to detect the
 * streams. So the next head is prefetched in software, at most this many bytes of its K and of its
 * V. */
#define GPT2C_PREFETCH_BYTES ((size_t)1 << 14)

static inline void gpt2c_prefetch(const void *from, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes && i < GPT2C_PREFETCH_BYTES; i += GPT2C_BLOCK * sizeof(float))
        __builtin_prefetch((const char *)from + i);
}

/* Prefetches the beginning of a head's K and V, at most n positions. */
static inline void gpt2c_prefetch_head(const gpt2c_kv *kv, size_t head, size_t n) {
    const size_t positions = gpt2c_pad(n, GPT2C_BLOCK), bytes = gpt2c_kv_element_bytes(kv->f16);
    gpt2c_prefetch(gpt2c_kv_element(kv, kv->k, gpt2c_k_at(kv, head, 0)), positions * kv->head_dim * bytes);
    gpt2c_prefetch(gpt2c_kv_element(kv, kv->v, gpt2c_v_at(kv, head, 0)), n * gpt2c_v_stride(kv) * bytes);
}

static inline void gpt2c_attention_tiled(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads,
                                         const gpt2c_attention_parts *parts) {
    const size_t n = rows.end - rows.begin, groups = (n + parts->group_rows - 1) / parts->group_rows;
    for (size_t h = heads.begin; h < heads.end; h++) {
        if (n == 1 && h + 1 < heads.end) gpt2c_prefetch_head(args->kv, h + 1, args->position + rows.end);
        for (size_t i = 0; i < groups; i++) {
            const gpt2c_span group = gpt2c_share(n, groups, i);
            gpt2c_attend_group(args, rows.begin + group.begin, group.end - group.begin, h, parts);
        }
    }
}

#endif
