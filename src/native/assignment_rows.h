// Reading rows of a cost matrix at the speed of memory: what the assignment solver and the certificate are made of.
//
// c is a row of n entries, v one potential a column; the reduced entry is c_j - v_j. Each function is compiled for several
// instruction sets, of which the loader takes the best; subtraction and comparison are exact, so all give the same bits.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(_MSC_VER)
#define INLINE __forceinline
#define PREFETCH(p)
#else
#define INLINE inline __attribute__((always_inline))
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#endif

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t BLOCK = 32;   // entries of a row whose least is found together
constexpr int64_t STREAMS = 8;  // places of a row read in turn: the hardware prefetcher stops at every page

// Call f(start, size) for every block of a row of n entries; of whole ones the compiler knows the size.
template <class F>
INLINE void each_block(int64_t n, F&& f) {
  int64_t start = 0;
  for (; start + BLOCK <= n; start += BLOCK) f(start, BLOCK);
  if (start < n) f(start, n - start);
}

// Ask for a block of the row that is read next: the hardware does not foresee which one that is.
INLINE void ask(const double* p) {
  for (int64_t k = 0; k < BLOCK; k += 8) PREFETCH(p + k);
}

// The least c_j - v_j. Compilers keep the order of comparisons, one by one, unless told that it does not matter.
INLINE double least_of(int64_t count, const double* __restrict c, const double* __restrict v) {
  double w = INF;
#pragma omp simd reduction(min : w)
  for (int64_t k = 0; k < count; ++k) w = c[k] - v[k] < w ? c[k] - v[k] : w;
  return w;
}

// The same; r_j = c_j - v_j.
INLINE double reduced_least(int64_t count, const double* __restrict c, const double* __restrict v, double* __restrict r) {
  double w = INF;
#pragma omp simd reduction(min : w)
  for (int64_t k = 0; k < count; ++k) {
    r[k] = c[k] - v[k];
    w = r[k] < w ? r[k] : w;
  }
  return w;
}

// r_j = c_j - v_j over one row, and the least r of every BLOCK columns.
CLONES void reduced_row(int64_t n, const double* __restrict c, const double* __restrict v, double* __restrict r,
                        double* __restrict least) {
  const int64_t blocks = n / BLOCK, share = blocks / STREAMS;
  const auto block = [&](int64_t b, int64_t count) {
    least[b] = reduced_least(count, c + b * BLOCK, v + b * BLOCK, r + b * BLOCK);
  };
  for (int64_t t = 0; t < share; ++t)
    for (int64_t s = 0; s < STREAMS; ++s) block(s * share + t, BLOCK);
  for (int64_t b = share * STREAMS; b < blocks; ++b) block(b, BLOCK);
  if (blocks * BLOCK < n) block(blocks, n - blocks * BLOCK);
}

// A value that `few` to `many` of the n values z do not exceed, by bisection, which is far quicker than sorting in part.
// More than `many` where ties or a wide spread do not let it be found soon; all where there are no more than `few`.
CLONES double threshold(int64_t n, const double* __restrict z, int64_t few, int64_t many) {
  double low = z[0], high = z[0];
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t k = 0; k < n; ++k) low = z[k] < low ? z[k] : low, high = z[k] > high ? z[k] : high;
  for (int step = 0; step < 24 && few < n; ++step) {
    const double middle = (low + high) / 2;
    int64_t count = 0;
    for (int64_t k = 0; k < n; ++k) count += z[k] <= middle;
    if (count < few)
      low = middle;
    else
      high = middle;
    if (count >= few && count <= many) break;
  }
  return high;
}

// The columns of a row whose entry r_j is at most `limit`; how many there are. `least` is the least of every block.
CLONES int64_t up_to(int64_t n, const double* __restrict r, const double* __restrict least, double limit,
                     int32_t* __restrict found) {
  int64_t count = 0;
  each_block(n, [&](int64_t start, int64_t size) {
    if (least[start / BLOCK] > limit) return;
    for (int64_t j = start; j < start + size; ++j) {
      found[count] = static_cast<int32_t>(j);
      count += r[j] <= limit;
    }
  });
  return count;
}

// The blocks of a row (of n reduced entries r) in which some column comes nearer than its `distance`, by way of a row whose
// own entry is `own` and that lies at `depth`; how many there are. Blocks are left out where nothing is within `cap`.
CLONES int64_t nearer_blocks(int64_t n, const double* __restrict r, const double* __restrict least,
                             const double* __restrict distance, double own, double depth, double cap,
                             int32_t* __restrict found) {
  int64_t count = 0;
  each_block(n, [&](int64_t start, int64_t size) {
    if (depth + (least[start / BLOCK] - own) > cap) return;
    double gain = INF;
#pragma omp simd reduction(min : gain)
    for (int64_t j = start; j < start + size; ++j) {
      const double w = r[j] - own, d = depth + (w > 0 ? w : 0.0) - distance[j];
      gain = d < gain ? d : gain;
    }
    if (gain < 0) found[count++] = static_cast<int32_t>(start / BLOCK);
  });
  return count;
}

// The columns of a row in which c_j - v_j is below `own`; how many there are. The row `next` is asked for meanwhile.
CLONES int64_t undercutting(int64_t n, const double* __restrict c, const double* next, const double* __restrict v,
                            double own, int32_t* __restrict found) {
  int64_t count = 0;
  each_block(n, [&](int64_t start, int64_t size) {
    ask(next + start);
    if (least_of(size, c + start, v + start) >= own) return;
    for (int64_t j = start; j < start + size; ++j)
      if (c[j] - v[j] < own) found[count++] = static_cast<int32_t>(j);
  });
  return count;
}

// The least c_j - v_j of a row and its first column; q_j = min(q_j, c_j) unless q is null. The row `next` is asked for
// meanwhile. Only the block of the least entry is noted on the way; its column is looked up at the end.
CLONES void row_least(int64_t n, const double* __restrict c, const double* next, const double* __restrict v,
                      double* __restrict u, int64_t* __restrict at, double* __restrict q) {
  double least = INF;
  int64_t j = 0;
  each_block(n, [&](int64_t start, int64_t size) {
    ask(next + start);
    const double w = least_of(size, c + start, v + start);
    if (w < least) least = w, j = start;
    if (!q) return;
#pragma omp simd
    for (int64_t k = start; k < start + size; ++k) q[k] = c[k] < q[k] ? c[k] : q[k];
  });
  while (j + 1 < n && c[j] - v[j] != least) ++j;
  *u = least;
  *at = j;
}

#undef PREFETCH
#undef CLONES
#undef INLINE

}  // namespace
