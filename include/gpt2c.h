/* gpt2c: GPT-2 on the CPU. This header is the whole public C interface and its manual.
 *
 * Conventions
 *   - Every call that can fail returns a gpt2c_status; GPT2C_STATUS_OK is 0. The library never prints
 *     and never exits. A call that fails leaves its out-handle NULL and a session as it was.
 *   - Arguments are checked: a NULL pointer, a size of zero or a number outside its range gives
 *     GPT2C_STATUS_INVALID_ARGUMENT. Buffers belong to the caller; a float buffer's length is in floats.
 *   - A model may be shared by any number of threads once it is frozen. A session belongs to one
 *     call at a time; a second call at the same time gets GPT2C_STATUS_BUSY and changes nothing.
 *   - For one instruction set the results are the same to the bit whatever the number of threads,
 *     the chunks in which tokens are fed, and the work that is kept or recomputed: in the
 *     floating-point environment that C starts with, which rounds to nearest and has subnormals.
 *
 * The text between the two markers is plain C declarations without the preprocessor, because the
 * CFFI binding reads it as it stands.
 */
#ifndef GPT2C_H
#define GPT2C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The only place that states the version: what setup.py gives the package, and gpt2c_version() returns. */
#define GPT2C_VERSION "0.1.0"

/* BEGIN DECLARATIONS */

typedef enum gpt2c_status {
    GPT2C_STATUS_OK = 0,
    GPT2C_STATUS_INVALID_ARGUMENT = 1,
    GPT2C_STATUS_OUT_OF_MEMORY = 2,
    GPT2C_STATUS_UNSUPPORTED = 3,  /* the instruction set is not compiled, or not on this machine */
    GPT2C_STATUS_NOT_READY = 4,    /* a tensor was never set, or the model is frozen (or is not yet) */
    GPT2C_STATUS_BAD_TOKEN = 5,    /* a token id outside [0, n_vocab) */
    GPT2C_STATUS_CONTEXT_FULL = 6, /* n_past + n_ids > n_ctx */
    GPT2C_STATUS_BUSY = 7,         /* the session is in a call of another thread */
    GPT2C_STATUS_CANCELLED = 8,    /* gpt2c_session_cancel() or the poll function ended the call */
    GPT2C_STATUS_IO_ERROR = 9,     /* a file could not be opened, mapped or written */
    GPT2C_STATUS_BAD_FILE = 10,    /* not a packed file of this version, another model's, or damaged */
    GPT2C_STATUS_BAD_WEIGHTS = 11  /* stored weights with a scale that is no number of a quantized weight */
} gpt2c_status;

/* One sentence for a status; a valid string for any number. */
const char *gpt2c_status_message(gpt2c_status status);

/* GPT2C_VERSION, "major.minor.patch". */
const char *gpt2c_version(void);

/* Sizes that callers have to know. */
typedef enum gpt2c_limit {
    GPT2C_LIMIT_CHUNK_ROWS = 256,   /* tokens of a chunk, into which a feed is cut, or of a batch, at most */
    GPT2C_LIMIT_PANEL_COLUMNS = 32, /* of a panel: spans of columns begin at a multiple of it */
    GPT2C_LIMIT_THREADS = 1024      /* of a model's pool, the calling one included, at most */
} gpt2c_limit;

/* ---- Instruction sets ------------------------------------------------------------------------
 * Numbered from 0 (`ref`) in the order of native/isa.def. */

typedef struct gpt2c_isa_info {
    const char *name;
    int32_t compiled;         /* this build holds its kernels */
    int32_t supported;        /* compiled, and both the CPU and the operating system have it */
} gpt2c_isa_info;

int32_t gpt2c_isa_count(void);
gpt2c_status gpt2c_isa_get(int32_t isa, gpt2c_isa_info *info);

/* How a matrix lies, and so which linear kernel reads it. */
typedef enum gpt2c_layout {
    GPT2C_LAYOUT_IN_OUT = 0,      /* row-major [n_in, n_out], the projections as in the file */
    GPT2C_LAYOUT_OUT_IN = 1,      /* row-major [n_out, n_in], the embedding as in the file */
    GPT2C_LAYOUT_PANELS = 2,      /* [ceil(n_out / 32)][n_in][32], 64-byte aligned, padded by 0 */
    GPT2C_LAYOUT_PANELS_BF16 = 3, /* [ceil(n_out / 32)][ceil(n_in / 2)][32][2] in bfloat16, likewise */
    GPT2C_LAYOUT_PANELS_Q8 = 4,   /* [ceil(n_out / 32)][ceil(n_in / 64)] blocks of 8 bits, and scales */
    GPT2C_LAYOUT_PANELS_Q4 = 5,   /* [ceil(n_out / 32)][ceil(n_in / 32)] of 4: native/quantized.h */
    GPT2C_LAYOUT_COUNT = 6
} gpt2c_layout;

/* ---- Weight formats --------------------------------------------------------------------------
 * Numbered from 0 (f32) in the order of native/formats.def. */

int32_t gpt2c_format_count(void);

/* Its name, or NULL if there is no such format. */
const char *gpt2c_format_name(int32_t format);

/* ---- Memory ----------------------------------------------------------------------------------
 * Every byte the library allocates goes through one counted allocator. */

typedef struct gpt2c_memory_stats {
    size_t live_bytes;        /* allocated and not yet freed, as asked for */
    size_t peak_bytes;        /* the most live_bytes has been */
    size_t allocations;       /* calls so far; a feed adds none */
} gpt2c_memory_stats;

void gpt2c_memory_get(gpt2c_memory_stats *stats);

/* For tests: the n-th allocation from now fails (1 = the next), as do all later ones;
 * 0 turns this off. */
void gpt2c_memory_fail_at(size_t n);

/* ---- Model -----------------------------------------------------------------------------------*/

typedef struct gpt2c_model gpt2c_model;

/* What each switch does when on: its operations compute the rows of new tokens only. Off: the rows
 * of every token so far, again at every call. Results are the same to the bit either way. */
typedef enum gpt2c_switch {
    GPT2C_SWITCH_KV = 0,       /* Q, K, V projection and attention */
    GPT2C_SWITCH_LINEAR = 1,   /* the attention output projection and the two of the MLP */
    GPT2C_SWITCH_GELU = 2,
    GPT2C_SWITCH_RESIDUAL = 3, /* residual additions and the embedding */
    GPT2C_SWITCH_LAYERNORM = 4,
    GPT2C_SWITCH_UNEMBED = 5,  /* logits: the last row only, or every row */
    GPT2C_SWITCH_COUNT = 6
} gpt2c_switch;

/* What stands between the two projections of the MLP. */
typedef enum gpt2c_activation {
    GPT2C_ACTIVATION_GELU_TANH = 0, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's own */
    GPT2C_ACTIVATION_GELU_ERF = 1,  /* x/2 (1 + erf(x / sqrt(2))) */
    GPT2C_ACTIVATION_RELU = 2,      /* max(x, 0) */
    GPT2C_ACTIVATION_COUNT = 3
} gpt2c_activation;

typedef struct gpt2c_model_config {
    int32_t n_layer;
    int32_t n_head;              /* divides n_embd */
    int32_t n_embd;
    int32_t n_inner;             /* width of the MLP's hidden layer */
    int32_t n_ctx;
    int32_t n_vocab;
    float layer_norm_epsilon;
    int32_t isa;                 /* kernels to use: 0 .. gpt2c_isa_count() - 1 */
    uint32_t switches;           /* bit s set: switch s is on */
    int32_t gelu_table;          /* 1: GELU by the fp16 table; 0: by the formula */
    int32_t aligned;             /* 1: weights in 64-byte aligned panels; 0: row-major as in the file */
    int32_t format;              /* of the weights: 0 .. gpt2c_format_count() - 1; all but 0 need aligned */
    int32_t n_threads;           /* 1 .. GPT2C_LIMIT_THREADS, the calling one included */
    int32_t fused;               /* 1: GELU and residual in the projections' epilogue, scale, mask and
                                    softmax in one pass; needs switches 0 to 3; same bits as 0 */
    int32_t head_screen;         /* 1: a greedy id from a compact copy of the head, where nothing else
                                    reads the logits; needs aligned, switch 5 and a format that is not of
                                    integers; same ids as 0 */
    int32_t kv_f16;              /* 1: K and V rounded to half precision when they are kept, and read as
                                    such by every row; needs switch 0 */
    int32_t activation;          /* a gpt2c_activation; gelu_table needs GPT2C_ACTIVATION_GELU_TANH */
    int32_t untied;              /* 1: the output head is GPT2C_TENSOR_LM_HEAD; 0: it is GPT2C_TENSOR_WTE */
    int32_t unscaled_scores;     /* 1: attention's scores are not divided by the root of a head's width */
    int32_t scores_by_layer;     /* 1: they are divided by the layer's number, counted from 1 */
} gpt2c_model_config;

typedef enum gpt2c_tensor {
    GPT2C_TENSOR_WTE = 0,              /* [n_vocab, n_embd], also the output head unless that is untied */
    GPT2C_TENSOR_WPE = 1,              /* [n_ctx, n_embd] */
    GPT2C_TENSOR_LN_1_WEIGHT = 2,      /* [n_embd]; from here to MLP_PROJ_BIAS one a layer */
    GPT2C_TENSOR_LN_1_BIAS = 3,
    GPT2C_TENSOR_ATTN_QKV_WEIGHT = 4,  /* [n_embd, 3 n_embd]: [in, out], as all four projections */
    GPT2C_TENSOR_ATTN_QKV_BIAS = 5,
    GPT2C_TENSOR_ATTN_PROJ_WEIGHT = 6, /* [n_embd, n_embd] */
    GPT2C_TENSOR_ATTN_PROJ_BIAS = 7,
    GPT2C_TENSOR_LN_2_WEIGHT = 8,
    GPT2C_TENSOR_LN_2_BIAS = 9,
    GPT2C_TENSOR_MLP_FC_WEIGHT = 10,   /* [n_embd, n_inner] */
    GPT2C_TENSOR_MLP_FC_BIAS = 11,
    GPT2C_TENSOR_MLP_PROJ_WEIGHT = 12, /* [n_inner, n_embd] */
    GPT2C_TENSOR_MLP_PROJ_BIAS = 13,
    GPT2C_TENSOR_LN_F_WEIGHT = 14,     /* [n_embd] */
    GPT2C_TENSOR_LN_F_BIAS = 15,
    GPT2C_TENSOR_LM_HEAD = 16,         /* [n_vocab, n_embd], of an untied model only */
    GPT2C_TENSOR_COUNT = 17
} gpt2c_tensor;

typedef enum gpt2c_dtype {
    GPT2C_DTYPE_F32 = 0,
    GPT2C_DTYPE_F16 = 1,
    GPT2C_DTYPE_BF16 = 2,
    GPT2C_DTYPE_STORED = 3, /* bytes as gpt2c_model_get gives them */
    GPT2C_DTYPE_COUNT = 4
} gpt2c_dtype;

/* A model whose tensors are not set yet. GPT2C_STATUS_UNSUPPORTED: this machine cannot run config->isa. */
gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model);

/* Copies one tensor in, converting it to the model's own layout. `data` holds little-endian numbers
 * of `dtype` at any address, `n_bytes` in all; `layer` is 0 for tensors outside the layers.
 * Different tensors may be set from different threads. GPT2C_STATUS_NOT_READY: the model is frozen.
 * GPT2C_STATUS_BAD_WEIGHTS: a bad scale in GPT2C_DTYPE_STORED bytes; the tensor then counts as not set. */
gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                             gpt2c_dtype dtype, const void *data, size_t n_bytes);

/* Bytes that one tensor takes as the model keeps it, padding included; 0 if there is no such tensor. */
size_t gpt2c_model_tensor_bytes(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer);

/* Copies one tensor out as the model keeps it: a matrix in the layout of the model's format, all else in
 * float32. `n_bytes` must be gpt2c_model_tensor_bytes of it. GPT2C_STATUS_NOT_READY: the tensor is not set. */
gpt2c_status gpt2c_model_get(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer, void *out,
                             size_t n_bytes);

/* From now on the model can be used and not be changed. GPT2C_STATUS_NOT_READY: a tensor is missing. */
gpt2c_status gpt2c_model_freeze(gpt2c_model *model);

/* Bytes of weights held. */
size_t gpt2c_model_weight_bytes(const gpt2c_model *model);

/* A checksum of a frozen model's weights as they lie in memory, all of which it reads. */
gpt2c_status gpt2c_model_checksum(const gpt2c_model *model, uint64_t *checksum);

/* How the projections lie (GPT2C_LAYOUT_IN_OUT for a NULL model). */
gpt2c_layout gpt2c_model_layout(const gpt2c_model *model);

/* ---- Packed files: a frozen model's weights as they lie in memory, to be mapped -----------------*/

/* The version of their format, which grows with every change of it; files of another are bad files. */
int32_t gpt2c_packed_version(void);

/* Writes the model beside `path` and then renames it to `path`, so that no half of a file is ever
 * there. `key` (any text of less than 128 bytes) says what the file was made from. */
gpt2c_status gpt2c_packed_save(const gpt2c_model *model, const char *path, const char *key);

/* Maps a packed file as a frozen model, sharing its pages with every process that maps it. The shape,
 * `aligned`, `format`, `head_screen` and what stands behind kv_f16 in `config` must be the file's; the rest
 * of `config` is the caller's choice. `key` must be the one it was saved with; NULL takes any. The header's checksum is checked.
 * GPT2C_STATUS_BAD_FILE: anything about the file is not as it should be. */
gpt2c_status gpt2c_packed_open(const char *path, const char *key, const gpt2c_model_config *config,
                               gpt2c_model **model);

/* What a packed file says of `config` (see above), the rest 0; config->isa, n_threads and so on are then for
 * the caller to fill in. With verify != 0 the weights' checksum is checked too, which reads them all. */
gpt2c_status gpt2c_packed_info(const char *path, int32_t verify, gpt2c_model_config *config);

/* Lets go of a model; NULL is allowed. Its memory is freed when its last session is. */
void gpt2c_model_free(gpt2c_model *model);

/* ---- Session: one sequence of tokens and what is kept of it ------------------------------------*/

typedef struct gpt2c_session gpt2c_session;

/* Called every 50 ms or so during a long call, on the thread that made the call; a result other
 * than 0 ends that call with GPT2C_STATUS_CANCELLED. */
typedef int (*gpt2c_poll)(void *context);

/* Where a feed writes; NULL where a result is not wanted. */
typedef struct gpt2c_outputs {
    float *last_logits;          /* [n_vocab], of the last token fed */
    float *logits;               /* [n_ids, n_vocab], of every token fed */
    float *hidden;               /* [n_ids, n_embd], after the final layer norm */
    int32_t *next_id;            /* the id of the largest last logit; the lowest id wins a tie */
    int32_t *next_ids;           /* [n_ids], the same of every token fed */
} gpt2c_outputs;

/* GPT2C_STATUS_NOT_READY: the model is not frozen. `poll` may be NULL. */
gpt2c_status gpt2c_session_create(gpt2c_model *model, gpt2c_poll poll, void *poll_context,
                                  gpt2c_session **session);

/* Runs n_ids >= 1 tokens behind the n_past that the session holds. All arguments are checked before
 * any work, and on any failure n_past and what it stands for are unchanged. */
gpt2c_status gpt2c_session_feed(gpt2c_session *session, const int32_t *ids, size_t n_ids,
                                const gpt2c_outputs *outputs);

/* Feeds several sessions of one model in one pass: n_ids[i] >= 1 tokens to session i, `ids` holding
 * those of the first, then of the second, and so on; GPT2C_LIMIT_CHUNK_ROWS, and n_ctx, at most in all. Needs all
 * six switches on. last_logits [n_sessions, n_vocab] and next_ids [n_sessions] as in gpt2c_outputs, or
 * NULL. Each session's results have the bits of a feed of its own. On any failure none has changed.
 * To cancel one is to end the pass of all; the poll function is that of the first. */
gpt2c_status gpt2c_batch_feed(gpt2c_session *const *sessions, size_t n_sessions, const int32_t *ids,
                              const size_t *n_ids, float *last_logits, int32_t *next_ids);

/* Tokens that the session holds; during a call what it held before. 0 for NULL. */
size_t gpt2c_session_n_past(const gpt2c_session *session);

/* Keeps the first n_past tokens and forgets the rest. */
gpt2c_status gpt2c_session_rewind(gpt2c_session *session, size_t n_past);

/* The first n <= n_past of the tokens that the session holds. */
gpt2c_status gpt2c_session_ids(gpt2c_session *session, int32_t *ids, size_t n);

/* Puts the first n tokens of `from`, another session of the same model, in the place of whatever
 * `session` holds: as if they had been fed to it, without computing them again. What both begin with
 * is not copied either. n may be 0. */
gpt2c_status gpt2c_session_copy(gpt2c_session *session, gpt2c_session *from, size_t n);

/* ---- State: what a session holds, as bytes ----
 * In the machine's byte order, and laid out as the model's instruction set, switches and kv_f16 want it:
 * to be put back into a session of a model with the same config and the same weights, which nothing
 * here can check. */

/* Bytes of n tokens' state; 0 for a NULL session or n > n_ctx. */
size_t gpt2c_session_state_bytes(const gpt2c_session *session, size_t n);

/* All n_past tokens' state; n_bytes must be what gpt2c_session_state_bytes says of them. */
gpt2c_status gpt2c_session_get_state(gpt2c_session *session, void *state, size_t n_bytes);

/* Puts the state of n tokens in the place of whatever the session holds. GPT2C_STATUS_BAD_TOKEN: it holds an
 * id outside [0, n_vocab), so it is not a state of this model. */
gpt2c_status gpt2c_session_set_state(gpt2c_session *session, size_t n, const void *state, size_t n_bytes);

/* Ends the feed that is running in another thread, if one is, with GPT2C_STATUS_CANCELLED. */
void gpt2c_session_cancel(gpt2c_session *session);

/* rows[s]: how many rows the operations of switch s computed in the last feed, counted where the
 * work is done; of several, as of several layers, the most that one of them computed. */
gpt2c_status gpt2c_session_rows(gpt2c_session *session, size_t rows[GPT2C_SWITCH_COUNT]);

/* How many passes over activations for GELU or a residual alone the last feed took: 3 n_layer a chunk,
 * or 0 where `fused` leaves them to the projections. */
gpt2c_status gpt2c_session_separate_passes(gpt2c_session *session, size_t *passes);

/* For head_screen: how many greedy ids were screened for since the session was made, and how many
 * candidates (tokens whose logits were then computed) that took in all. */
gpt2c_status gpt2c_session_screened(gpt2c_session *session, size_t *ids, size_t *candidates);

/* What a trace tells apart. GELU and residual are there only where they are passes of their own. */
typedef enum gpt2c_traced_op {
    GPT2C_TRACED_OP_EMBED = 0,
    GPT2C_TRACED_OP_LN_1 = 1,
    GPT2C_TRACED_OP_QKV = 2,
    GPT2C_TRACED_OP_ATTENTION = 3,
    GPT2C_TRACED_OP_ATTN_PROJ = 4,
    GPT2C_TRACED_OP_LN_2 = 5,
    GPT2C_TRACED_OP_MLP_FC = 6,
    GPT2C_TRACED_OP_GELU = 7,
    GPT2C_TRACED_OP_MLP_PROJ = 8,
    GPT2C_TRACED_OP_RESIDUAL = 9,
    GPT2C_TRACED_OP_LN_F = 10,
    GPT2C_TRACED_OP_HEAD = 11,
    GPT2C_TRACED_OP_COUNT = 12
} gpt2c_traced_op;

/* "embed", "ln_1", ..., or NULL if there is no such operation. */
const char *gpt2c_traced_op_name(int32_t op);

/* One operation of a feed. */
typedef struct gpt2c_trace_event {
    int32_t op;                  /* a gpt2c_traced_op */
    int32_t layer;               /* -1 outside the layers */
    int64_t begin_ns;            /* nanoseconds of the monotonic clock */
    int64_t end_ns;
    int64_t rows;                /* computed */
    int64_t n_in;                /* numbers a row comes from (attention: positions looked at) */
    int64_t n_out;               /* numbers in a row of the result */
    int64_t bytes;               /* weights, K, V, inputs and results, each counted once */
} gpt2c_trace_event;

/* From now on each feed writes its operations into `events`, from the first on, in the order in which
 * they ran; a batch those of all its rows into the events of its first session. The buffer is the
 * caller's and is written to until tracing is turned off, by NULL and 0. */
gpt2c_status gpt2c_session_trace(gpt2c_session *session, gpt2c_trace_event *events, size_t capacity);

/* How many operations the last feed ran while traced; those beyond the capacity were not written. */
gpt2c_status gpt2c_session_traced(gpt2c_session *session, size_t *n_events);

/* Lets go of a session; NULL is allowed. No call may be running in it. The model keeps one ended session's
 * buffers for the next one, until it goes itself. */
void gpt2c_session_free(gpt2c_session *session);

/* ---- Kernels: the operations one by one --------------------------------------------------------
 * What a session runs, for learning, tests and microbenchmarks. `isa` is an instruction set's number,
 * GPT2C_STATUS_UNSUPPORTED: this machine cannot run it. Arrays are row-major. The number of rows may be 0:
 * then nothing is read or written, and arrays of rows may be NULL; every other size is at least 1.
 * Any row has the same bits whatever rows are computed beside it. `out` may be an input of the same
 * shape, but overlaps none in linear, embed and attention. Error bounds: native/kernels.h. */

/* A linear layer's weights, laid out. Any number of calls may read one at the same time. */
typedef struct gpt2c_matrix gpt2c_matrix;

/* Copies weights, which lie as `given` (GPT2C_LAYOUT_IN_OUT or GPT2C_LAYOUT_OUT_IN), into `layout`. */
gpt2c_status gpt2c_matrix_create(const float *weight, gpt2c_layout given, size_t n_in, size_t n_out,
                                 gpt2c_layout layout, gpt2c_matrix **matrix);

/* NULL is allowed. */
void gpt2c_matrix_free(gpt2c_matrix *matrix);

/* What a linear layer does with a finished sum before it is stored: the same bits as the separate
 * operation makes of it. */
typedef enum gpt2c_epilogue {
    GPT2C_EPILOGUE_NONE = 0,
    GPT2C_EPILOGUE_GELU = 1,
    GPT2C_EPILOGUE_GELU_TABLE = 2,
    GPT2C_EPILOGUE_ADD = 3, /* residual + sum */
    GPT2C_EPILOGUE_GELU_ERF = 4,
    GPT2C_EPILOGUE_RELU = 5
} gpt2c_epilogue;

typedef struct gpt2c_op_linear_args {
    float *out;                  /* [rows, n_out] */
    const float *x;              /* [rows, n_in] */
    const gpt2c_matrix *weight;  /* n_in and n_out are its own */
    const float *bias;           /* [n_out], or NULL */
    gpt2c_epilogue epilogue;
    const uint16_t *gelu_table;  /* [65536], of GPT2C_EPILOGUE_GELU_TABLE */
    const float *residual;       /* [rows, n_out], of GPT2C_EPILOGUE_ADD */
    size_t rows_begin;           /* rows and columns to compute, the end not included; nothing else */
    size_t rows_end;             /* is written. There are at least rows_end rows. Columns begin and */
    size_t columns_begin;        /* end at a multiple of 32, or end at n_out. */
    size_t columns_end;
} gpt2c_op_linear_args;

/* out = x weight + bias, and then the epilogue. */
gpt2c_status gpt2c_op_linear(int32_t isa, const gpt2c_op_linear_args *args);

/* out[r] = column ids[r] of wte [n_embd, n_vocab] + wpe[r], a token's row of the embedding being a
 * column of the head. out, wpe: [rows, n_embd]. GPT2C_STATUS_BAD_TOKEN: an id outside [0, n_vocab). */
gpt2c_status gpt2c_op_embed(int32_t isa, float *out, const gpt2c_matrix *wte, const int32_t *ids,
                            const float *wpe, size_t rows);

/* out[r] = (x[r] - mean) / sqrt(variance + epsilon) * weight + bias, of n numbers a row; epsilon is
 * positive and finite. */
gpt2c_status gpt2c_op_layernorm(int32_t isa, float *out, const float *x, const float *weight,
                                const float *bias, size_t rows, size_t n, float epsilon);

/* Fills table[65536]: entry h is GELU of the fp16 number with the bits h, rounded to fp16. */
gpt2c_status gpt2c_gelu_table_fill(uint16_t *table);

/* GELU of n numbers, n >= 0: by the tanh formula, or by a filled table if that is not NULL. */
gpt2c_status gpt2c_op_gelu(int32_t isa, float *out, const float *x, size_t n,
                           const uint16_t *table);

/* GELU by the error function, of n numbers, n >= 0. */
gpt2c_status gpt2c_op_gelu_erf(int32_t isa, float *out, const float *x, size_t n);

/* out = x where x > 0 (and a NaN), else 0; n >= 0 numbers. */
gpt2c_status gpt2c_op_relu(int32_t isa, float *out, const float *x, size_t n);

/* out = a + b, n >= 0 numbers. */
gpt2c_status gpt2c_op_add(int32_t isa, float *out, const float *a, const float *b, size_t n);

/* out[r] = e^x[r] / sum of e^x[r], n numbers a row. */
gpt2c_status gpt2c_op_softmax(int32_t isa, float *out, const float *x, size_t rows, size_t n);

/* out[r] = where x[r], n < 2^31 numbers, is largest; the lowest index wins a tie, a NaN counts as
 * -infinity. */
gpt2c_status gpt2c_op_argmax(int32_t isa, int64_t *out, const float *x, size_t rows, size_t n);

typedef struct gpt2c_op_attention_args {
    float *out;                  /* [n - n_past, n_embd], n_embd = n_head * head_dim */
    const float *q;              /* [n, n_embd]; the first n_past rows are not read */
    const float *k;              /* [n, n_embd] */
    const float *v;              /* [n, n_embd] */
    size_t n;                    /* positions */
    size_t n_past;               /* <= n: their K and V are stored first, as by an earlier call */
    size_t n_head;
    size_t head_dim;
    int32_t fused;               /* 1: scale, mask and maximum on the way; 0: in passes of their own */
    int32_t kv_f16;              /* 1: K and V are stored in half precision */
    size_t rows_begin;           /* rows of `out` and heads to compute, the end not included; nothing */
    size_t rows_end;             /* else of `out` is written */
    size_t heads_begin;
    size_t heads_end;
} gpt2c_op_attention_args;

/* Causal self-attention: row r of `out` is position n_past + r, which sees positions up to its own. */
gpt2c_status gpt2c_op_attention(int32_t isa, const gpt2c_op_attention_args *args);

/* END DECLARATIONS */

#ifdef __cplusplus
}
#endif
#endif
