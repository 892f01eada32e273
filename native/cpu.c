#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stddef.h>

/* A register of a CPUID leaf, and the bit in it that stands for a feature (Intel SDM 2A, CPUID). */
typedef enum cpuid_word { LEAF_1_ECX,
                          LEAF_7_EBX,
                          LEAF_7_ECX,
                          LEAF_7_1_EAX,
                          CPUID_WORDS } cpuid_word;

typedef struct cpuid_bit {
    uint32_t feature;
    cpuid_word word;
    int bit;
} cpuid_bit;

/* Those that use the upper halves of the AVX registers, and those that use AVX-512's. */
static const cpuid_bit avx_bits[] = {
    {GPT2C_CPU_FMA, LEAF_1_ECX, 12},
    {GPT2C_CPU_F16C, LEAF_1_ECX, 29},
    {GPT2C_CPU_AVX2, LEAF_7_EBX, 5},
};
static const cpuid_bit avx512_bits[] = {
    {GPT2C_CPU_AVX512F, LEAF_7_EBX, 16},
    {GPT2C_CPU_AVX512DQ, LEAF_7_EBX, 17},
    {GPT2C_CPU_AVX512BW, LEAF_7_EBX, 30},
    {GPT2C_CPU_AVX512VL, LEAF_7_EBX, 31},
    {GPT2C_CPU_AVX512_VNNI, LEAF_7_ECX, 11},
    {GPT2C_CPU_AVX512_BF16, LEAF_7_1_EAX, 5},
};

/* Of leaf 1: the operating system saves registers by XSAVE, so XGETBV exists; and AVX itself. */
#define OSXSAVE (1u << 27)
#define AVX (1u << 28)

/* Of XCR0, the register sets that the operating system saves when it switches threads. */
#define AVX_STATE 0x06u    /* bits 1 and 2: XMM, YMM */
#define AVX512_STATE 0xe6u /* and 5, 6, 7: masks, upper halves of ZMM 0-15, ZMM 16-31 */

/* The lower half of XCR0. As bytes, because the instruction's name needs a compiler flag. */
static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint32_t features_in(const uint32_t words[CPUID_WORDS], const cpuid_bit *bits, size_t n) {
    uint32_t features = 0;
    for (size_t i = 0; i < n; i++)
        if (words[bits[i].word] >> bits[i].bit & 1u) features |= bits[i].feature;
    return features;
}

static uint32_t ask_cpu(void) {
    uint32_t words[CPUID_WORDS] = {0}, eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    words[LEAF_1_ECX] = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        words[LEAF_7_EBX] = ebx;
        words[LEAF_7_ECX] = ecx;
    }
    if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) words[LEAF_7_1_EAX] = eax;
    if ((words[LEAF_1_ECX] & (OSXSAVE | AVX)) != (OSXSAVE | AVX)) return 0;

    const uint32_t state = saved_state();
    uint32_t features = 0;
    if ((state & AVX_STATE) == AVX_STATE)
        features |= features_in(words, avx_bits, sizeof avx_bits / sizeof avx_bits[0]);
    if ((state & AVX512_STATE) == AVX512_STATE)
        features |= features_in(words, avx512_bits, sizeof avx512_bits / sizeof avx512_bits[0]);
    return features;
}

#define ASKED (1u << 31)

/* Under a hypervisor each CPUID is an exit from the guest, some microseconds. Threads that ask at the same
 * time store the same. */
uint32_t gpt2c_cpu_features(void) {
    static uint32_t known; /* atomic; 0: not asked yet */
    uint32_t features = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (features == 0) {
        features = ask_cpu() | ASKED;
        __atomic_store_n(&known, features, __ATOMIC_RELAXED);
    }
    return features & ~ASKED;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* Linux says by one bit that the CPU has a feature and that programs may use it (arm64/elf_hwcaps). */
#define DOT_PRODUCTS (1ul << 20) /* HWCAP_ASIMDDP */

uint32_t gpt2c_cpu_features(void) { return getauxval(AT_HWCAP) & DOT_PRODUCTS ? GPT2C_CPU_ASIMDDP : 0; }

#else

uint32_t gpt2c_cpu_features(void) { return 0; }

#endif
