// What the assignment solver knows of the rows of its cost matrix, without reading them again.
//
// Rows are read lazily. A row keeps a cache of its smallest reduced entries, and a level that no other entry was below.
// As potentials only fall, entries outside the cache only rise, so the level stays true, and most questions about a row
// are answered from its cache. Reading a whole row is nearly all memory traffic.

#pragma once

#include "assignment_rows.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// The two least reduced entries of a row, and their columns.
struct Choice {
  int32_t first = -1, second = -1;
  double least = INF, next = INF;
};

class CachedRows {
 protected:
  // `levels` are lower bounds of the reduced entries of every row for the potentials `start`.
  CachedRows(int64_t size, const double* cost, const double* start, const double* levels)
      : n(size), v(start, start + size), level(levels, levels + size), reduced(size), least(size / BLOCK + 1), c(cost),
        width(std::min(size, CACHE)), value(size * width), cached(size * width), count(size, 0), chosen(size) {}

  const double* row(int64_t i) const { return c + i * n; }
  double at_(int64_t i, int64_t j) const { return c[i * n + j]; }

  // Bring the whole row into `reduced` and `least`.
  void read(int64_t i) {
    work -= 1 + n / 64;
    reduced_row(n, row(i), v.data(), reduced.data(), least.data());
  }

  // Fill the cache of row i from `reduced` and `least`.
  void remember(int64_t i) {
    int32_t* columns = &cached[i * width];
    double* values = &value[i * width];
    if (n <= width) {
      for (int64_t j = 0; j < n; ++j) columns[j] = static_cast<int32_t>(j), values[j] = at_(i, j);
      count[i] = static_cast<int32_t>(n);
      level[i] = INF;
      return;
    }
    // A threshold from the least entries of blocks: as many entries as blocks are below it, and usually not many more.
    const int64_t all = (n + BLOCK - 1) / BLOCK;
    level[i] = threshold(all, least.data(), std::min(all, ENOUGH - 4), ENOUGH + 4);
    int64_t some = up_to(n, reduced.data(), least.data(), level[i], chosen.data());
    if (some > width) {
      const auto smaller = [&](int32_t j, int32_t k) { return reduced[j] < reduced[k]; };
      std::nth_element(chosen.begin(), chosen.begin() + width, chosen.begin() + some, smaller);
      level[i] = reduced[chosen[width]];
      some = width;
    }
    for (int64_t k = 0; k < some; ++k) columns[k] = chosen[k], values[k] = at_(i, chosen[k]);
    count[i] = static_cast<int32_t>(some);
  }

  // Call f(column, reduced entry) for every cached entry of row i.
  template <class F>
  void each_cached(int64_t i, F&& f) const {
    const int32_t* columns = &cached[i * width];
    const double* values = &value[i * width];
    for (int32_t k = 0; k < count[i]; ++k) f(columns[k], values[k] - v[columns[k]]);
  }

  // The two least of the cached entries; they are the least of the row where none exceeds its level.
  Choice look(int64_t i) const {
    Choice t;
    each_cached(i, [&](int32_t j, double z) {
      if (z >= t.next) return;
      if (z < t.least) {
        t.second = t.first, t.next = t.least;
        t.first = j, t.least = z;
      } else {
        t.second = j, t.next = z;
      }
    });
    return t;
  }

  // The two least entries of row i.
  Choice choose(int64_t i) {
    --work;
    const Choice t = look(i);
    if (t.next <= level[i]) return t;
    read(i);
    remember(i);
    return look(i);
  }

  // Whether half of the cached entries have risen above the level: they say nothing that others do not.
  bool depleted(int64_t i) const {
    int32_t below = 0;
    each_cached(i, [&](int32_t, double z) { below += z <= level[i]; });
    return 2 * below <= width;
  }

  const int64_t n;
  std::vector<double> v;               // potentials of columns: they only fall
  std::vector<double> level;           // of every row: no entry outside its cache is below
  std::vector<double> reduced, least;  // the row read last, and the least of each of its blocks
  int64_t work = 0;                    // what is left of the budget

 private:
  static constexpr int64_t CACHE = 32;   // entries a row remembers at most
  static constexpr int64_t ENOUGH = 24;  // ... and about so many after it was read

  const double* const c;
  const int64_t width;
  std::vector<double> value;           // costs of cached entries, n x width
  std::vector<int32_t> cached, count;  // their columns, and how many
  std::vector<int32_t> chosen;         // columns of the row that is being remembered
};

}  // namespace
