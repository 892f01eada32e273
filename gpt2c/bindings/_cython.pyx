# cython: boundscheck=False, wraparound=False
"""The Cython binding: include/gpt2c.h as Python sees it. Its twin is cffi_binding.py."""

from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport int32_t
from gpt2c.bindings.gpt2c_h cimport *

from gpt2c.errors import check as _raise_for

name = "cython"

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # -1 with an exception set: poll_signals must leave it set


cdef int check(gpt2c_status status) except -1:
    if status != GPT2C_OK:
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


def memory():
    cdef gpt2c_memory_stats stats
    gpt2c_memory_get(&stats)
    return stats.live_bytes, stats.peak_bytes, stats.allocations


def memory_fail_at(size_t n):
    gpt2c_memory_fail_at(n)


cdef int poll_signals(void *context) noexcept nogil:
    # Runs Python's signal handlers if this is the main thread. An exception that one raises stays set
    # until feed() is back in Python.
    with gil:
        return PyErr_CheckSignals()


cdef int raise_pending() except -1:
    return -1 if PyErr_Occurred() else 0


cdef gpt2c_model_config as_config(fields):
    cdef gpt2c_model_config c = fields  # a dict with every field: Cython checks that
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

    def freeze(self):
        check(gpt2c_model_freeze(self.handle))

    def weight_bytes(self):
        return gpt2c_model_weight_bytes(self.handle)

    def __dealloc__(self):
        gpt2c_model_free(self.handle)


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

    def __init__(self, Model model):
        with nogil:
            status = gpt2c_session_create(model.handle, poll_signals, NULL, &self.handle)
        check(status)

    def feed(self, const int32_t[::1] ids, float[::1] last_logits=None, float[:, ::1] logits=None,
             float[:, ::1] hidden=None, bint next_id=False):
        cdef int32_t chosen = -1
        cdef gpt2c_outputs outputs
        cdef const int32_t *first = &ids[0] if ids.shape[0] else NULL
        cdef size_t n_ids = ids.shape[0]
        outputs.last_logits = &last_logits[0] if last_logits is not None else NULL
        outputs.logits = &logits[0, 0] if logits is not None else NULL
        outputs.hidden = &hidden[0, 0] if hidden is not None else NULL
        outputs.next_id = &chosen if next_id else NULL
        with nogil:
            status = gpt2c_session_feed(self.handle, first, n_ids, &outputs)
        raise_pending()
        check(status)
        return chosen

    def n_past(self):
        return gpt2c_session_n_past(self.handle)

    def rewind(self, size_t n_past):
        check(gpt2c_session_rewind(self.handle, n_past))

    def cancel(self):
        gpt2c_session_cancel(self.handle)

    def rows(self):
        cdef size_t[6] rows
        check(gpt2c_session_rows(self.handle, rows))
        return [rows[i] for i in range(6)]

    def __dealloc__(self):
        gpt2c_session_free(self.handle)
