/* A weight format: how a matrix is laid out in memory, and how its weights are represented.
 *
 * Each format is a const table of functions in its own file, format_<name>.c, registered by its row in
 * formats.def. Its kernels are entries of gpt2c_kernels (kernels.h), by layout. */
#ifndef GPT2C_FORMAT_H
#define GPT2C_FORMAT_H

#include "kernels.h"

/* Weights as the caller passes them: n_in * n_out elements of `dtype` with any alignment, in layout `given`,
 * which is GPT2C_LAYOUT_IN_OUT or GPT2C_LAYOUT_OUT_IN. */
typedef struct gpt2c_source {
    gpt2c_layout given;
    gpt2c_dtype dtype;
    const void *data;
} gpt2c_source;

typedef struct gpt2c_format {
    /* 1: weights are integers with scales, and x is rounded to integers as well (quantized.h). */
    int is_integer;

    /* Size of the data in bytes, including padding. */
    size_t (*bytes)(const gpt2c_matrix *w);

    /* Sets every element of w, including the padding of panels. */
    void (*set)(gpt2c_matrix *w, const gpt2c_source *from);

    /* Weight w[k][c], as float32. */
    float (*at)(const gpt2c_matrix *w, size_t k, size_t c);

    /* out[k] = w[k][c] + b[k] for all k, with the bits of `at`. NULL: `at` is fast enough for this. */
    void (*add_column)(float *out, const gpt2c_matrix *w, size_t c, const float *b);

    /* Whether data that was not written by `set` is valid. NULL: any bits are valid. */
    int (*is_sound)(const gpt2c_matrix *w);
} gpt2c_format;

/* gpt2c_format_<name> of each row. */
#define GPT2C_DECLARE_FORMAT(name, layout, linear, pack, roundoff) \
    extern const gpt2c_format gpt2c_format_##name;
#include "formats.def"
GPT2C_ROW_MAJOR_FORMATS(GPT2C_DECLARE_FORMAT)
GPT2C_FORMATS(GPT2C_DECLARE_FORMAT)
#undef GPT2C_DECLARE_FORMAT

/* The format of a layout, which must be one of gpt2c_layout. */
const gpt2c_format *gpt2c_format_of(gpt2c_layout layout);

/* The layout of a format, numbered as in gpt2c_format_name. */
gpt2c_layout gpt2c_layout_of_format(int32_t format);

#endif
