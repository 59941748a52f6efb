// The kernels for processors with AVX-512; see norm_avx2.cpp.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,prfchw")
#include <immintrin.h>
#define SIMD norm_avx512
#define SIMD_BYTES 64
#include "norm_kernels.h"
#endif
