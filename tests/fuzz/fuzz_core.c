/* libFuzzer: the C API. Built and run by tools/fuzz.py.
 *
 * The input is a program: each byte selects a call, and the bytes after it are its arguments, valid
 * and invalid. No call may crash, read or write outside its buffers, or leak, whatever preceded it
 * and wherever an allocation fails. A call that is rejected must leave n_past unchanged. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpt2c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MAX_SESSIONS 3
#define MAX_IDS 40
#define MAX_VOCABULARY 300
#define MAX_EVENTS 40

typedef struct program {
    const uint8_t *data;
    size_t n;
    gpt2c_model_config config;
    gpt2c_model *model;
    gpt2c_session *sessions[MAX_SESSIONS];
} program;

static uint32_t byte(program *p) {
    if (p->n == 0) return 0;
    p->n--;
    return *p->data++;
}

/* Mostly small and valid; occasionally anything. */
static int32_t size(program *p, uint32_t max) {
    const uint32_t b = byte(p);
    if (b == 255) return (int32_t)(byte(p) << 24 | byte(p) << 16 | byte(p) << 8 | byte(p));
    return (int32_t)(1 + b % max);
}

static int32_t flag(program *p) {
    const uint32_t b = byte(p);
    return b == 255 ? 7 : (int32_t)(b & 1);
}

static void create(program *p) {
    gpt2c_model_free(p->model);
    p->model = NULL;
    p->config = (gpt2c_model_config){
        .n_layer = size(p, 3),
        .n_head = size(p, 4),
        .n_embd = size(p, 40),
        .n_inner = size(p, 70),
        .n_ctx = size(p, 70),
        .n_vocab = size(p, MAX_VOCABULARY),
        .layer_norm_epsilon = byte(p) == 255 ? -1.0f : 1e-5f,
        .isa = (int32_t)(byte(p) % (uint32_t)(gpt2c_isa_count() + 1)),
        .switches = byte(p) % 65,
        .gelu_table = flag(p) & (int32_t)(byte(p) == 1),
        .aligned = flag(p),
        .format = (int32_t)(byte(p) % (uint32_t)(gpt2c_format_count() + 1)),
        .n_threads = 1 + (int32_t)(byte(p) % 3),
        .fused = flag(p),
        .head_screen = flag(p),
        .kv_f16 = flag(p),
        .activation = (int32_t)(byte(p) % (GPT2C_ACTIVATION_COUNT + 1)),
        .untied = flag(p),
        .unscaled_scores = flag(p),
        .scores_by_layer = flag(p),
    };
    const int32_t heads = p->config.n_head;
    if (heads > 0 && heads < 5 && p->config.n_embd < 100 && byte(p) < 250) p->config.n_embd = (p->config.n_embd / heads + 1) * heads;
    /* A huge model that is valid would only be slow. */
    if (p->config.n_embd > 100 || p->config.n_inner > 100 || p->config.n_ctx > 100 || p->config.n_layer > 4)
        p->config.n_layer = 0;
    if (p->config.n_vocab > MAX_VOCABULARY) p->config.n_vocab = 0;
    if (gpt2c_model_create(&p->config, &p->model) != GPT2C_STATUS_OK && p->model != NULL) abort();
}

static size_t elements_of(const gpt2c_model_config *c, int tensor) {
    const size_t e = (size_t)c->n_embd, inner = (size_t)c->n_inner;
    switch (tensor) {
    case GPT2C_TENSOR_WTE:
    case GPT2C_TENSOR_LM_HEAD: return e * (size_t)c->n_vocab;
    case GPT2C_TENSOR_WPE: return e * (size_t)c->n_ctx;
    case GPT2C_TENSOR_ATTN_QKV_WEIGHT: return 3 * e * e;
    case GPT2C_TENSOR_ATTN_QKV_BIAS: return 3 * e;
    case GPT2C_TENSOR_ATTN_PROJ_WEIGHT: return e * e;
    case GPT2C_TENSOR_MLP_FC_WEIGHT:
    case GPT2C_TENSOR_MLP_PROJ_WEIGHT: return e * inner;
    case GPT2C_TENSOR_MLP_FC_BIAS: return inner;
    default: return e;
    }
}

/* A buffer of exactly n bytes, so that a sanitizer sees a read after its end. */
static void *filled(program *p, size_t n) {
    uint8_t *data = malloc(n > 0 ? n : 1);
    const uint32_t seed = byte(p);
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)(seed == 255 ? 0xff : ((i * 37 + seed) % 251 & (i % 4 == 3 ? 0x3f : 0xff)));
    return data;
}

static void set(program *p, int tensor, int32_t layer) {
    const gpt2c_dtype dtype = (gpt2c_dtype)(byte(p) % (GPT2C_DTYPE_COUNT + 1));
    const size_t n = p->model != NULL ? elements_of(&p->config, tensor) : 5;
    const size_t n_bytes = n * (dtype == GPT2C_DTYPE_F32 ? 4 : 2) + (byte(p) == 255);
    void *data = filled(p, n_bytes + 1);
    (void)gpt2c_model_set(p->model, (gpt2c_tensor)tensor, layer, dtype, (uint8_t *)data + byte(p) % 2, n_bytes);
    free(data);
}

static void set_all(program *p) {
    for (int32_t layer = 0; p->model != NULL && layer < p->config.n_layer; layer++)
        for (int tensor = 0; tensor < GPT2C_TENSOR_COUNT; tensor++) {
            const size_t n_bytes = 4 * elements_of(&p->config, tensor);
            void *data = filled(p, n_bytes);
            (void)gpt2c_model_set(p->model, (gpt2c_tensor)tensor, layer, GPT2C_DTYPE_F32, data, n_bytes);
            free(data);
        }
}

/* Reads a tensor and sets it again, possibly with bits flipped. */
static void stored(program *p) {
    const gpt2c_tensor tensor = (gpt2c_tensor)(byte(p) % (GPT2C_TENSOR_COUNT + 1));
    const int32_t layer = (int32_t)(byte(p) % 4);
    const size_t n_bytes = gpt2c_model_tensor_bytes(p->model, tensor, layer);
    uint8_t *data = malloc(n_bytes + 1);
    if (gpt2c_model_get(p->model, tensor, layer, data, n_bytes) == GPT2C_STATUS_OK) {
        const size_t at = byte(p) << 8 | byte(p);
        data[at % n_bytes] ^= (uint8_t)byte(p);
        (void)gpt2c_model_set(p->model, tensor, layer, GPT2C_DTYPE_STORED, data, n_bytes);
    }
    free(data);
}

/* Saves the model to a packed file, and replaces it with the one opened from that file. */
static void packed(program *p) {
    char path[64];
    gpt2c_model *mapped;
    uint64_t before = 0, after = 0;
    snprintf(path, sizeof path, "/dev/shm/gpt2c-fuzz-%d", (int)getpid());
    if (gpt2c_packed_save(p->model, path, "fuzz") != GPT2C_STATUS_OK) return;
    gpt2c_model_config config = p->config;
    config.switches = byte(p) % 64;
    config.fused = flag(p);
    if (gpt2c_packed_open(path, byte(p) % 2 ? "fuzz" : NULL, &config, &mapped) == GPT2C_STATUS_OK) {
        (void)gpt2c_model_checksum(p->model, &before);
        (void)gpt2c_model_checksum(mapped, &after);
        if (before != after || gpt2c_model_layout(p->model) != gpt2c_model_layout(mapped)) abort();
        gpt2c_model_free(p->model);
        p->model = mapped;
        p->config = config;
    }
    unlink(path);
}

static gpt2c_session *some_session(program *p) { return p->sessions[byte(p) % MAX_SESSIONS]; }

/* Copies a session's state, possibly with bits flipped, to another session, of any model. */
static void move_state(program *p) {
    gpt2c_session *from = some_session(p), *to = some_session(p);
    const size_t n = gpt2c_session_n_past(from), n_bytes = gpt2c_session_state_bytes(from, n);
    uint8_t *data = malloc(n_bytes + 1);
    if (gpt2c_session_get_state(from, data, n_bytes) == GPT2C_STATUS_OK) {
        const size_t at = byte(p) << 8 | byte(p);
        if (n_bytes > 0) data[at % n_bytes] ^= (uint8_t)byte(p);
        const size_t before = gpt2c_session_n_past(to);
        const gpt2c_status status = gpt2c_session_set_state(to, n, data, n_bytes);
        if (gpt2c_session_n_past(to) != (status == GPT2C_STATUS_OK ? n : before)) abort();
    }
    free(data);
}

static void copy(program *p) {
    gpt2c_session *to = some_session(p), *from = some_session(p);
    const size_t n = byte(p) % 80, before = gpt2c_session_n_past(to);
    const gpt2c_status status = gpt2c_session_copy(to, from, n);
    if (gpt2c_session_n_past(to) != (status == GPT2C_STATUS_OK ? n : before)) abort();
}

static void watch(program *p) {
    static gpt2c_trace_event events[MAX_EVENTS];
    int32_t ids[MAX_IDS];
    size_t rows[GPT2C_SWITCH_COUNT], count, candidates;
    gpt2c_session *session = some_session(p);
    const size_t capacity = byte(p) % (MAX_EVENTS + 1);
    (void)gpt2c_session_trace(session, capacity > 0 ? events : NULL, capacity);
    (void)gpt2c_session_traced(session, &count);
    (void)gpt2c_session_rows(session, rows);
    (void)gpt2c_session_separate_passes(session, &count);
    (void)gpt2c_session_screened(session, &count, &candidates);
    const size_t n = byte(p) % MAX_IDS;
    if (gpt2c_session_ids(session, ids, n) == GPT2C_STATUS_OK && n > gpt2c_session_n_past(session)) abort();
}

static void open_session(program *p) {
    gpt2c_session **session = &p->sessions[byte(p) % MAX_SESSIONS];
    gpt2c_session_free(*session);
    if (gpt2c_session_create(p->model, NULL, NULL, session) != GPT2C_STATUS_OK && *session != NULL) abort();
}

static size_t fill_ids(program *p, int32_t *ids) {
    const size_t n = byte(p) % MAX_IDS;
    for (size_t i = 0; i < n; i++) {
        const uint32_t b = byte(p);
        ids[i] = b == 255 ? (int32_t)(byte(p) << 24) : (int32_t)(b % MAX_VOCABULARY);
    }
    return n;
}

/* By now the session's model may not be p->model: outputs are large enough for any model. */
static void feed(program *p) {
    static float logits[MAX_IDS * MAX_VOCABULARY], last[MAX_VOCABULARY], hidden[MAX_IDS * 110];
    gpt2c_session *session = some_session(p);
    int32_t ids[MAX_IDS], all[MAX_IDS], next = -1;
    const size_t n = fill_ids(p, ids);
    const uint32_t which = byte(p);
    const gpt2c_outputs outputs = {
        .last_logits = which & 1 ? last : NULL,
        .logits = which & 2 ? logits : NULL,
        .hidden = which & 4 ? hidden : NULL,
        .next_id = which & 8 ? &next : NULL,
        .next_ids = which & 16 ? all : NULL,
    };
    const size_t before = gpt2c_session_n_past(session);
    const gpt2c_status status = gpt2c_session_feed(session, ids, n, &outputs);
    const size_t after = gpt2c_session_n_past(session);
    if (after != before + (status == GPT2C_STATUS_OK ? n : 0)) abort();
    if (status == GPT2C_STATUS_OK && (which & 8) && (next < 0 || next >= MAX_VOCABULARY)) abort();
}

static void batch(program *p) {
    static float logits[MAX_SESSIONS * MAX_VOCABULARY];
    int32_t ids[MAX_IDS], next[MAX_SESSIONS];
    size_t n_ids[MAX_SESSIONS], left = fill_ids(p, ids);
    gpt2c_session *sessions[MAX_SESSIONS];
    const size_t n = byte(p) % (MAX_SESSIONS + 1);
    for (size_t i = 0; i < n; i++) {
        sessions[i] = some_session(p);
        n_ids[i] = left > 0 ? byte(p) % (left + 1) : 0;
        left -= n_ids[i];
    }
    const uint32_t which = byte(p);
    (void)gpt2c_batch_feed(sessions, n, ids, n_ids, which & 1 ? logits : NULL, which & 2 ? next : NULL);
}

static void operations(program *p) {
    const size_t rows = byte(p) % 5, n_in = byte(p) % 70, n_out = byte(p) % 70;
    const int32_t isa = (int32_t)(byte(p) % (uint32_t)(gpt2c_isa_count() + 1));
    float *x = filled(p, 4 * rows * n_in), *w = filled(p, 4 * n_in * n_out), *bias = filled(p, 4 * n_out);
    float *out = filled(p, 4 * rows * n_out), *same = filled(p, 4 * rows * n_in);
    int64_t best[8];
    int32_t ids[5];
    gpt2c_matrix *matrix = NULL;
    (void)gpt2c_matrix_create(w, (gpt2c_layout)(byte(p) % 3), n_in, n_out, (gpt2c_layout)(byte(p) % (GPT2C_LAYOUT_COUNT + 1)), &matrix);
    const gpt2c_op_linear_args args = {
        .out = out,
        .x = x,
        .weight = matrix,
        .bias = byte(p) % 2 ? bias : NULL,
        .epilogue = (gpt2c_epilogue)(byte(p) % 7),
        .residual = byte(p) % 2 ? out : NULL,
        .rows_begin = byte(p) % 3,
        .rows_end = byte(p) == 255 ? SIZE_MAX / 8 : rows,
        .columns_begin = byte(p) % 2 * 32,
        .columns_end = n_out,
    };
    if (args.rows_end == rows) (void)gpt2c_op_linear(isa, &args);
    for (size_t i = 0; i < rows; i++) ids[i] = (int32_t)(byte(p) % 70);
    (void)gpt2c_op_embed(isa, same, matrix, ids, x, rows);
    (void)gpt2c_op_layernorm(isa, same, x, x, x, rows > 0, n_in, byte(p) == 255 ? 0.0f : 1e-5f);
    (void)gpt2c_op_softmax(isa, same, x, rows, n_in);
    (void)gpt2c_op_argmax(isa, best, x, rows, n_in);
    (void)gpt2c_op_gelu(isa, same, x, rows * n_in, NULL);
    (void)gpt2c_op_gelu_erf(isa, same, x, rows * n_in);
    (void)gpt2c_op_relu(isa, same, x, rows * n_in);
    (void)gpt2c_op_add(isa, same, x, x, rows * n_in);
    gpt2c_matrix_free(matrix);
    free(x), free(w), free(bias), free(out), free(same);
}

static void attention(program *p) {
    const size_t n_head = byte(p) % 4, head_dim = byte(p) % 35, n = byte(p) % 40, n_past = byte(p) % 40;
    const size_t n_bytes = 4 * n * n_head * head_dim;
    float *q = filled(p, n_bytes), *k = filled(p, n_bytes), *v = filled(p, n_bytes), *out = filled(p, n_bytes);
    const gpt2c_op_attention_args args = {
        .out = out,
        .q = q,
        .k = k,
        .v = v,
        .n = n,
        .n_past = n_past,
        .n_head = n_head,
        .head_dim = head_dim,
        .fused = flag(p),
        .kv_f16 = flag(p),
        .rows_begin = byte(p) % 3,
        .rows_end = n - (n_past < n ? n_past : n),
        .heads_begin = byte(p) % 3,
        .heads_end = n_head,
    };
    (void)gpt2c_op_attention((int32_t)(byte(p) % (uint32_t)gpt2c_isa_count()), &args);
    free(q), free(k), free(v), free(out);
}

static void step(program *p) {
    switch (byte(p) % 16) {
    case 0: create(p); break;
    case 1: set(p, (int)(byte(p) % (GPT2C_TENSOR_COUNT + 1)), (int32_t)(byte(p) % 4) - (byte(p) == 255)); break;
    case 2: set_all(p); break;
    case 3: (void)gpt2c_model_freeze(p->model); break;
    case 4: open_session(p); break;
    case 5: batch(p); break;
    case 6: operations(p); break;
    case 7: attention(p); break;
    case 8: (void)gpt2c_session_rewind(some_session(p), byte(p)); break;
    case 9: gpt2c_session_cancel(some_session(p)); break;
    case 10: gpt2c_memory_fail_at(byte(p) % 12); break;
    case 11:
        gpt2c_model_free(p->model);
        p->model = NULL;
        break;
    case 13: byte(p) % 2 ? move_state(p) : copy(p); break;
    case 14: byte(p) % 2 ? packed(p) : stored(p); break;
    case 15: watch(p); break;
    default: feed(p); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    program p = {.data = data, .n = n};
    for (size_t i = 0; i < 60 && p.n > 0; i++) step(&p);
    gpt2c_memory_fail_at(0);
    gpt2c_model_free(p.model);
    for (size_t i = 0; i < MAX_SESSIONS; i++) gpt2c_session_free(p.sessions[i]);
    gpt2c_memory_stats stats;
    gpt2c_memory_get(&stats);
    if (stats.live_bytes != 0) abort();
    return 0;
}
