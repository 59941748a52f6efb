// The kernels for processors with AVX2. The whole file is compiled for it, so nothing here may be shared with others:
// every template lives in its own namespace, and no function of the standard library is instantiated.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,prfchw")
#include <immintrin.h>
#define SIMD norm_avx2
#define SIMD_BYTES 32
#include "norm_kernels.h"
#endif
