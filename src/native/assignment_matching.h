// A partial matching of rows to columns, and how its entries are made tight or given up.
//
// A matched entry is tight where it is the least reduced entry of its row; a complete matching of tight entries is optimal.

#pragma once

#include "assignment_cache.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

class Matching : protected CachedRows {
 protected:
  Matching(int64_t size, const double* cost, const double* start, const double* levels)
      : CachedRows(size, cost, start, levels), price(size), column(size, -1), owner(size, -1) {}

  void match(int64_t i, int32_t j) {
    column[i] = j;
    owner[j] = static_cast<int32_t>(i);
    price[i] = at_(i, j);
  }

  void free_row(int64_t i) {
    owner[column[i]] = -1;
    column[i] = -1;
    open.push_back(static_cast<int32_t>(i));
  }

  // Free the matched rows whose entry exceeds the least of their row by more than `slack`.
  void loosen(double slack) {
    for (int64_t i = 0; i < n; ++i) {
      if (column[i] < 0) continue;
      const double own = price[i] - v[column[i]] - slack;
      if (own <= std::min(level[i], look(i).least)) continue;
      if (own > choose(i).least) free_row(i);
    }
  }

  // Make matched entries tight by lowering the potentials that undercut them, from row to row. It ends where the matching
  // is optimal; a row in a cycle that could be improved would go on for ever and is given up after a few tries.
  void settle() {
    std::vector<int32_t> now, next;
    std::vector<int8_t> tries(n, 0), waits(n, 1);
    for (int64_t i = 0; i < n; ++i)
      if (column[i] >= 0) now.push_back(static_cast<int32_t>(i));
    for (; !now.empty(); now.swap(next), next.clear())
      for (const int32_t i : now) {
        waits[i] = 0;
        const double own = price[i] - v[column[i]];
        const auto lower = [&](int32_t j, double z) {
          if (z >= own || j == column[i]) return;
          v[j] -= own - z;
          const int32_t k = owner[j];
          if (k >= 0 && !waits[k] && tries[k] < TRIES) waits[k] = 1, ++tries[k], next.push_back(k);
        };
        --work;
        if (own > level[i]) {
          read(i);
          remember(i);
          if (own > level[i]) {
            for (int64_t j = 0; j < n; ++j) lower(static_cast<int32_t>(j), reduced[j]);
            continue;  // entries were only raised, to `own`: the level stays true
          }
        }
        each_cached(i, lower);
      }
  }

  std::vector<double> price;           // matched entry of every row
  std::vector<int32_t> column, owner;  // the matching, from both sides; -1 where unmatched
  std::vector<int32_t> open;           // the unmatched rows

 private:
  static constexpr int TRIES = 3;  // how often a row is settled anew before it is freed
};

}  // namespace
