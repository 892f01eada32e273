/* Kernels, the functions that compute: the rules that they obey, and the const table of them that each
 * instruction set fills.
 *
 * The row contract. Output row r is a function of input row r alone (in attention also of the K and
 * V rows at positions up to its own), summed in one fixed order that does not depend on how many
 * rows there are, which rows are computed, or which thread computes them. Everything else that gpt2c
 * promises about equal bits follows from this. A kernel may reorder loops, but never a sum.
 *
 * In a linear layer that order is: start from 0, add x[k] * w[k][c] for k = 0, 1, 2, ..., then add
 * the bias. Over bf16 panels avx512_bf16 adds the products of two k at a time. Over the integer
 * formats every set adds 32 at a time (native/kernels/ref/linear_int8.c). SIMD lanes are output
 * columns, so every lane adds up its products in that order.
 *
 * Error bounds, eps = 2^-24, against exact arithmetic on the float32 operands, where nothing
 * overflows; tiny = 2^-150, the loss where a result becomes subnormal. The tests check these bounds for
 * every kernel of every instruction set:
 *   linear      (n_in + 2) * eps * (sum |x[k] w[k][c]| + |bias|) + n_in * tiny
 *   bf16        the same, with each weight (and in avx512_bf16 each x) rounded to bfloat16; in
 *               avx512_bf16, which loses products below 2^-126,
 *               (n_in + 2) * 2 eps * (sum |x[k] w[k][c]| + |bias|)
 *   q8, q4      with weights and x as they are rounded (native/quantized.h), g groups of 32 steps of k, and
 *               W the magnitude of a weight, |scale q| + |offset|:
 *               (2 g + 4) * eps * (sum |x| W + |bias|) + g * tiny.
 *               The same bits in every set: integers are summed exactly, all further steps are prescribed
 *   layernorm   16 eps * (|weight| * (|normalized| + |mean| / std) + |bias| + |out|)
 *               + 2 tiny * (1 + |weight|), where std = sqrt(variance + epsilon)
 *   exp         3 eps relative on [-87.3, 88.3]; 0 below, infinity above
 *   gelu        8 eps * |gelu(x)| * (1 + |x|^3 / 8) + 1e-37; -0 for a huge negative x
 *   gelu_erf    12 eps * |gelu(x)| * (1 + x^2 / 4) + 1e-37; -0 for a huge negative x
 *   gelu_table  2.13 * 2^-11 * |x| + 2^-24, see gelu_table.h
 *   softmax     (n + ln n + 8 + max(x) - x) * eps * p + 1.3e-38: n additions; each exp has 3 eps and the
 *               rounding of its argument, which is relative to max(x) - x; summed over all elements,
 *               p (max(x) - x) <= ln n; 1.3e-38 where exp is cut off
 *   attention   sum of p[t] |v[t]| * ((2 n + ln n + 9 + max(s) - s[t]) * eps + e^(2 d) - 1) over the n
 *               visible positions + sum of |v[t]| * 1.3e-38 + n * tiny: softmax of the scores s, then
 *               n multiply-adds; d, the error of the scores themselves, is (head_dim + 3) * eps * the
 *               largest of sum |q k| * scale + tiny * head_dim
 *   kv_f16      as attention, with K and V as store_f16 rounds them
 *   relu        exact
 *   embed, add  eps * |a + b|: rounded once, hence the same in every set; embed over q4
 *               3 eps * (W + |b|), since scale q - offset is rounded twice before, also the same in every set
 *   argmax      exact; the lowest index wins a tie, a NaN counts as -infinity
 * A NaN makes every result that depends on it a NaN (except in argmax). For an infinity, the result is
 * what ref's formula gives.
 */
#ifndef GPT2C_KERNELS_H
#define GPT2C_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "gpt2c.h"

/* Half-open: begin, begin + 1, ..., end - 1. */
typedef struct gpt2c_span {
    size_t begin;
    size_t end;
} gpt2c_span;

/* Columns in a panel: two AVX-512 registers, four of AVX2, eight of NEON. */
#define GPT2C_PANEL GPT2C_LIMIT_PANEL_COLUMNS

/* A linear layer's weights: out[c] = sum over k of x[k] * w[k][c]. */
struct gpt2c_matrix {
    gpt2c_layout layout; /* decides which linear kernel reads it */
    size_t n_in;
    size_t n_out;
    void *data; /* floats, or the elements that the layout defines */
};

static inline size_t gpt2c_panels(size_t n_out) { return (n_out + GPT2C_PANEL - 1) / GPT2C_PANEL; }

typedef struct gpt2c_linear_args {
    float *out;                 /* [rows, n_out]; overlaps no input */
    const float *x;             /* [rows, n_in] */
    const gpt2c_matrix *w;
    const float *bias;          /* [n_out], or NULL */
    const void *packed_x;       /* x packed by the table's `pack`, if it has one for the layout */
    const float *x_remainder;   /* NULL, or [rows, n_in]: what x lost by rounding; it is multiplied, too */
    const void *packed_remainder; /* x_remainder packed by `pack` */
    const struct gpt2c_kernels *kernels; /* the table in use: an inherited kernel applies its GELU */
    gpt2c_epilogue epilogue;    /* the same arithmetic as in the separate operation, so the same bits */
    const uint16_t *gelu_table; /* for GPT2C_EPILOGUE_GELU_TABLE */
    const float *residual;      /* [rows, n_out], for GPT2C_EPILOGUE_ADD */
} gpt2c_linear_args;

static inline size_t gpt2c_pad(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* Bytes from one row of packed activations to the next: an odd number of cache lines, since rows that are a
 * multiple of 4096 bytes apart would all map to one set of the L1 cache. */
static inline size_t gpt2c_packed_x_bytes(size_t n_in) { return (gpt2c_pad(n_in, 64) * sizeof(uint16_t)) | 64; }

/* K and V are stored in tiles of this many positions, and the elements of a head are padded to a multiple of
 * it, so that a kernel set can lay them out in whole registers. */
#define GPT2C_KV_TILE 16

/* K and V of one layer. Only a kernel set knows their layout, in its `store`, `attention` and `kv_runs` (or
 * `store_f16`, `attention_f16` and `kv_runs_f16`). Each holds pad(n_ctx, KV_TILE) * n_head *
 * pad(head_dim, KV_TILE) elements, 64-byte aligned. Elements that were never stored are undefined. */
typedef struct gpt2c_kv {
    void *k; /* floats or halves */
    void *v;
    size_t n_ctx;
    size_t n_head;
    size_t head_dim;
    int f16; /* 1: halves */
} gpt2c_kv;

static inline size_t gpt2c_kv_element_bytes(int f16) { return f16 ? sizeof(uint16_t) : sizeof(float); }

/* Rows of scores in the scratch of an `attention` call. */
#define GPT2C_SCORE_ROWS 16

typedef struct gpt2c_attention_args {
    float *out;              /* [rows, n_embd] */
    const float *qkv;        /* [rows, 3 n_embd]: q, k and v side by side */
    const gpt2c_kv *kv;      /* holds positions 0 .. position + rows - 1 */
    size_t position;         /* the position of row 0 */
    float *scores;           /* [SCORE_ROWS][pad(n_ctx, KV_TILE)], scratch of the calling thread */
    int fused;               /* 1: the scale is applied to scores as they are computed or read; 0: in a pass */
    float scale;             /* of the scores */
} gpt2c_attention_args;

/* Called for each run of contiguous bytes that the visited positions occupy. */
typedef void gpt2c_kv_visit(void *context, void *run, size_t n_bytes);

struct gpt2c_screen; /* screen.h */

/* Outside the linear layers any pointer named `out` may equal an input of the same shape. */
typedef struct gpt2c_kernels {
    /* Roughly how many times as fast as those of `ref` the linear kernels are; 0 means 1. work.c uses it to
     * choose the size of the blocks between which a call can be ended. */
    size_t speed;

    /* out = wte[token] + wpe. wte is laid out as an output head, so one of its rows is a column of w. */
    void (*embed)(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe);

    /* out[r] = (x[r] - mean) / sqrt(variance + epsilon) * weight + bias, over the n elements of a row. */
    void (*layernorm)(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                      size_t n, float epsilon);

    /* out = x w + bias for the given rows and columns; one function for each layout. Panels are
     * never split: spans of columns begin at a multiple of GPT2C_PANEL. */
    void (*linear[GPT2C_LAYOUT_COUNT])(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

    /* For a layout whose kernel reads packed activations: packs rows of x [rows, n_in] into rows of
     * gpt2c_packed_x_bytes(n_in). NULL: the kernel reads x itself. */
    void (*pack[GPT2C_LAYOUT_COUNT])(void *out, const float *x, size_t rows, size_t n_in);

    /* 1: `pack` rounds x to bfloat16, so products with this layout use the rounded x. */
    int rounds_x[GPT2C_LAYOUT_COUNT];

    /* For columns c: upper[c] = estimate + bound, an upper bound of the head's logit. Returns the largest
     * estimate - bound. `norm` is at least |x|. See screen.h. */
    float (*screen)(float *upper, const struct gpt2c_screen *screen, const float *x, float norm,
                    gpt2c_span columns);

    /* Stores the k and v parts of qkv [rows, 3 n_embd], beginning at `position`. */
    void (*store)(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);

    /* Causal self-attention of the given rows and heads. */
    void (*attention)(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);

    /* The same for kv->f16. Elements are rounded to half precision when they are stored, ties to even, and
     * widened when they are read, which is exact; sums are as over floats. A finite element beyond 65,504,
     * the largest half, is stored as 65,504: K and V of a trained GPT-2 stay far below that, but one
     * infinity would turn every later row into NaN. Infinities and NaN are stored unchanged. */
    void (*store_f16)(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
    void (*attention_f16)(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);

    /* Visits every byte of K and V that `store` or `store_f16` stored at these positions, always in the same
     * order for the same kv and positions. The runs may include padding, but no undefined bytes. */
    void (*kv_runs)(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);
    void (*kv_runs_f16)(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);

    void (*softmax)(float *out, const float *x, size_t n);
    void (*gelu)(float *out, const float *x, size_t n);
    void (*gelu_table)(float *out, const float *x, size_t n, const uint16_t *table);
    void (*gelu_erf)(float *out, const float *x, size_t n);
    void (*relu)(float *out, const float *x, size_t n);
    void (*add)(float *out, const float *a, const float *b, size_t n);
    size_t (*argmax)(const float *x, size_t n);
} gpt2c_kernels;

/* Each calls the kernel for the form in which kv is stored: floats or halves. */
static inline void gpt2c_kv_store(const gpt2c_kernels *kernels, const gpt2c_kv *kv, const float *qkv,
                                  size_t rows, size_t position) {
    (kv->f16 ? kernels->store_f16 : kernels->store)(kv, qkv, rows, position);
}

static inline void gpt2c_attention(const gpt2c_kernels *kernels, const gpt2c_attention_args *args,
                                   gpt2c_span rows, gpt2c_span heads) {
    (args->kv->f16 ? kernels->attention_f16 : kernels->attention)(args, rows, heads);
}

static inline void gpt2c_kv_runs(const gpt2c_kernels *kernels, const gpt2c_kv *kv, gpt2c_span positions,
                                 gpt2c_kv_visit *visit, void *context) {
    (kv->f16 ? kernels->kv_runs_f16 : kernels->kv_runs)(kv, positions, visit, context);
}

/* The activation of an epilogue as a separate operation; does nothing for the other epilogues. */
static inline void gpt2c_activate(const gpt2c_kernels *kernels, gpt2c_epilogue epilogue,
                                  const uint16_t *table, float *out, const float *x, size_t n) {
    switch (epilogue) {
    case GPT2C_EPILOGUE_GELU: kernels->gelu(out, x, n); break;
    case GPT2C_EPILOGUE_GELU_TABLE: kernels->gelu_table(out, x, n, table); break;
    case GPT2C_EPILOGUE_GELU_ERF: kernels->gelu_erf(out, x, n); break;
    case GPT2C_EPILOGUE_RELU: kernels->relu(out, x, n); break;
    case GPT2C_EPILOGUE_NONE:
    case GPT2C_EPILOGUE_ADD: break;
    }
}

/* Applies the activations that few models use to a stored row. For kernels that apply all other epilogues in
 * registers, before they store. */
static inline void gpt2c_finish_activation(const gpt2c_linear_args *args, size_t row, gpt2c_span columns) {
    float *out = args->out + row * args->w->n_out + columns.begin;
    if (args->epilogue == GPT2C_EPILOGUE_GELU_ERF || args->epilogue == GPT2C_EPILOGUE_RELU)
        gpt2c_activate(args->kernels, args->epilogue, NULL, out, out, columns.end - columns.begin);
}

/* The table of an instruction set, or NULL if this build does not contain it. */
const gpt2c_kernels *gpt2c_kernels_of(int32_t isa);

#endif
