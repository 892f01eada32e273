/* How an operation's work is done: which rows, in blocks that can be ended between, in tasks for the
 * pool's threads, and counted. */
#ifndef GPT2C_WORK_H
#define GPT2C_WORK_H

#include "pass.h"

static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }

/* The rows that a switch's operations compute: those of the buffers, so counted from the origin. */
gpt2c_span gpt2c_rows_of(const gpt2c_pass *pass, gpt2c_switch s);

/* All operations of a switch compute equally many rows in a pass: the most that one did is shown. */
void gpt2c_count_rows(gpt2c_pass *pass, gpt2c_switch s, size_t computed);

typedef struct gpt2c_job {
    const gpt2c_kernels *kernels;
    const void *args; /* the operation's own */
    gpt2c_span rows;
    gpt2c_span items; /* what the tasks share out */
    size_t unit; /* tasks are whole multiples of it */
    size_t n_threads;
    void (*compute)(const struct gpt2c_job *job, gpt2c_span items, size_t worker);
} gpt2c_job;

/* Shares a job's items out, in whole multiples of `unit`. */
void gpt2c_run_block(const gpt2c_pass *pass, gpt2c_job *job, size_t unit);

#define GPT2C_NO_ITEMS ((gpt2c_span){0, 0})

/* Runs an operation over `rows`, each of about `work` multiply-adds, and counts them. The tasks share
 * out `items` if it is not empty, else the rows themselves. */
void gpt2c_run_rows(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, size_t work, gpt2c_job job,
                    gpt2c_span items, size_t unit);

#endif
