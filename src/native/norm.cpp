// Entry points of the layer's kernels: the instruction set is chosen at run time. This file is the portable one.

// Level 2 halves the time to build this rarely used variant.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#endif
#define SIMD norm_baseline
#define SIMD_BYTES 16
#include "norm_kernels.h"

namespace norm_avx2 {
void run(const Problem& p, bool forward);
}
namespace norm_avx512 {
void run(const Problem& p, bool forward);
}

namespace {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
int best_level() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide ? 2 : 1;
}
void run(int level, const Problem& p, bool forward) {
  if (level == 2) return norm_avx512::run(p, forward);
  if (level == 1) return norm_avx2::run(p, forward);
  norm_baseline::run(p, forward);
}
#else
int best_level() { return 0; }
void run(int, const Problem& p, bool forward) { norm_baseline::run(p, forward); }
#endif

int chosen = -1;

int level(int wanted) {
  if (wanted >= 0 || chosen < 0) {
    const int best = best_level();
    chosen = wanted >= 0 && wanted < best ? wanted : best;
  }
  return chosen;
}

int32_t pass(const Problem& p, bool forward) {
  try {
    run(level(-1), p, forward);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// 0 the compiler's default instruction set, 1 AVX2, 2 AVX-512: the highest that this processor has.
EXPORT int32_t icsbound_simd_best() { return best_level(); }

// The level in use; `wanted` >= 0 sets it first, to what the processor has at most.
EXPORT int32_t icsbound_simd_level(int32_t wanted) { return level(wanted); }

// 0, or 1 where there was too little memory to work in.
EXPORT int32_t icsbound_norm_forward(const Problem* p) { return pass(*p, true); }
EXPORT int32_t icsbound_norm_backward(const Problem* p) { return pass(*p, false); }
EXPORT int64_t icsbound_norm_problem_size() { return int64_t(sizeof(Problem)); }
}
