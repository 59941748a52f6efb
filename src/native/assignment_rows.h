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
#else
#define INLINE inline __attribute__((always_inline))
#endif

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t BLOCK = 32;   // entries of a row whose least is found together
constexpr int64_t STREAMS = 8;  // places of a row read in turn: the hardware prefetcher stops at every page

INLINE double least_of_block(const double* __restrict c, const double* __restrict v, double* __restrict r) {
  double m[8];
  for (int k = 0; k < 8; ++k) m[k] = INF;
  for (int64_t t = 0; t < BLOCK; t += 8)
    for (int k = 0; k < 8; ++k) {
      const double w = c[t + k] - v[t + k];
      r[t + k] = w;
      m[k] = w < m[k] ? w : m[k];
    }
  double w = m[0];
  for (int k = 1; k < 8; ++k) w = m[k] < w ? m[k] : w;
  return w;
}

// r_j = c_j - v_j over one row, and the least r of every BLOCK columns.
CLONES void reduced_row(int64_t n, const double* __restrict c, const double* __restrict v, double* __restrict r,
                        double* __restrict least) {
  const int64_t blocks = n / BLOCK, share = blocks / STREAMS;
  for (int64_t t = 0; t < share; ++t)
    for (int64_t s = 0; s < STREAMS; ++s) {
      const int64_t b = s * share + t;
      least[b] = least_of_block(c + b * BLOCK, v + b * BLOCK, r + b * BLOCK);
    }
  for (int64_t b = share * STREAMS; b < blocks; ++b)
    least[b] = least_of_block(c + b * BLOCK, v + b * BLOCK, r + b * BLOCK);
  if (blocks * BLOCK < n) {
    double w = INF;
    for (int64_t j = blocks * BLOCK; j < n; ++j) {
      r[j] = c[j] - v[j];
      w = r[j] < w ? r[j] : w;
    }
    least[blocks] = w;
  }
}

// A value that `few` to `many` of the n values z do not exceed, by bisection, which is far quicker than sorting in part.
// More than `many` where ties or a wide spread do not let it be found soon; all where there are no more than `few`.
CLONES double threshold(int64_t n, const double* __restrict z, int64_t few, int64_t many) {
  double low = z[0], high = z[0];
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

// The blocks of a row (of n reduced entries r) in which some column comes nearer than its `distance`, by way of a row whose
// own entry is `own` and that lies at `depth`; how many there are. Blocks are left out where nothing is within `cap`.
CLONES int64_t nearer_blocks(int64_t n, const double* __restrict r, const double* __restrict least,
                             const double* __restrict distance, double own, double depth, double cap,
                             int32_t* __restrict found) {
  int64_t count = 0;
  for (int64_t b = 0; b * BLOCK < n; ++b) {
    if (depth + (least[b] - own) > cap) continue;
    double gain = INF;
    if ((b + 1) * BLOCK <= n) {
      double m[8];
      for (int k = 0; k < 8; ++k) m[k] = INF;
      for (int64_t j = b * BLOCK; j < (b + 1) * BLOCK; j += 8)
        for (int k = 0; k < 8; ++k) {
          const double w = r[j + k] - own, d = depth + (w > 0 ? w : 0.0) - distance[j + k];
          m[k] = d < m[k] ? d : m[k];
        }
      for (int k = 0; k < 8; ++k) gain = m[k] < gain ? m[k] : gain;
    } else {
      gain = -INF;
    }
    if (gain < 0) found[count++] = static_cast<int32_t>(b);
  }
  return count;
}

// The columns of a row in which c_j - v_j is below `own`; how many there are.
CLONES int64_t undercutting(int64_t n, const double* __restrict c, const double* __restrict v, double own,
                            int32_t* __restrict found) {
  int64_t count = 0, start = 0;
  for (; start + BLOCK <= n; start += BLOCK) {
    double m[8];
    for (int k = 0; k < 8; ++k) m[k] = INF;
    for (int64_t j = start; j < start + BLOCK; j += 8)
      for (int k = 0; k < 8; ++k) {
        const double w = c[j + k] - v[j + k];
        m[k] = w < m[k] ? w : m[k];
      }
    double w = m[0];
    for (int k = 1; k < 8; ++k) w = m[k] < w ? m[k] : w;
    if (w >= own) continue;
    for (int64_t j = start; j < start + BLOCK; ++j)
      if (c[j] - v[j] < own) found[count++] = static_cast<int32_t>(j);
  }
  for (; start < n; ++start)
    if (c[start] - v[start] < own) found[count++] = static_cast<int32_t>(start);
  return count;
}

// Least c_rj - v_j of R rows together (several rows are several streams), and its first column; q_j = min(q_j, c_rj) if
// COLUMNS. Only the chunk of the least value is noted on the way; its column is looked up at the end.
template <int R, bool COLUMNS>
INLINE void rows_least(int64_t n, const double* __restrict c, const double* __restrict v, double* __restrict u,
                       int64_t* __restrict at, double* __restrict q) {
  constexpr int W = 16;
  constexpr int64_t CHUNK = 256;
  double best[R];
  int64_t where[R];
  for (int r = 0; r < R; ++r) best[r] = INF, where[r] = 0;
  for (int64_t start = 0; start < n; start += CHUNK) {
    const int64_t end = std::min(n, start + CHUNK), whole = start + (end - start) / W * W;
    double m[R][W];
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < W; ++k) m[r][k] = INF;
    for (int64_t j = start; j < whole; j += W) {
      double t[W];
      if (COLUMNS)
        for (int k = 0; k < W; ++k) t[k] = q[j + k];
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < W; ++k) {
          const double x = c[r * n + j + k], w = x - v[j + k];
          m[r][k] = w < m[r][k] ? w : m[r][k];
          if (COLUMNS) t[k] = x < t[k] ? x : t[k];
        }
      if (COLUMNS)
        for (int k = 0; k < W; ++k) q[j + k] = t[k];
    }
    for (int r = 0; r < R; ++r) {
      double w = INF;
      for (int k = 0; k < W; ++k) w = m[r][k] < w ? m[r][k] : w;
      for (int64_t j = whole; j < end; ++j) {
        const double x = c[r * n + j];
        w = x - v[j] < w ? x - v[j] : w;
        if (COLUMNS) q[j] = x < q[j] ? x : q[j];
      }
      if (w < best[r]) best[r] = w, where[r] = start;
    }
  }
  for (int r = 0; r < R; ++r) {
    int64_t j = where[r];
    while (j + 1 < n && c[r * n + j] - v[j] != best[r]) ++j;
    u[r] = best[r];
    at[r] = j;
  }
}

#define ROWS_LEAST(name, rows, columns)                                                                        \
  CLONES void name(int64_t n, const double* c, const double* v, double* u, int64_t* at, double* q) {          \
    rows_least<rows, columns>(n, c, v, u, at, q);                                                              \
  }
ROWS_LEAST(four_rows, 4, false)
ROWS_LEAST(one_row, 1, false)
ROWS_LEAST(four_rows_and_columns, 4, true)
ROWS_LEAST(one_row_and_columns, 1, true)

#undef ROWS_LEAST
#undef CLONES
#undef INLINE

}  // namespace
