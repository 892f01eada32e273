/* How the work of an operation is done: choosing its rows, walking them in blocks between which the call can be
 * ended, dividing a block into tasks for the pool's threads, and counting the rows. */
#ifndef GPT2C_WORK_H
#define GPT2C_WORK_H

#include "pass.h"

static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }

/* The rows that the operations of a switch compute, as rows of the buffers: counted from the origin. */
gpt2c_span gpt2c_rows_of(const gpt2c_pass *pass, gpt2c_switch s);

/* Counts rows of one operation; a switch's count is the largest count of its operations. */
void gpt2c_count_rows(gpt2c_pass *pass, gpt2c_switch s, size_t computed);

typedef struct gpt2c_job {
    const gpt2c_kernels *kernels;
    const void *args; /* arguments of the operation */
    gpt2c_span rows;
    gpt2c_span items; /* what is divided into tasks */
    size_t unit; /* tasks are whole multiples of it */
    size_t n_threads;
    void (*compute)(const struct gpt2c_job *job, gpt2c_span items, size_t worker);
} gpt2c_job;

/* Divides a job's items among the threads, in whole multiples of `unit`, and runs them. */
void gpt2c_run_block(const gpt2c_pass *pass, gpt2c_job *job, size_t unit);

#define GPT2C_NO_ITEMS ((gpt2c_span){0, 0})

/* Runs an operation over `rows`, each of about `work` multiply-adds, and counts them. The tasks divide `items`
 * if it is not empty, else the rows. */
void gpt2c_run_rows(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, size_t work, gpt2c_job job,
                    gpt2c_span items, size_t unit);

#endif
