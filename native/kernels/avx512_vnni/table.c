#include "avx512_vnni.h"
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#include "kernels/ref/ref.h"
#include "kernels/unroll/unroll.h"

/* An entry that is initialized twice is an override, on purpose. */
#pragma GCC diagnostic ignored "-Woverride-init"

const gpt2c_kernels gpt2c_kernels_avx512_vnni = {GPT2C_KERNELS_REF, GPT2C_KERNELS_UNROLL,
                                                 GPT2C_KERNELS_AVX2, GPT2C_KERNELS_AVX512,
                                                 GPT2C_KERNELS_AVX512_VNNI};
