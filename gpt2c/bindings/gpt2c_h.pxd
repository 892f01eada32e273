# include/gpt2c.h for Cython; tests/test_header.py fails when the two differ.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "gpt2c.h" nogil:
    ctypedef enum gpt2c_status:
        GPT2C_STATUS_OK

    ctypedef enum gpt2c_limit:
        GPT2C_LIMIT_CHUNK_ROWS

    ctypedef enum gpt2c_switch:
        GPT2C_SWITCH_COUNT

    ctypedef enum gpt2c_tensor:
        GPT2C_TENSOR_COUNT

    ctypedef enum gpt2c_dtype:
        GPT2C_DTYPE_COUNT

    ctypedef enum gpt2c_layout:
        GPT2C_LAYOUT_COUNT

    ctypedef enum gpt2c_traced_op:
        GPT2C_TRACED_OP_COUNT

    ctypedef enum gpt2c_epilogue:
        GPT2C_EPILOGUE_ADD

    ctypedef enum gpt2c_activation:
        GPT2C_ACTIVATION_COUNT

    ctypedef struct gpt2c_isa_info:
        const char *name
        int32_t compiled
        int32_t supported

    ctypedef struct gpt2c_memory_stats:
        size_t live_bytes
        size_t peak_bytes
        size_t allocations

    ctypedef struct gpt2c_model_config:
        int32_t n_layer
        int32_t n_head
        int32_t n_embd
        int32_t n_inner
        int32_t n_ctx
        int32_t n_vocab
        float layer_norm_epsilon
        int32_t isa
        uint32_t switches
        int32_t gelu_table
        int32_t aligned
        int32_t format
        int32_t n_threads
        int32_t fused
        int32_t head_screen
        int32_t kv_f16
        int32_t activation
        int32_t untied
        int32_t unscaled_scores
        int32_t scores_by_layer

    ctypedef struct gpt2c_trace_event:
        int32_t op
        int32_t layer
        int64_t begin_ns
        int64_t end_ns
        int64_t rows
        int64_t n_in
        int64_t n_out
        int64_t bytes

    ctypedef struct gpt2c_outputs:
        float *last_logits
        float *logits
        float *hidden
        int32_t *next_id
        int32_t *next_ids

    ctypedef struct gpt2c_model:
        pass

    ctypedef struct gpt2c_session:
        pass

    ctypedef struct gpt2c_matrix:
        pass

    ctypedef struct gpt2c_op_linear_args:
        float *out
        const float *x
        const gpt2c_matrix *weight
        const float *bias
        gpt2c_epilogue epilogue
        const uint16_t *gelu_table
        const float *residual
        size_t rows_begin
        size_t rows_end
        size_t columns_begin
        size_t columns_end

    ctypedef struct gpt2c_op_attention_args:
        float *out
        const float *q
        const float *k
        const float *v
        size_t n
        size_t n_past
        size_t n_head
        size_t head_dim
        int32_t fused
        int32_t kv_f16
        size_t rows_begin
        size_t rows_end
        size_t heads_begin
        size_t heads_end

    ctypedef int (*gpt2c_poll)(void *context)

    const char *gpt2c_status_message(gpt2c_status status)
    const char *gpt2c_version()
    int32_t gpt2c_isa_count()
    gpt2c_status gpt2c_isa_get(int32_t isa, gpt2c_isa_info *info)
    int32_t gpt2c_format_count()
    const char *gpt2c_format_name(int32_t format)
    void gpt2c_memory_get(gpt2c_memory_stats *stats)
    void gpt2c_memory_fail_at(size_t n)
    gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model)
    gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                                 gpt2c_dtype dtype, const void *data, size_t n_bytes)
    size_t gpt2c_model_tensor_bytes(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer)
    gpt2c_status gpt2c_model_get(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer, void *out,
                                 size_t n_bytes)
    gpt2c_status gpt2c_model_freeze(gpt2c_model *model)
    size_t gpt2c_model_weight_bytes(const gpt2c_model *model)
    int32_t gpt2c_packed_version()
    gpt2c_status gpt2c_packed_save(const gpt2c_model *model, const char *path, const char *key)
    gpt2c_status gpt2c_packed_open(const char *path, const char *key, const gpt2c_model_config *config,
                                   gpt2c_model **model)
    gpt2c_status gpt2c_packed_info(const char *path, int32_t verify, gpt2c_model_config *config)
    gpt2c_status gpt2c_model_checksum(const gpt2c_model *model, uint64_t *checksum)
    gpt2c_layout gpt2c_model_layout(const gpt2c_model *model)
    void gpt2c_model_free(gpt2c_model *model)
    gpt2c_status gpt2c_session_create(gpt2c_model *model, gpt2c_poll poll, void *poll_context,
                                      gpt2c_session **session)
    gpt2c_status gpt2c_session_feed(gpt2c_session *session, const int32_t *ids, size_t n_ids,
                                    const gpt2c_outputs *outputs)
    gpt2c_status gpt2c_batch_feed(gpt2c_session *const *sessions, size_t n_sessions, const int32_t *ids,
                                  const size_t *n_ids, float *last_logits, int32_t *next_ids)
    size_t gpt2c_session_n_past(const gpt2c_session *session)
    gpt2c_status gpt2c_session_rewind(gpt2c_session *session, size_t n_past)
    gpt2c_status gpt2c_session_ids(gpt2c_session *session, int32_t *ids, size_t n)
    gpt2c_status gpt2c_session_copy(gpt2c_session *session, gpt2c_session *source, size_t n)
    size_t gpt2c_session_state_bytes(const gpt2c_session *session, size_t n)
    gpt2c_status gpt2c_session_get_state(gpt2c_session *session, void *state, size_t n_bytes)
    gpt2c_status gpt2c_session_set_state(gpt2c_session *session, size_t n, const void *state,
                                         size_t n_bytes)
    void gpt2c_session_cancel(gpt2c_session *session)
    gpt2c_status gpt2c_session_rows(gpt2c_session *session, size_t *rows)
    gpt2c_status gpt2c_session_separate_passes(gpt2c_session *session, size_t *passes)
    gpt2c_status gpt2c_session_screened(gpt2c_session *session, size_t *ids, size_t *candidates)
    const char *gpt2c_traced_op_name(int32_t op)
    gpt2c_status gpt2c_session_trace(gpt2c_session *session, gpt2c_trace_event *events, size_t capacity)
    gpt2c_status gpt2c_session_traced(gpt2c_session *session, size_t *n_events)
    void gpt2c_session_free(gpt2c_session *session)
    gpt2c_status gpt2c_matrix_create(const float *weight, gpt2c_layout given, size_t n_in, size_t n_out,
                                     gpt2c_layout layout, gpt2c_matrix **matrix)
    void gpt2c_matrix_free(gpt2c_matrix *matrix)
    gpt2c_status gpt2c_op_linear(int32_t isa, const gpt2c_op_linear_args *args)
    gpt2c_status gpt2c_op_embed(int32_t isa, float *out, const gpt2c_matrix *wte, const int32_t *ids,
                                const float *wpe, size_t rows)
    gpt2c_status gpt2c_op_layernorm(int32_t isa, float *out, const float *x, const float *weight,
                                    const float *bias, size_t rows, size_t n, float epsilon)
    gpt2c_status gpt2c_gelu_table_fill(uint16_t *table)
    gpt2c_status gpt2c_op_gelu(int32_t isa, float *out, const float *x, size_t n, const uint16_t *table)
    gpt2c_status gpt2c_op_gelu_erf(int32_t isa, float *out, const float *x, size_t n)
    gpt2c_status gpt2c_op_relu(int32_t isa, float *out, const float *x, size_t n)
    gpt2c_status gpt2c_op_add(int32_t isa, float *out, const float *a, const float *b, size_t n)
    gpt2c_status gpt2c_op_softmax(int32_t isa, float *out, const float *x, size_t rows, size_t n)
    gpt2c_status gpt2c_op_argmax(int32_t isa, int64_t *out, const float *x, size_t rows, size_t n)
    gpt2c_status gpt2c_op_attention(int32_t isa, const gpt2c_op_attention_args *args)
