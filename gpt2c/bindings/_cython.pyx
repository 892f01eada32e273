# cython: boundscheck=False, wraparound=False
"""The Cython binding: include/gpt2c.h as Python sees it. Its twin is cffi_binding.py."""

from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t
from gpt2c.bindings.gpt2c_h cimport *

from gpt2c.errors import check as _raise_for

name = "cython"

include "_constants.pxi"  # constants(): setup.py writes it from the header

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # -1 with an exception set: poll_signals must leave it set


cdef int check(gpt2c_status status) except -1:
    if status != GPT2C_STATUS_OK:
        _raise_for(<int>status, gpt2c_status_message(status).decode())
    return 0


def version():
    return gpt2c_version().decode()


def isas():
    cdef gpt2c_isa_info info
    rows = []
    for i in range(gpt2c_isa_count()):
        check(gpt2c_isa_get(i, &info))
        rows.append((info.name.decode(), bool(info.compiled), bool(info.supported)))
    return rows


def formats():
    return [gpt2c_format_name(i).decode() for i in range(gpt2c_format_count())]


def traced_ops():
    return [gpt2c_traced_op_name(i).decode() for i in range(GPT2C_TRACED_OP_COUNT)]


def memory():
    cdef gpt2c_memory_stats stats
    gpt2c_memory_get(&stats)
    return stats.live_bytes, stats.peak_bytes, stats.allocations


def memory_fail_at(size_t n):
    gpt2c_memory_fail_at(n)


cdef int poll_signals(void *context) noexcept nogil:
    # Runs Python's signal handlers if this is the main thread. An exception raised by a handler stays set
    # until feed() returns to Python.
    with gil:
        return PyErr_CheckSignals()


cdef int raise_pending() except -1:
    return -1 if PyErr_Occurred() else 0


cdef gpt2c_model_config as_config(fields):
    cdef gpt2c_model_config c = fields  # a dict; Cython checks that it has every field
    return c


cdef class Model:
    cdef gpt2c_model *handle

    def __init__(self, config):
        cdef gpt2c_model_config c = as_config(config)
        with nogil:
            status = gpt2c_model_create(&c, &self.handle)
        check(status)

    @staticmethod
    def open_packed(bytes path, bytes key, config):
        cdef gpt2c_model_config c = as_config(config)
        cdef Model model = Model.__new__(Model)
        cdef const char *c_path = path
        cdef const char *c_key = NULL
        if key is not None:
            c_key = key
        with nogil:
            status = gpt2c_packed_open(c_path, c_key, &c, &model.handle)
        check(status)
        return model

    def save_packed(self, bytes path, bytes key):
        cdef const char *c_path = path
        cdef const char *c_key = key
        with nogil:
            status = gpt2c_packed_save(self.handle, c_path, c_key)
        check(status)

    def set(self, int tensor, int layer, int dtype, const unsigned char[::1] data):
        cdef const void *first = &data[0] if data.shape[0] else NULL
        cdef size_t n_bytes = data.shape[0]
        with nogil:
            status = gpt2c_model_set(self.handle, <gpt2c_tensor>tensor, layer, <gpt2c_dtype>dtype, first,
                                     n_bytes)
        check(status)

    def tensor_bytes(self, int tensor, int layer):
        return gpt2c_model_tensor_bytes(self.handle, <gpt2c_tensor>tensor, layer)

    def get(self, int tensor, int layer, unsigned char[::1] out):
        cdef void *to = &out[0] if out.shape[0] else NULL
        cdef size_t n_bytes = out.shape[0]
        with nogil:
            status = gpt2c_model_get(self.handle, <gpt2c_tensor>tensor, layer, to, n_bytes)
        check(status)

    def freeze(self):
        with nogil:
            status = gpt2c_model_freeze(self.handle)
        check(status)

    def weight_bytes(self):
        return gpt2c_model_weight_bytes(self.handle)

    def layout(self):
        return <int>gpt2c_model_layout(self.handle)

    def checksum(self):
        cdef uint64_t checksum
        with nogil:
            status = gpt2c_model_checksum(self.handle, &checksum)
        check(status)
        return checksum

    def __dealloc__(self):
        gpt2c_model_free(self.handle)


def packed_version():
    return gpt2c_packed_version()


def packed_info(bytes path, bint verify=False):
    cdef gpt2c_model_config c
    cdef const char *c_path = path
    cdef int32_t c_verify = verify
    with nogil:
        status = gpt2c_packed_info(c_path, c_verify, &c)
    check(status)
    return c  # a dict


cdef class Session:
    cdef gpt2c_session *handle
    cdef object events  # keeps the buffer alive while C writes to it

    def __init__(self, Model model not None):
        with nogil:
            status = gpt2c_session_create(model.handle, poll_signals, NULL, &self.handle)
        check(status)

    def feed(self, const int32_t[::1] ids, outputs):
        cdef float[::1] last_logits
        cdef float[:, ::1] logits
        cdef float[:, ::1] hidden
        cdef int32_t[::1] next_ids
        cdef bint next_id
        last_logits, logits, hidden, next_id, next_ids = outputs
        cdef int32_t chosen = -1
        cdef gpt2c_outputs wanted
        cdef const int32_t *first = &ids[0] if ids.shape[0] else NULL
        cdef size_t n_ids = ids.shape[0]
        wanted.last_logits = &last_logits[0] if last_logits is not None else NULL
        wanted.logits = &logits[0, 0] if logits is not None else NULL
        wanted.hidden = &hidden[0, 0] if hidden is not None else NULL
        wanted.next_id = &chosen if next_id else NULL
        wanted.next_ids = &next_ids[0] if next_ids is not None else NULL
        with nogil:
            status = gpt2c_session_feed(self.handle, first, n_ids, &wanted)
        raise_pending()
        check(status)
        return chosen

    def n_past(self):
        return gpt2c_session_n_past(self.handle)

    def rewind(self, size_t n_past):
        check(gpt2c_session_rewind(self.handle, n_past))

    def ids(self, int32_t[::1] out):
        cdef int32_t nothing
        cdef size_t n = out.shape[0]
        check(gpt2c_session_ids(self.handle, &out[0] if n else &nothing, n))

    def copy(self, Session source not None, size_t n):
        with nogil:
            status = gpt2c_session_copy(self.handle, source.handle, n)
        check(status)

    def state_bytes(self, size_t n):
        return gpt2c_session_state_bytes(self.handle, n)

    def get_state(self, unsigned char[::1] state):
        cdef unsigned char nothing
        cdef size_t n_bytes = state.shape[0]
        cdef void *to = &state[0] if n_bytes else &nothing
        with nogil:
            status = gpt2c_session_get_state(self.handle, to, n_bytes)
        check(status)

    def set_state(self, size_t n, const unsigned char[::1] state):
        cdef unsigned char nothing
        cdef size_t n_bytes = state.shape[0]
        cdef const void *first = &state[0] if n_bytes else &nothing
        with nogil:
            status = gpt2c_session_set_state(self.handle, n, first, n_bytes)
        check(status)

    def cancel(self):
        gpt2c_session_cancel(self.handle)

    def rows(self):
        cdef size_t[GPT2C_SWITCH_COUNT] rows
        check(gpt2c_session_rows(self.handle, rows))
        return [n for n in rows]

    def separate_passes(self):
        cdef size_t passes
        check(gpt2c_session_separate_passes(self.handle, &passes))
        return passes

    def screened(self):
        cdef size_t ids, candidates
        check(gpt2c_session_screened(self.handle, &ids, &candidates))
        return ids, candidates

    def trace(self, unsigned char[::1] events=None):
        cdef gpt2c_trace_event *first = NULL
        cdef size_t capacity = 0
        if events is not None:
            first = <gpt2c_trace_event *>&events[0]
            capacity = events.shape[0] // sizeof(gpt2c_trace_event)
        check(gpt2c_session_trace(self.handle, first, capacity))
        self.events = events

    def traced(self):
        cdef size_t n
        check(gpt2c_session_traced(self.handle, &n))
        return n

    def __dealloc__(self):
        gpt2c_session_free(self.handle)


def batch_feed(sessions, const int32_t[::1] ids, const size_t[::1] n_ids, float[:, ::1] last_logits=None,
               int32_t[::1] next_ids=None):
    cdef gpt2c_session *handles[GPT2C_LIMIT_CHUNK_ROWS + 1]  # one more than the maximum of a batch, which C refuses
    cdef size_t n_sessions = min(len(sessions), GPT2C_LIMIT_CHUNK_ROWS + 1)
    cdef const int32_t *first = &ids[0] if ids.shape[0] else NULL
    cdef const size_t *counts = &n_ids[0] if n_ids.shape[0] else NULL
    cdef float *logits = &last_logits[0, 0] if last_logits is not None else NULL
    cdef int32_t *chosen = &next_ids[0] if next_ids is not None else NULL
    for i in range(n_sessions):
        handles[i] = (<Session?>sessions[i]).handle
    with nogil:
        status = gpt2c_batch_feed(handles, n_sessions, first, counts, logits, chosen)
    raise_pending()
    check(status)


# ---- Kernels: arrays are flat and C-contiguous, None and empty arrays are NULL, a span is (begin, end) ----

cdef inline const float *floats(const float[::1] array) noexcept:
    return &array[0] if array is not None and array.shape[0] else NULL


cdef inline const uint16_t *halves(const uint16_t[::1] array) noexcept:
    return &array[0] if array is not None and array.shape[0] else NULL


cdef class Matrix:
    cdef gpt2c_matrix *handle

    def __init__(self, const float[::1] weight, int given, size_t n_in, size_t n_out, int layout):
        cdef const float *first = floats(weight)
        with nogil:
            status = gpt2c_matrix_create(first, <gpt2c_layout>given, n_in, n_out, <gpt2c_layout>layout,
                                         &self.handle)
        check(status)

    def __dealloc__(self):
        gpt2c_matrix_free(self.handle)


def op_linear(int isa, float[::1] out, const float[::1] x, Matrix weight not None, rows, columns,
              const float[::1] bias=None, int epilogue=0, const uint16_t[::1] gelu_table=None,
              const float[::1] residual=None):
    cdef gpt2c_op_linear_args args
    args.out = <float *>floats(out)
    args.x = floats(x)
    args.weight = weight.handle
    args.bias = floats(bias)
    args.epilogue = <gpt2c_epilogue>epilogue
    args.gelu_table = halves(gelu_table)
    args.residual = floats(residual)
    args.rows_begin, args.rows_end = rows
    args.columns_begin, args.columns_end = columns
    with nogil:
        status = gpt2c_op_linear(isa, &args)
    check(status)


def op_embed(int isa, float[::1] out, Matrix wte not None, const int32_t[::1] ids, const float[::1] wpe):
    cdef size_t rows = ids.shape[0]
    check(gpt2c_op_embed(isa, <float *>floats(out), wte.handle, &ids[0] if rows else NULL, floats(wpe), rows))


def op_layernorm(int isa, float[::1] out, const float[::1] x, const float[::1] weight, const float[::1] bias,
                 size_t rows, size_t n, float epsilon):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(x)
    cdef const float *scale = floats(weight)
    cdef const float *shift = floats(bias)
    with nogil:
        status = gpt2c_op_layernorm(isa, to, first, scale, shift, rows, n, epsilon)
    check(status)


def gelu_table_fill(uint16_t[::1] table):
    check(gpt2c_gelu_table_fill(<uint16_t *>halves(table)))


def op_gelu(int isa, float[::1] out, const float[::1] x, const uint16_t[::1] table=None):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(x)
    cdef const uint16_t *entries = halves(table)
    cdef size_t n = x.shape[0]
    with nogil:
        status = gpt2c_op_gelu(isa, to, first, n, entries)
    check(status)


def op_gelu_erf(int isa, float[::1] out, const float[::1] x):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(x)
    cdef size_t n = x.shape[0]
    with nogil:
        status = gpt2c_op_gelu_erf(isa, to, first, n)
    check(status)


def op_relu(int isa, float[::1] out, const float[::1] x):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(x)
    cdef size_t n = x.shape[0]
    with nogil:
        status = gpt2c_op_relu(isa, to, first, n)
    check(status)


def op_add(int isa, float[::1] out, const float[::1] a, const float[::1] b):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(a)
    cdef const float *second = floats(b)
    cdef size_t n = a.shape[0]
    with nogil:
        status = gpt2c_op_add(isa, to, first, second, n)
    check(status)


def op_softmax(int isa, float[::1] out, const float[::1] x, size_t rows, size_t n):
    cdef float *to = <float *>floats(out)
    cdef const float *first = floats(x)
    with nogil:
        status = gpt2c_op_softmax(isa, to, first, rows, n)
    check(status)


def op_argmax(int isa, int64_t[::1] out, const float[::1] x, size_t rows, size_t n):
    cdef int64_t *to = &out[0] if out.shape[0] else NULL
    cdef const float *first = floats(x)
    with nogil:
        status = gpt2c_op_argmax(isa, to, first, rows, n)
    check(status)


def op_attention(int isa, float[::1] out, const float[::1] q, const float[::1] k, const float[::1] v,
                 size_t n, size_t n_past, size_t n_head, size_t head_dim, bint fused, rows, heads,
                 bint kv_f16=False):
    cdef gpt2c_op_attention_args args
    args.out = <float *>floats(out)
    args.q = floats(q)
    args.k = floats(k)
    args.v = floats(v)
    args.n = n
    args.n_past = n_past
    args.n_head = n_head
    args.head_dim = head_dim
    args.fused = fused
    args.kv_f16 = kv_f16
    args.rows_begin, args.rows_end = rows
    args.heads_begin, args.heads_end = heads
    with nogil:
        status = gpt2c_op_attention(isa, &args)
    check(status)
