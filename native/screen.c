#include "screen.h"

#include <math.h>

#include "format.h"

#define EPS 0x1p-24

/* Up to this weight no estimate overflows, since |x| < 1e15 (head.c). */
#define MAX_WEIGHT 1e18f

/* Below this weight, a scale may be subnormal, too coarse for 127 of them to reach the largest weight, and
 * avx512_bf16 may read weights as 0. */
#define MIN_WEIGHT 1e-30f

/* Rounds up to a float that is not smaller. */
static float round_up(double x) {
    const float rounded = (float)x;
    return (double)rounded >= x ? rounded : nextafterf(rounded, INFINITY);
}

static void fill_column(gpt2c_screen *screen, const gpt2c_matrix *head, size_t c) {
    const size_t n_in = screen->n_in;
    const gpt2c_format *format = gpt2c_format_of(head->layout);
    int8_t *q = screen->q + (c / GPT2C_PANEL * n_in) * GPT2C_PANEL + c % GPT2C_PANEL;
    float largest = 0.0f;
    double norm = 0.0, error = 0.0;
    for (size_t k = 0; k < n_in; k++) {
        const float w = c < head->n_out ? format->at(head, k, c) : 0.0f;
        if (fabsf(w) > largest || isnan(w)) largest = fabsf(w); /* a NaN stays: nothing is larger */
        norm += (double)w * (double)w;
    }
    const int usable = largest > MIN_WEIGHT && largest < MAX_WEIGHT; /* 0 for a NaN */
    const float scale = usable ? largest / 127.0f : 0.0f;
    for (size_t k = 0; k < n_in; k++) {
        const float w = c < head->n_out ? format->at(head, k, c) : 0.0f;
        const float rounded = usable ? rintf(w / scale) : 0.0f;
        const double left = (double)w - (double)scale * (double)rounded;
        q[k * GPT2C_PANEL] = (int8_t)rounded;
        error += left * left;
    }
    norm = sqrt(norm);
    error = sqrt(error);
    screen->scale[c] = scale; /* if 0, |e| = |w|, which may be infinite or NaN */
    screen->radius[c] = round_up((error + (4.0 * (double)n_in + 32.0) * EPS * (norm + error)) * (1 + EPS));
}

typedef struct fill_job {
    gpt2c_screen *screen;
    const gpt2c_matrix *head;
} fill_job;

static void fill_panel(void *context, size_t panel, size_t worker) {
    const fill_job *job = context;
    (void)worker;
    for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
        fill_column(job->screen, job->head, panel * GPT2C_PANEL + lane);
}

void gpt2c_screen_fill(gpt2c_screen *screen, const gpt2c_matrix *head, gpt2c_pool *pool) {
    fill_job job = {screen, head};
    gpt2c_pool_run(pool, gpt2c_panels(screen->n_out), fill_panel, &job);
}
