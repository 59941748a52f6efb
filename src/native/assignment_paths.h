// Shortest augmenting paths, grown from all unmatched rows at once.

#pragma once

#include "assignment_matching.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

struct Entry {
  double key;
  int32_t id;
};

class AugmentingPaths : protected Matching {
 protected:
  // `points` (or null) tell rows of the same point by the same number below `size`.
  AugmentingPaths(int64_t size, const double* cost, const double* start, const double* levels, const int64_t* points)
      : Matching(size, cost, start, levels), point(points, points ? points + size : points), fresh(point.size()),
        distance(size, INF), entry(size), depth(size), parent(size), root(size), reached(size), closed(size, 0),
        near(size / BLOCK + 1) {}

  // Find paths, lower potentials so that they are tight, and augment every tree that reached a free column.
  void grow() {
    const double reach = search(static_cast<int64_t>(open.size() + 1) / 2);
    for (const int32_t j : done) v[j] -= reach - distance[j];
    augment();
    for (const int32_t j : touched) distance[j] = INF, closed[j] = 0;
  }

 private:
  // Dijkstra's shortest paths over reduced entries (minus the least of each row), from all unmatched rows together, until
  // `target` free columns are reached; the distance where it ended. A row first offers its cache; that it must be read
  // whole waits in the queue at the distance where its level would matter. Of rows of one point, all tight, the first to
  // be reached offers all that the others would.
  double search(int64_t target) {
    double cap = INF;  // no path longer than this is wanted: `target` free columns are nearer
    int64_t expanded = 0, found = 0;
    std::fill(fresh.begin(), fresh.end(), int8_t{1});
    heap.clear(), touched.clear(), done.clear(), ends.clear();
    const auto tighten = [&] {
      if (static_cast<int64_t>(ends.size()) < target) return;
      keys.clear();
      for (const int32_t j : ends) keys.push_back(distance[j]);
      std::nth_element(keys.begin(), keys.begin() + (target - 1), keys.end());
      cap = keys[target - 1];
    };
    const auto push = [&](double key, int64_t id) {
      heap.push_back({key, static_cast<int32_t>(id)});
      std::push_heap(heap.begin(), heap.end(), later);
    };
    const auto relax = [&](int32_t i, int32_t j, double d) {
      if (d >= distance[j] || d > cap) return;
      if (distance[j] == INF) {
        touched.push_back(j);
        if (owner[j] < 0) ends.push_back(j);
      }
      distance[j] = d;
      parent[j] = i;
      if (target == 1 && owner[j] < 0) cap = d;
      push(d, j);
    };
    const auto expand = [&](int32_t i, double at, double own) {
      if (!point.empty() && !std::exchange(fresh[point[i]], 0)) return;
      work -= 2;
      depth[i] = at;
      entry[i] = own;
      each_cached(i, [&](int32_t j, double z) { relax(i, j, at + std::max(0.0, z - own)); });
      const double whole = at + std::max(0.0, level[i] - own);
      if (whole < INF && whole <= cap) push(whole, n + i);
      if (target > 1 && ++expanded % 64 == 0) tighten();
    };
    for (const int32_t i : open) {
      root[i] = i;
      reached[i] = -1;
      expand(i, 0.0, choose(i).least);
    }
    double reach = 0;
    while (!heap.empty() && heap.front().key <= cap && found < target) {
      const Entry e = heap.front();
      std::pop_heap(heap.begin(), heap.end(), later);
      heap.pop_back();
      if (e.id >= n) {
        const int32_t i = e.id - static_cast<int32_t>(n);
        reach = e.key;
        if (target > 1) tighten();
        read(i);
        const int64_t some = nearer_blocks(n, reduced.data(), least.data(), distance.data(), entry[i], depth[i], cap,
                                           near.data());
        for (int64_t k = 0; k < some; ++k)
          for (int64_t j = near[k] * BLOCK, end = std::min(n, j + BLOCK); j < end; ++j)
            relax(i, static_cast<int32_t>(j), depth[i] + std::max(0.0, reduced[j] - entry[i]));
        if (depleted(i)) remember(i);
      } else if (!closed[e.id] && e.key <= distance[e.id]) {
        const int32_t j = e.id, tree = root[parent[j]], i = owner[j];
        closed[j] = 1;
        done.push_back(j);
        reach = e.key;
        if (i >= 0) {
          root[i] = tree;
          expand(i, e.key, price[i] - v[j]);
        } else {
          ++found;
          if (reached[tree] < 0) reached[tree] = j;
        }
      }
    }
    return reach;
  }

  void augment() {
    rest.clear();
    for (const int32_t source : open) {
      int32_t j = reached[source];
      if (j < 0) {
        rest.push_back(source);
        continue;
      }
      for (int32_t i = parent[j];; i = parent[j]) {
        const int32_t before = column[i];
        match(i, j);
        if (i == source) break;
        j = before;
      }
    }
    open.swap(rest);
  }

  static constexpr auto later = [](const Entry& a, const Entry& b) { return a.key > b.key; };

  const std::vector<int64_t> point;            // of rows; empty where all differ
  std::vector<int8_t> fresh;                   // whether no row of a point was reached yet
  std::vector<double> distance, entry, depth;  // of columns; of rows: their own reduced entry, and where they joined
  std::vector<int32_t> parent, root, reached;  // of columns: the row before; of rows: the first of their tree, its end
  std::vector<int8_t> closed;                  // whether a column's distance is final
  std::vector<int32_t> touched, done, ends, near, rest;
  std::vector<double> keys;                     // distances of the free columns that were reached
  std::vector<Entry> heap;
};

}  // namespace
