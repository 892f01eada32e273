#include "kernels/ref/ref.h"
#include "unroll.h"

/* An entry that is initialized twice is an override, on purpose. */
#pragma GCC diagnostic ignored "-Woverride-init"

const gpt2c_kernels gpt2c_kernels_unroll = {GPT2C_KERNELS_REF, GPT2C_KERNELS_UNROLL};
