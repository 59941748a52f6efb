// A partial matching of rows to columns, and how its entries are made tight or given up.
//
// A matched entry is tight where it is the least reduced entry of its row; a complete matching of tight entries is optimal.

#pragma once

#include "assignment_cache.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Trees of rows, as one list of their nodes in preorder; node n, below which all roots hang, is its end.
class Forest {
 public:
  explicit Forest(int64_t n) : base(static_cast<int32_t>(n)), parent(n + 1), depth(n + 1, -1), next(n + 1), last(n + 1) {
    depth[n] = 0;
    next[n] = last[n] = base;
  }

  // Whether i is k or below it.
  bool below(int32_t i, int32_t k) const {
    if (depth[k] < 0) return false;
    while (depth[i] > depth[k]) i = parent[i];
    return i == k;
  }

  // Hang node k, which is in no tree, below i.
  void hang(int32_t k, int32_t i) {
    parent[k] = i, depth[k] = depth[i] + 1;
    next[k] = next[i], last[k] = i;
    last[next[i]] = k, next[i] = k;
  }

  // A root, unless it is in a tree.
  void plant(int32_t k) {
    if (depth[k] < 0) hang(k, base);
  }

  // Take k and all below it out of their tree; calls f for each of those below.
  template <class F>
  void fell(int32_t k, F&& f) {
    if (depth[k] < 0) return;
    int32_t x = next[k];
    for (; depth[x] > depth[k]; x = next[x]) f(x), depth[x] = -1;
    depth[k] = -1;
    next[last[k]] = x, last[x] = last[k];
  }

 private:
  const int32_t base;
  std::vector<int32_t> parent, depth, next, last;  // depth -1: in no tree
};

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

  // Lower potentials until the complete matching is tight, within `slack` a row: Bellman and Ford's shortest paths. Rows
  // that are not reached are not read, and nothing is remembered of the others. False where a cycle of exchanges would cost
  // less, so that the matching is not optimal, or after `budget` reads. A row whose potential fell hangs below the row that
  // lowered it; when that one falls, all below will fall again, and are not read before (Tarjan's subtree disassembly).
  bool prove(double slack, int64_t budget) {
    Forest tree(n);
    std::vector<int32_t> queue, found(n);
    std::vector<int8_t> waits(n, 0), queued(n, 0);
    const auto add = [&](int32_t i) {
      waits[i] = 1;
      if (!queued[i]) queued[i] = 1, queue.push_back(i);
    };
    for (int64_t i = 0; i < n; ++i)
      if (price[i] - v[column[i]] - slack > level[i]) add(static_cast<int32_t>(i));
    for (size_t head = 0; head < queue.size(); ++head) {
      const int32_t i = queue[head];
      queued[i] = 0;
      if (!waits[i]) continue;
      if (--budget < 0) return false;
      waits[i] = 0;
      tree.plant(i);
      const int32_t next = queue[std::min(head + 1, queue.size() - 1)];
      const double own = price[i] - v[column[i]];
      const int64_t count = undercutting(n, row(i), row(next), v.data(), own - slack, found.data());
      for (int64_t t = 0; t < count; ++t) {
        const int32_t j = found[t], k = owner[j];
        if (tree.below(i, k)) return false;
        v[j] -= own - (at_(i, j) - v[j]);
        tree.fell(k, [&](int32_t x) { waits[x] = 0; });
        tree.hang(k, i);
        add(k);
      }
      level[i] = own - slack;
    }
    return true;
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
