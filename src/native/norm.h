// The unitization layer on CPU: the problem that Python hands over, and the thread pool that it runs on.
//
// N samples, C channels, L positions. A *row* is one (sample, channel) of L positions. Layout "rows" is (N, C, L) in
// memory, layout "pixels" (N, L, C): torch's contiguous and channels_last. Element type T is float, double, bfloat16
// or half; A, the type of statistics, coefficients and sums, is double for double and float for the others.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

extern "C" {

typedef void (*Body)(int64_t begin, int64_t end, void* context);
typedef int32_t (*ParallelFor)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

enum { ROWS = 0, PIXELS = 1 };
enum { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };
enum { HARMONIC = 0, ARITHMETIC = 1, GEOMETRIC = 2 };
enum { SAMPLE = 0, POSITION = 1, BATCH = 2 };
enum { STATISTICS = 1, REST = 2 };

// Mirrored, field by field, by PLANNED and GIVEN in icsbound/norm/kernels/cpu_plan.py.
struct Problem {
  int64_t samples, channels, positions;
  int32_t dtype, layout, interpolation, scope;
  int32_t relu, shrink_only, training, phases;
  double eps, norm_eps;
  double per_kappa;        // L / κ², in scope "position" 1 / κ²
  double variance_factor;  // B
  double count;            // values per channel that the statistics were taken over
  double alpha_low, alpha_high;
  double momentum, bessel;  // for the running statistics
  const void *x, *dy;
  void* out;  // y forward, dx backward (null: only the gradients of the parameters are wanted)
  const void *weight, *bias, *alpha;
  void *mean, *var;                  // (C,): in evaluation read, in training written or null (not in scope "batch")
  void *running_mean, *running_var;  // (C,) updated in training, or null
  void *saved, *work;                // see Saved and Work in norm_coefficients.h; work is null if nobody looks into it
  void *grad_weight, *grad_bias, *grad_alpha;
  ParallelFor parallel_for;  // null: serial
  int64_t threads;
};

}  // extern "C"

// Runs body(begin, end) over pieces of [0, count), each of at least `grain` items, on torch's thread pool. A piece that
// throws, for want of memory, does so on whatever thread it is: the caller's then throws in its place.
template <class F>
void in_parallel(const Problem& p, int64_t count, int64_t grain, F body) {
  if (count <= 0) return;
  if (!p.parallel_for || count <= grain) return body(int64_t(0), count);
  struct Shared {
    F& body;
    std::atomic<bool> failed{false};
  } shared{body};
  Body call = [](int64_t begin, int64_t end, void* context) {
    Shared& shared = *static_cast<Shared*>(context);
    try {
      shared.body(begin, end);
    } catch (const std::bad_alloc&) {
      shared.failed = true;
    }
  };
  p.parallel_for(0, count, grain < 1 ? 1 : grain, call, &shared);
  if (shared.failed) throw std::bad_alloc();
}
