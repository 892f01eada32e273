/* What this CPU can do and the operating system lets it: a feature counts only if both say yes. */
#ifndef GPT2C_CPU_H
#define GPT2C_CPU_H

#include <stdint.h>

/* A bit set of the features that native/isa.def names. */
uint32_t gpt2c_cpu_features(void);

#endif
