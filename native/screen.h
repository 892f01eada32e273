/* A compact copy of the output head, and what it proves about the largest logit.
 *
 * The head is a third of a small GPT-2's weights, and greedy decoding only needs to know which logit is
 * the largest. Each column w of the head is rounded to w = scale q + e with q of 8 bits, a quarter of
 * the bytes. Then, by the Cauchy-Schwarz inequality, the exact logit x.w differs from scale (x.q) by at
 * most |x| |e|. The float32 rounding of either sum of n products is at most (n + 2) eps |x| |w| (twice
 * that where the head multiplies bfloat16 pairs). So the logit that the head's kernel would compute is
 * within
 *
 *     scale (x.q)  +-  |x| radius,   radius = |e| + (4 n + 32) eps (|w| + |e|),
 *
 * including the rounding of the interval's ends (each adds at most 4 eps of what is added up). |x| and
 * radius are rounded upwards. Products that are lost as subnormals change neither sum by more than
 * 1e-30, by which head.c widens the interval. If |x| itself is tiny, the whole head is computed.
 *
 * A token can only have the largest logit if its upper end reaches the largest lower end. The head's
 * kernel computes the logits of these candidates, with its usual bits, and the largest of them is the
 * largest of all. A column with an infinity or a NaN has a radius that proves nothing, so it is always a
 * candidate. If x or the largest lower end is not finite, or if there are too many candidates, the
 * whole head is computed. */
#ifndef GPT2C_SCREEN_H
#define GPT2C_SCREEN_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "threads.h"

typedef struct gpt2c_screen {
    size_t n_in;
    size_t n_out;
    int8_t *q;     /* [panels][n_in][PANEL] */
    float *scale;  /* [panels * PANEL] */
    float *radius; /* [panels * PANEL], per unit of |x| */
} gpt2c_screen;

/* Size of the copy in bytes. */
static inline size_t gpt2c_screen_bytes(const gpt2c_screen *screen) {
    return gpt2c_pad(screen->n_out, GPT2C_PANEL) * (screen->n_in + 2 * sizeof(float));
}

/* Fills the copy of a head that is laid out in panels; the screen's arrays are already allocated. */
void gpt2c_screen_fill(gpt2c_screen *screen, const gpt2c_matrix *head, gpt2c_pool *pool);

#endif
