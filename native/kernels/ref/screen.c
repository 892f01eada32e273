#include "screen.h"

#include <math.h>

#include "ref.h"

float gpt2c_screen_ref(float *upper, const gpt2c_screen *screen, const float *x, float norm,
                       gpt2c_span columns) {
    float floor = -INFINITY;
    for (size_t c = columns.begin; c < columns.end; c++) {
        const int8_t *q = screen->q + c / GPT2C_PANEL * screen->n_in * GPT2C_PANEL + c % GPT2C_PANEL;
        float sum = 0.0f;
        for (size_t k = 0; k < screen->n_in; k++) sum += x[k] * (float)q[k * GPT2C_PANEL];
        const float estimate = sum * screen->scale[c], bound = norm * screen->radius[c];
        upper[c] = estimate + bound;
        if (estimate - bound > floor) floor = estimate - bound;
    }
    return floor;
}
