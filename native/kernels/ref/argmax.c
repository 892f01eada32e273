#include <math.h>

#include "ref.h"

size_t gpt2c_argmax_ref(const float *x, size_t n) {
    size_t best = 0;
    float largest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (x[i] > largest) {
            largest = x[i];
            best = i;
        }
    }
    return best;
}
