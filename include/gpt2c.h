/* gpt2c: GPT-2 on the CPU. This header is the whole public C interface and its manual.
 *
 * Conventions
 *   - A call that can fail returns a gpt2c_status; GPT2C_STATUS_OK is 0. The library never prints and
 *     never exits. A call that fails sets its output handle to NULL, and leaves every session with the
 *     tokens that it held before.
 *   - Arguments are checked. A NULL pointer, a size of 0 or a value outside its range gives
 *     GPT2C_STATUS_INVALID_ARGUMENT, unless the call says otherwise. Buffers belong to the caller;
 *     the length of a float buffer is in floats.
 *   - Any number of threads may share a frozen model. A session serves one call at a time: a second
 *     call during the first gets GPT2C_STATUS_BUSY and changes nothing.
 *   - For one instruction set, results are the same to the bit for any number of threads, for any
 *     division of the tokens into feeds, and for any setting of the switches (gpt2c_switch). This holds
 *     in the floating-point environment that a C program starts with: round to nearest, subnormals not
 *     flushed to 0.
 *
 * The text between the two markers is plain C declarations without the preprocessor: the CFFI
 * binding parses it unchanged.
 */
#ifndef GPT2C_H
#define GPT2C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The only place that states the version; setup.py and gpt2c_version() take it from here. */
#define GPT2C_VERSION "0.1.0"

/* BEGIN DECLARATIONS */

typedef enum gpt2c_status {
    GPT2C_STATUS_OK = 0,
    GPT2C_STATUS_INVALID_ARGUMENT = 1,
    GPT2C_STATUS_OUT_OF_MEMORY = 2,
    GPT2C_STATUS_UNSUPPORTED = 3,  /* this build or this machine does not support the instruction set */
    GPT2C_STATUS_NOT_READY = 4,    /* a tensor is not set, or the model is frozen (or not yet frozen) */
    GPT2C_STATUS_BAD_TOKEN = 5,    /* a token id outside [0, n_vocab) */
    GPT2C_STATUS_CONTEXT_FULL = 6, /* n_past + n_ids > n_ctx */
    GPT2C_STATUS_BUSY = 7,         /* another thread is in a call of the session */
    GPT2C_STATUS_CANCELLED = 8,    /* gpt2c_session_cancel() or the poll function ended the call */
    GPT2C_STATUS_IO_ERROR = 9,     /* a file could not be opened, mapped or written */
    GPT2C_STATUS_BAD_FILE = 10,    /* not a packed file of this version and model, or damaged */
    GPT2C_STATUS_BAD_WEIGHTS = 11  /* stored weights with a scale that quantization cannot produce */
} gpt2c_status;

/* One sentence that describes a status. Any value gives a valid string. */
const char *gpt2c_status_message(gpt2c_status status);

/* GPT2C_VERSION, "major.minor.patch". */
const char *gpt2c_version(void);

/* Sizes that callers need. */
typedef enum gpt2c_limit {
    GPT2C_LIMIT_CHUNK_ROWS = 256,   /* max tokens in a batch, and in each chunk of a long feed */
    GPT2C_LIMIT_PANEL_COLUMNS = 32, /* columns in a panel; spans of columns begin at a multiple of it */
    GPT2C_LIMIT_THREADS = 1024      /* max threads of a model, including the calling thread */
} gpt2c_limit;

/* ---- Instruction sets ------------------------------------------------------------------------
 * Numbered from 0 (`ref`) in the order of native/isa.def. */

typedef struct gpt2c_isa_info {
    const char *name;
    int32_t compiled;         /* 1: this build contains its kernels */
    int32_t supported;        /* 1: compiled, and both the CPU and the operating system support it */
} gpt2c_isa_info;

/* The number of instruction sets, including those that are not compiled. */
int32_t gpt2c_isa_count(void);
/* Describes instruction set number `isa`, 0 .. gpt2c_isa_count() - 1. */
gpt2c_status gpt2c_isa_get(int32_t isa, gpt2c_isa_info *info);

/* How a matrix is laid out, which decides the linear kernel that reads it. A panel holds 32 columns of the
 * output; it is 64-byte aligned and padded with 0. native/quantized.h describes the blocks. */
typedef enum gpt2c_layout {
    GPT2C_LAYOUT_IN_OUT = 0,      /* row-major [n_in, n_out], as files store the projections */
    GPT2C_LAYOUT_OUT_IN = 1,      /* row-major [n_out, n_in], as files store the embedding */
    GPT2C_LAYOUT_PANELS = 2,      /* [ceil(n_out / 32)][n_in][32] in float32 */
    GPT2C_LAYOUT_PANELS_BF16 = 3, /* [ceil(n_out / 32)][ceil(n_in / 2)][32][2] in bfloat16 */
    GPT2C_LAYOUT_PANELS_Q8 = 4,   /* [ceil(n_out / 32)][ceil(n_in / 64)] blocks of 8-bit weights */
    GPT2C_LAYOUT_PANELS_Q4 = 5,   /* [ceil(n_out / 32)][ceil(n_in / 32)] blocks of 4-bit weights */
    GPT2C_LAYOUT_COUNT = 6
} gpt2c_layout;

/* ---- Weight formats --------------------------------------------------------------------------
 * Numbered from 0 (f32) in the order of native/formats.def. */

/* The number of weight formats. */
int32_t gpt2c_format_count(void);
/* The name of a format, or NULL if there is no format of that number. */
const char *gpt2c_format_name(int32_t format);

/* ---- Memory ----------------------------------------------------------------------------------
 * The library allocates all memory through one counted allocator. */

typedef struct gpt2c_memory_stats {
    size_t live_bytes;        /* bytes requested and not yet freed */
    size_t peak_bytes;        /* the maximum of live_bytes so far */
    size_t allocations;       /* allocations made so far; a feed makes none */
} gpt2c_memory_stats;

/* Fills *stats; does nothing if `stats` is NULL. */
void gpt2c_memory_get(gpt2c_memory_stats *stats);

/* For tests: makes the n-th allocation from now (1: the next one) and all after it fail; 0 turns this off. */
void gpt2c_memory_fail_at(size_t n);

/* ---- Model -----------------------------------------------------------------------------------*/

typedef struct gpt2c_model gpt2c_model;

/* Groups of operations. An operation computes one row per token. With the switch on, the operations of
 * the group compute only the rows of new tokens. With it off, every call again computes the rows of all
 * tokens so far. The results are the same to the bit. */
typedef enum gpt2c_switch {
    GPT2C_SWITCH_KV = 0,       /* the projection to Q, K and V, and attention */
    GPT2C_SWITCH_LINEAR = 1,   /* the output projection of attention and both projections of the MLP */
    GPT2C_SWITCH_GELU = 2,     /* the activation of the MLP */
    GPT2C_SWITCH_RESIDUAL = 3, /* residual additions and the embedding */
    GPT2C_SWITCH_LAYERNORM = 4,
    GPT2C_SWITCH_UNEMBED = 5,  /* logits; on: only of the rows that the caller asks for */
    GPT2C_SWITCH_COUNT = 6
} gpt2c_switch;

/* The function between the two projections of the MLP. */
typedef enum gpt2c_activation {
    GPT2C_ACTIVATION_GELU_TANH = 0, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as in GPT-2 */
    GPT2C_ACTIVATION_GELU_ERF = 1,  /* x/2 (1 + erf(x / sqrt(2))) */
    GPT2C_ACTIVATION_RELU = 2,      /* max(x, 0) */
    GPT2C_ACTIVATION_COUNT = 3
} gpt2c_activation;

/* "Needs" names a condition: without it, gpt2c_model_create gives GPT2C_STATUS_INVALID_ARGUMENT. */
typedef struct gpt2c_model_config {
    int32_t n_layer;
    int32_t n_head;              /* divides n_embd */
    int32_t n_embd;
    int32_t n_inner;             /* width of the MLP's hidden layer */
    int32_t n_ctx;               /* max tokens in a session */
    int32_t n_vocab;
    float layer_norm_epsilon;    /* positive and finite */
    int32_t isa;                 /* the kernels to use: 0 .. gpt2c_isa_count() - 1 */
    uint32_t switches;           /* bit s is set: switch s is on */
    int32_t gelu_table;          /* 1: GELU by a table over fp16; 0: by its formula */
    int32_t aligned;             /* 1: weights in 64-byte aligned panels; 0: row-major as in the file */
    int32_t format;              /* of the weights: 0 .. gpt2c_format_count() - 1; needs aligned if not 0 */
    int32_t n_threads;           /* 1 .. GPT2C_LIMIT_THREADS, including the calling thread */
    int32_t fused;               /* 1: projections apply GELU and residual as they store a sum, and the
                                    scale of scores takes no pass. Needs switches 0 to 3. Same bits as 0 */
    int32_t head_screen;         /* 1: where a feed wants next_id but no logits, it is found with the help
                                    of a compact copy of the head. Needs aligned, switch 5 and a format
                                    of floats. Same ids as 0 */
    int32_t kv_f16;              /* 1: K and V are stored in half precision, and every row reads them as
                                    they are stored. Needs switch 0 */
    int32_t activation;          /* a gpt2c_activation; gelu_table needs GPT2C_ACTIVATION_GELU_TANH */
    int32_t untied;              /* 1: the output head is GPT2C_TENSOR_LM_HEAD; 0: GPT2C_TENSOR_WTE */
    int32_t unscaled_scores;     /* 0: attention scores are divided by the square root of a head's width;
                                    1: they are not */
    int32_t scores_by_layer;     /* 1: scores are also divided by the layer's number, counted from 1 */
} gpt2c_model_config;

typedef enum gpt2c_tensor {
    GPT2C_TENSOR_WTE = 0,              /* [n_vocab, n_embd]; also the output head unless untied */
    GPT2C_TENSOR_WPE = 1,              /* [n_ctx, n_embd] */
    GPT2C_TENSOR_LN_1_WEIGHT = 2,      /* [n_embd]; from here to MLP_PROJ_BIAS one per layer */
    GPT2C_TENSOR_LN_1_BIAS = 3,
    GPT2C_TENSOR_ATTN_QKV_WEIGHT = 4,  /* [n_embd, 3 n_embd]: [in, out], like all four projections */
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
    GPT2C_TENSOR_LM_HEAD = 16,         /* [n_vocab, n_embd], only in an untied model */
    GPT2C_TENSOR_COUNT = 17
} gpt2c_tensor;

typedef enum gpt2c_dtype {
    GPT2C_DTYPE_F32 = 0,
    GPT2C_DTYPE_F16 = 1,
    GPT2C_DTYPE_BF16 = 2,
    GPT2C_DTYPE_STORED = 3, /* the bytes that gpt2c_model_get copies out */
    GPT2C_DTYPE_COUNT = 4
} gpt2c_dtype;

/* Creates a model whose tensors are not set yet. GPT2C_STATUS_UNSUPPORTED: this machine cannot run
 * config->isa. */
gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model);

/* Copies one tensor into the model, converting it to the model's layout. `data` holds little-endian elements
 * of `dtype` and may have any alignment; `n_bytes` must be its exact size. `layer` is 0 for tensors outside
 * the layers. Several threads may set different tensors at the same time. GPT2C_STATUS_NOT_READY: the
 * model is frozen. GPT2C_STATUS_BAD_WEIGHTS: GPT2C_DTYPE_STORED bytes with a bad scale; the tensor then
 * counts as not set. */
gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                             gpt2c_dtype dtype, const void *data, size_t n_bytes);

/* Size in bytes of one tensor in the model's layout, including padding; 0 if there is no such tensor. */
size_t gpt2c_model_tensor_bytes(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer);

/* Copies one tensor out in the model's layout: a matrix in the model's format, any other tensor in
 * float32. `n_bytes` must be its gpt2c_model_tensor_bytes. GPT2C_STATUS_NOT_READY: the tensor is not
 * set. */
gpt2c_status gpt2c_model_get(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer, void *out,
                             size_t n_bytes);

/* Makes the model usable and read-only. GPT2C_STATUS_NOT_READY: a tensor is missing, or the model is
 * already frozen. */
gpt2c_status gpt2c_model_freeze(gpt2c_model *model);

/* Size in bytes of all weights in memory; 0 for NULL. */
size_t gpt2c_model_weight_bytes(const gpt2c_model *model);

/* A checksum of the weights as they are laid out in memory; it reads all of them. GPT2C_STATUS_NOT_READY:
 * the model is not frozen. */
gpt2c_status gpt2c_model_checksum(const gpt2c_model *model, uint64_t *checksum);

/* How the projections are laid out; GPT2C_LAYOUT_IN_OUT for NULL. */
gpt2c_layout gpt2c_model_layout(const gpt2c_model *model);

/* ---- Packed files: the weights of a frozen model as they are laid out in memory, ready to map ----*/

/* The version of the packed file format; it grows with every change of the format. Files of any other
 * version are refused (GPT2C_STATUS_BAD_FILE). */
int32_t gpt2c_packed_version(void);

/* Saves a frozen model to `path`. The file is first written under a temporary name in the same folder and
 * then renamed, so `path` never holds a partial file. `key` is any text shorter than 128 bytes that
 * identifies the source of the weights. GPT2C_STATUS_NOT_READY: the model is not frozen.
 * GPT2C_STATUS_IO_ERROR: the file cannot be written, or `path` exists and is not a regular file. */
gpt2c_status gpt2c_packed_save(const gpt2c_model *model, const char *path, const char *key);

/* Maps a packed file as a frozen model; all processes that map the file share its pages. These fields of
 * `config` must equal the file's: n_layer to layer_norm_epsilon, aligned, format, head_screen, and
 * activation to scores_by_layer. The caller chooses the others. `key` must be the one that the file was
 * saved with; NULL accepts any. The checksum of the file's header is verified, that of the weights is
 * not. Errors are those of gpt2c_model_create, and also: GPT2C_STATUS_IO_ERROR: the file cannot be opened
 * or mapped. GPT2C_STATUS_BAD_FILE: it is not a packed file of this version, it is damaged, or it differs
 * from `config` or `key`. */
gpt2c_status gpt2c_packed_open(const char *path, const char *key, const gpt2c_model_config *config,
                               gpt2c_model **model);

/* Reads from a packed file the fields of `config` that gpt2c_packed_open compares, and sets the others to
 * 0; the caller then fills in isa, n_threads and so on. With verify != 0 it also verifies the checksum of
 * the weights, which reads all of them. GPT2C_STATUS_IO_ERROR and GPT2C_STATUS_BAD_FILE as above. */
gpt2c_status gpt2c_packed_info(const char *path, int32_t verify, gpt2c_model_config *config);

/* Releases the caller's reference to a model; NULL is allowed. A model without sessions is freed at once,
 * any other with its last session. */
void gpt2c_model_free(gpt2c_model *model);

/* ---- Session: one sequence of tokens and its state --------------------------------------------*/

typedef struct gpt2c_session gpt2c_session;

/* Called about every 50 ms during a long call, on the thread that made the call. A result other than 0
 * ends that call with GPT2C_STATUS_CANCELLED. */
typedef int (*gpt2c_poll)(void *context);

/* The caller's buffers for the results of a feed; NULL for a result that is not needed. */
typedef struct gpt2c_outputs {
    float *last_logits;          /* [n_vocab], of the last token fed */
    float *logits;               /* [n_ids, n_vocab], of every token fed */
    float *hidden;               /* [n_ids, n_embd], after the final layer norm */
    int32_t *next_id;            /* the id of the largest logit of the last token; the lowest id wins a tie */
    int32_t *next_ids;           /* [n_ids], such an id for every token fed */
} gpt2c_outputs;

/* Creates an empty session. `poll` may be NULL. GPT2C_STATUS_NOT_READY: the model is not frozen. */
gpt2c_status gpt2c_session_create(gpt2c_model *model, gpt2c_poll poll, void *poll_context,
                                  gpt2c_session **session);

/* Appends n_ids >= 1 tokens to the n_past tokens that the session holds, computes them, and writes
 * `outputs`. All arguments are checked before any work. After any failure the session holds the n_past
 * tokens that it held before, but the output buffers may have been written in part. */
gpt2c_status gpt2c_session_feed(gpt2c_session *session, const int32_t *ids, size_t n_ids,
                                const gpt2c_outputs *outputs);

/* Feeds several sessions of one model in one forward pass: n_ids[i] >= 1 tokens to session i. `ids` holds
 * the tokens of the first session, then those of the second, and so on: in total at most
 * GPT2C_LIMIT_CHUNK_ROWS, and at most n_ctx. Needs all six switches on. last_logits [n_sessions, n_vocab]
 * and next_ids [n_sessions] are, for each session, last_logits and next_id of gpt2c_outputs; either may be
 * NULL. Each session's results have the same bits as those of a separate feed. After any failure all
 * sessions hold the tokens that they held before. Cancelling one session ends the pass for all. Only the
 * poll function of the first session is called. GPT2C_STATUS_BUSY: a session is in a call, or is listed
 * twice. */
gpt2c_status gpt2c_batch_feed(gpt2c_session *const *sessions, size_t n_sessions, const int32_t *ids,
                              const size_t *n_ids, float *last_logits, int32_t *next_ids);

/* The number of tokens that the session holds (during a feed, the number before it); 0 for NULL. */
size_t gpt2c_session_n_past(const gpt2c_session *session);

/* Drops all tokens after the first n_past. The session must hold at least n_past. */
gpt2c_status gpt2c_session_rewind(gpt2c_session *session, size_t n_past);

/* Copies out the first n <= n_past tokens that the session holds. */
gpt2c_status gpt2c_session_ids(gpt2c_session *session, int32_t *ids, size_t n);

/* Replaces what `session` holds by the first n tokens of `from`, another session of the same model, as if
 * they had been fed to it, but computes nothing. A prefix that both sessions already have in common is not
 * copied. n may be 0; `from` must hold at least n tokens. */
gpt2c_status gpt2c_session_copy(gpt2c_session *session, gpt2c_session *from, size_t n);

/* ---- State: what a session holds, as bytes ----
 * The bytes are in the machine's byte order. Their layout depends on the model's instruction set, switches
 * and kv_f16. They may only be set in a session of a model with the same weights and the same config, except
 * that n_threads and fused may differ; the library cannot check that. */

/* Size in bytes of the state of n tokens; 0 for a NULL session or n > n_ctx. */
size_t gpt2c_session_state_bytes(const gpt2c_session *session, size_t n);

/* Copies out the state of all n_past tokens; n_bytes must be gpt2c_session_state_bytes of n_past. */
gpt2c_status gpt2c_session_get_state(gpt2c_session *session, void *state, size_t n_bytes);

/* Replaces what the session holds by the state of n tokens; n_bytes must be gpt2c_session_state_bytes of n.
 * GPT2C_STATUS_BAD_TOKEN: the state holds an id outside [0, n_vocab), so it is not of this model. */
gpt2c_status gpt2c_session_set_state(gpt2c_session *session, size_t n, const void *state, size_t n_bytes);

/* Ends a feed that another thread is running in this session, with GPT2C_STATUS_CANCELLED. Without such a
 * feed, or for NULL, it has no effect. */
void gpt2c_session_cancel(gpt2c_session *session);

/* rows[s]: how many rows the operations of switch s computed in the last successful feed, counted where the
 * work is done. A switch covers several operations, in each layer; rows[s] is the largest of their counts. */
gpt2c_status gpt2c_session_rows(gpt2c_session *session, size_t rows[GPT2C_SWITCH_COUNT]);

/* How many passes over activations the last successful feed made only for GELU or a residual: 3 n_layer per
 * chunk, or 0 with `fused`, where the projections do both. */
gpt2c_status gpt2c_session_separate_passes(gpt2c_session *session, size_t *passes);

/* For head_screen, since the session was created: how many greedy ids the screen found, and how many
 * candidates (tokens whose logits were computed after screening) this took in total. */
gpt2c_status gpt2c_session_screened(gpt2c_session *session, size_t *ids, size_t *candidates);

/* The operations in a trace. GELU and RESIDUAL occur only where they are separate passes. */
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

/* "embed", "ln_1", ..., or NULL if there is no operation of that number. */
const char *gpt2c_traced_op_name(int32_t op);

/* One operation of a feed. */
typedef struct gpt2c_trace_event {
    int32_t op;                  /* a gpt2c_traced_op */
    int32_t layer;               /* -1 outside the layers */
    int64_t begin_ns;            /* nanoseconds on the monotonic clock */
    int64_t end_ns;
    int64_t rows;                /* rows computed */
    int64_t n_in;                /* elements in a row of the input (attention: positions that it reads) */
    int64_t n_out;               /* elements in a row of the result */
    int64_t bytes;               /* weights, K, V, inputs and results, each counted once */
} gpt2c_trace_event;

/* Turns tracing on; with NULL and 0, turns it off. Each traced feed writes its operations into `events`,
 * beginning at the first event, in the order in which they ran. A batch writes those of all its rows into the
 * events of its first session. The buffer must stay valid until tracing is turned off or the session is
 * freed. */
gpt2c_status gpt2c_session_trace(gpt2c_session *session, gpt2c_trace_event *events, size_t capacity);

/* How many operations the last traced feed ran; those beyond the capacity were not written. */
gpt2c_status gpt2c_session_traced(gpt2c_session *session, size_t *n_events);

/* Frees a session; NULL is allowed. No call may be running in it. The model holds on to the buffers of one
 * freed session for the next session, until the model is freed. */
void gpt2c_session_free(gpt2c_session *session);

/* ---- Kernels: the operations one by one --------------------------------------------------------
 * The operations that a session runs, for learning, tests and microbenchmarks. `isa` is the number of an
 * instruction set; GPT2C_STATUS_UNSUPPORTED: this machine cannot run it. Arrays are row-major. The number
 * of rows may be 0: nothing is then read or written, and arrays of rows may be NULL. All other sizes are
 * at least 1, unless the call says otherwise. A row has the same bits whichever other rows are computed in
 * the same call. In linear, embed and attention, `out` must not overlap an input; elsewhere it may equal an
 * input of the same shape. Linear and attention need scratch memory and may give
 * GPT2C_STATUS_OUT_OF_MEMORY. Error bounds: native/kernels.h. */

/* The weights of a linear layer in one of the layouts. Any number of calls may read it at the same time. */
typedef struct gpt2c_matrix gpt2c_matrix;

/* Copies weights from layout `given` (GPT2C_LAYOUT_IN_OUT or GPT2C_LAYOUT_OUT_IN) into `layout`. */
gpt2c_status gpt2c_matrix_create(const float *weight, gpt2c_layout given, size_t n_in, size_t n_out,
                                 gpt2c_layout layout, gpt2c_matrix **matrix);

/* Frees a matrix; NULL is allowed. */
void gpt2c_matrix_free(gpt2c_matrix *matrix);

/* What a linear layer applies to a finished sum before storing it. The result has the same bits as that of
 * the separate operation. */
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
    const gpt2c_matrix *weight;  /* gives n_in and n_out */
    const float *bias;           /* [n_out], or NULL */
    gpt2c_epilogue epilogue;
    const uint16_t *gelu_table;  /* [65536], for GPT2C_EPILOGUE_GELU_TABLE */
    const float *residual;       /* [rows, n_out], for GPT2C_EPILOGUE_ADD */
    size_t rows_begin;           /* The rows and columns to compute, without the end; nothing else is */
    size_t rows_end;             /* written. The arrays have at least rows_end rows. Columns begin at a */
    size_t columns_begin;        /* multiple of 32, and end at a multiple of 32 or at n_out. */
    size_t columns_end;
} gpt2c_op_linear_args;

/* out = x weight + bias, followed by the epilogue. */
gpt2c_status gpt2c_op_linear(int32_t isa, const gpt2c_op_linear_args *args);

/* out[r] = wpe[r] + column ids[r] of wte. wte is [n_embd, n_vocab], like an output head: the embedding of a
 * token is a column. out, wpe: [rows, n_embd]. GPT2C_STATUS_BAD_TOKEN: an id outside [0, n_vocab). */
gpt2c_status gpt2c_op_embed(int32_t isa, float *out, const gpt2c_matrix *wte, const int32_t *ids,
                            const float *wpe, size_t rows);

/* out[r] = (x[r] - mean) / sqrt(variance + epsilon) * weight + bias, over the n elements of a row; epsilon
 * is positive and finite. */
gpt2c_status gpt2c_op_layernorm(int32_t isa, float *out, const float *x, const float *weight,
                                const float *bias, size_t rows, size_t n, float epsilon);

/* Fills table[65536]: entry h is GELU of the fp16 value with the bits h, rounded to fp16. */
gpt2c_status gpt2c_gelu_table_fill(uint16_t *table);

/* GELU of n >= 0 elements: by the tanh formula, or by a filled table if `table` is not NULL. */
gpt2c_status gpt2c_op_gelu(int32_t isa, float *out, const float *x, size_t n,
                           const uint16_t *table);

/* GELU by the error function, of n >= 0 elements. */
gpt2c_status gpt2c_op_gelu_erf(int32_t isa, float *out, const float *x, size_t n);

/* out = x where x is positive or a NaN, else 0; n >= 0 elements. */
gpt2c_status gpt2c_op_relu(int32_t isa, float *out, const float *x, size_t n);

/* out = a + b; n >= 0 elements. */
gpt2c_status gpt2c_op_add(int32_t isa, float *out, const float *a, const float *b, size_t n);

/* out[r] = e^x[r] / sum of e^x[r], over the n elements of a row. */
gpt2c_status gpt2c_op_softmax(int32_t isa, float *out, const float *x, size_t rows, size_t n);

/* out[r] = the index of the largest of the n < 2^31 elements of x[r]; the lowest index wins a tie, and a
 * NaN counts as -infinity. */
gpt2c_status gpt2c_op_argmax(int32_t isa, int64_t *out, const float *x, size_t rows, size_t n);

typedef struct gpt2c_op_attention_args {
    float *out;                  /* [n - n_past, n_embd], n_embd = n_head * head_dim */
    const float *q;              /* [n, n_embd]; the first n_past rows are not read */
    const float *k;              /* [n, n_embd] */
    const float *v;              /* [n, n_embd] */
    size_t n;                    /* positions */
    size_t n_past;               /* <= n; K and V of these positions are stored as if by an earlier call */
    size_t n_head;
    size_t head_dim;
    int32_t fused;               /* 1: the scale of scores takes no separate pass; the same bits as 0 */
    int32_t kv_f16;              /* 1: K and V are stored in half precision */
    size_t rows_begin;           /* The rows of `out` and the heads to compute, without the end; nothing */
    size_t rows_end;             /* else of `out` is written. */
    size_t heads_begin;
    size_t heads_end;
} gpt2c_op_attention_args;

/* Causal self-attention, scores divided by sqrt(head_dim): row r of `out` is position n_past + r, which
 * reads the positions up to its own. */
gpt2c_status gpt2c_op_attention(int32_t isa, const gpt2c_op_attention_args *args);

/* END DECLARATIONS */

#ifdef __cplusplus
}
#endif
#endif
