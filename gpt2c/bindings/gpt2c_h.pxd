# include/gpt2c.h for Cython; tests/test_bindings.py fails when the two differ.
from libc.stdint cimport int32_t, uint32_t

cdef extern from "gpt2c.h" nogil:
    ctypedef enum gpt2c_status:
        GPT2C_OK

    ctypedef enum gpt2c_tensor:
        GPT2C_TENSOR_COUNT

    ctypedef enum gpt2c_dtype:
        GPT2C_DTYPE_COUNT

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
        int32_t n_threads
        int32_t fused

    ctypedef struct gpt2c_outputs:
        float *last_logits
        float *logits
        float *hidden
        int32_t *next_id

    ctypedef struct gpt2c_model:
        pass

    ctypedef struct gpt2c_session:
        pass

    ctypedef int (*gpt2c_poll)(void *context)

    const char *gpt2c_status_message(gpt2c_status status)
    const char *gpt2c_version()
    int32_t gpt2c_isa_count()
    gpt2c_status gpt2c_isa_get(int32_t isa, gpt2c_isa_info *info)
    void gpt2c_memory_get(gpt2c_memory_stats *stats)
    void gpt2c_memory_fail_at(size_t n)
    gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model)
    gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                                 gpt2c_dtype dtype, const void *data, size_t n_bytes)
    gpt2c_status gpt2c_model_freeze(gpt2c_model *model)
    size_t gpt2c_model_weight_bytes(const gpt2c_model *model)
    gpt2c_status gpt2c_packed_save(const gpt2c_model *model, const char *path, const char *key)
    gpt2c_status gpt2c_packed_open(const char *path, const char *key, const gpt2c_model_config *config,
                                   gpt2c_model **model)
    gpt2c_status gpt2c_packed_info(const char *path, int32_t verify, gpt2c_model_config *config)
    void gpt2c_model_free(gpt2c_model *model)
    gpt2c_status gpt2c_session_create(gpt2c_model *model, gpt2c_poll poll, void *poll_context,
                                      gpt2c_session **session)
    gpt2c_status gpt2c_session_feed(gpt2c_session *session, const int32_t *ids, size_t n_ids,
                                    const gpt2c_outputs *outputs)
    size_t gpt2c_session_n_past(const gpt2c_session *session)
    gpt2c_status gpt2c_session_rewind(gpt2c_session *session, size_t n_past)
    void gpt2c_session_cancel(gpt2c_session *session)
    gpt2c_status gpt2c_session_rows(const gpt2c_session *session, size_t *rows)
    void gpt2c_session_free(gpt2c_session *session)
