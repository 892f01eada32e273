#include "work.h"

/* ---- Rows ---- */

gpt2c_span gpt2c_rows_of(const gpt2c_pass *pass, gpt2c_switch s) {
    const int on = gpt2c_switch_on(pass->session->model, s);
    const size_t begin = on ? pass->n_past - pass->origin : 0;
    return (gpt2c_span){size_max(begin, pass->first), pass->n - pass->origin};
}

void gpt2c_count_rows(gpt2c_pass *pass, gpt2c_switch s, size_t computed) {
    pass->rows[s] = size_max(pass->rows[s], computed);
}

/* ---- Work, in blocks and tasks ----
 *
 * The rows of an operation are walked in blocks, between which the call can be ended. A block takes about
 * a tenth of a second, or has all rows; it is not smaller, because each block reads the weights again. It is
 * divided into tasks for the pool's threads: some columns of all its rows in a linear layer, some rows or heads
 * elsewhere. */

#define BLOCK_WORK ((size_t)1 << 27) /* multiply-adds of the naive kernels */

/* Where `task` begins, counted from the first item, or n. Each round of tasks, one per thread, takes half of the
 * remaining items: few tasks, because a kernel can prefetch weights within a task; and small ones at the end, so
 * that no thread waits long for one that was delayed. */
static size_t begin_of_task(const gpt2c_job *job, size_t task) {
    const size_t n = job->items.end - job->items.begin, threads = job->n_threads;
    size_t begin = 0;
    for (;;) {
        const size_t share = (n - begin + 2 * threads - 1) / (2 * threads);
        const size_t size = threads == 1 ? n : gpt2c_pad(size_max(1, share), job->unit);
        if (task < threads || begin + threads * size >= n) return size_min(n, begin + task * size);
        task -= threads;
        begin += threads * size;
    }
}

static void compute_task(void *context, size_t task, size_t worker) {
    const gpt2c_job *job = context;
    const size_t first = job->items.begin;
    job->compute(job, (gpt2c_span){first + begin_of_task(job, task), first + begin_of_task(job, task + 1)},
                 worker);
}

void gpt2c_run_block(const gpt2c_pass *pass, gpt2c_job *job, size_t unit) {
    gpt2c_pool *pool = pass->session->model->pool;
    const size_t n = job->items.end - job->items.begin;
    job->unit = unit;
    job->n_threads = gpt2c_pool_threads(pool);
    size_t n_tasks = 1;
    while (begin_of_task(job, n_tasks) < n) n_tasks += job->n_threads;
    while (n_tasks > 1 && begin_of_task(job, n_tasks - 1) == n) n_tasks--;
    gpt2c_pool_run(pool, n_tasks, compute_task, job);
}

void gpt2c_run_rows(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, size_t work, gpt2c_job job,
                    gpt2c_span items, size_t unit) {
    job.kernels = pass->session->model->kernels;
    const size_t step = size_max(1, BLOCK_WORK * size_max(1, job.kernels->speed) / size_max(1, work));
    size_t done = rows.begin;
    while (done < rows.end && !gpt2c_stopped(pass)) {
        job.rows = (gpt2c_span){done, size_min(rows.end, done + step)};
        job.items = items.end > items.begin ? items : job.rows;
        gpt2c_run_block(pass, &job, unit);
        done = job.rows.end;
    }
    gpt2c_count_rows(pass, s, done - rows.begin);
}
