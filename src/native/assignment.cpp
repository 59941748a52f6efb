// Least-cost assignment between two clouds, warm-started by dual potentials.
//
// Notation: c is the n x n matrix of distances, row-major, float64; v one potential a column; the reduced entry of row i
// and column j is c_ij - v_j. A matched entry is tight where it is the least reduced entry of its row; a complete matching
// of tight entries is optimal. Here v only ever decreases.
//
// Rows are read lazily. A row keeps a cache of its smallest reduced entries, and a level that no other entry was below.
// As v decreases, entries outside the cache only rise, so the level stays true, and most questions about a row are
// answered from its cache. Reading a whole row is nearly all memory traffic.
//
// The steps (stages of class Assignment), each on what the one before left open:
//   start    rows keep the hinted column (their own) where it is tight, else take their best one if nobody has it;
//   reduce   Jonker and Volgenant's row reduction: a row takes its best column, which is lowered to its second best;
//   auction  Bertsekas' bids with a margin eps that shrinks, where many rows are still unmatched;
//   finish   shortest augmenting paths, grown from all unmatched rows at once.
//
// Nothing here is trusted: the caller prices the matching and computes the dual value anew from v.

#include "assignment_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#if defined(_MSC_VER)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

constexpr int64_t CACHE = 32;  // entries a row remembers

struct Entry {
  double key;
  int32_t id;
};
constexpr auto later = [](const Entry& a, const Entry& b) { return a.key > b.key; };
constexpr auto smaller = [](const Entry& a, const Entry& b) { return a.key < b.key; };

// The two least reduced entries of a row, and their columns.
struct Choice {
  int32_t first = -1, second = -1;
  double least = INF, next = INF;
};

class Assignment {
 public:
  // `minima` are the least reduced entries of the rows for the potentials `start`, at the columns `at`; `gap` is an upper
  // bound of (cost of an optimal matching - dual value) / n.
  Assignment(int64_t size, const double* cost, const double* start, const double* minima, const int64_t* at, double gap)
      : n(size), c(cost), width(std::min(size, CACHE)), margin(gap), v(start, start + size), price(size),
        level(minima, minima + size), value(size * width), reduced(size), least(size / BLOCK + 1), distance(size, INF),
        entry(size), depth(size), column(size), owner(size, -1), cached(size * width), count(size, 0), parent(size),
        root(size), reached(size), closed(size, 0), near(size / BLOCK + 1) {
    double largest = 0;  // of the first row and column; by the triangle inequality no entry exceeds three times it
    for (int64_t i = 0; i < n; ++i) {
      largest = std::max({largest, at_(0, i), at_(i, 0)});
      column[i] = -1;
      if (at_(i, i) - v[i] <= level[i]) match(i, static_cast<int32_t>(i));
    }
    smallest_margin = std::ldexp(largest, -36);
    for (int64_t i = n - 1; i >= 0; --i)
      if (column[i] < 0) {
        if (owner[at[i]] < 0)
          match(i, static_cast<int32_t>(at[i]));
        else
          open.push_back(static_cast<int32_t>(i));
      }
    begin_reduction(Stage::Decide);
  }

  // Go on for about `budget` units of work (a look at a cache each); true when the matching is complete.
  bool run(int64_t budget) {
    work = budget;
    while (work > 0 && stage != Stage::Done) switch (stage) {
        case Stage::Reduce: reduce(); break;
        case Stage::Decide: decide(); break;
        case Stage::Auction: auction(); break;
        case Stage::Finish: grow(); break;
        case Stage::Done: break;
      }
    return stage == Stage::Done;
  }

  void result(int64_t* matching, double* potentials) const {
    std::copy(column.begin(), column.end(), matching);
    std::copy(v.begin(), v.end(), potentials);
  }

 private:
  enum class Stage { Reduce, Decide, Auction, Finish, Done };

  static constexpr int PASSES = 2;           // of row reduction
  static constexpr int64_t REDUCTIONS = 2;   // times n in each pass
  static constexpr double CROWDED = 0.15;    // share of unmatched rows above which the auction is worth its start
  static constexpr double SHRINK = 8;        // of the margin from round to round
  static constexpr double FINE = 1.0 / 64;   // of the first margin, from where a round may be the last
  static constexpr double SETTLED = 0.3;     // share of loose rows below which it is
  static constexpr int TRIES = 3;            // how often a row is settled anew before it is freed

  double at_(int64_t i, int64_t j) const { return c[i * n + j]; }
  int64_t blocks() const { return (n + BLOCK - 1) / BLOCK; }

  void match(int64_t i, int32_t j) {
    column[i] = j;
    owner[j] = static_cast<int32_t>(i);
    price[i] = at_(i, j);
  }

  // ---- what is known of a row

  // Bring the whole row into `reduced` and `least`.
  void read(int64_t i) {
    work -= 1 + n / 64;
    reduced_row(n, c + i * n, v.data(), reduced.data(), least.data());
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
    const int64_t all = blocks(), enough = std::min(all - 1, width * 5 / 8);
    keys.assign(least.begin(), least.begin() + all);
    std::nth_element(keys.begin(), keys.begin() + enough, keys.end());
    level[i] = keys[enough];
    chosen.clear();
    for (int64_t b = 0; b < all; ++b)
      if (least[b] <= level[i])
        for (int64_t j = b * BLOCK, end = std::min(n, j + BLOCK); j < end; ++j)
          if (reduced[j] <= level[i]) chosen.push_back({reduced[j], static_cast<int32_t>(j)});
    if (static_cast<int64_t>(chosen.size()) > width) {
      std::nth_element(chosen.begin(), chosen.begin() + width, chosen.end(), smaller);
      level[i] = chosen[width].key;
      chosen.resize(width);
    }
    int32_t k = 0;
    for (const Entry& e : chosen) columns[k] = e.id, values[k] = at_(i, e.id), ++k;
    count[i] = k;
  }

  Choice look(int64_t i) const {
    const int32_t* columns = &cached[i * width];
    const double* values = &value[i * width];
    Choice t;
    for (int32_t k = 0; k < count[i]; ++k) {
      const double z = values[k] - v[columns[k]];
      if (z >= t.next) continue;
      if (z < t.least) {
        t.second = t.first, t.next = t.least;
        t.first = columns[k], t.least = z;
      } else {
        t.second = columns[k], t.next = z;
      }
    }
    return t;
  }

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
    for (int32_t k = 0; k < count[i]; ++k) below += value[i * width + k] - v[cached[i * width + k]] <= level[i];
    return 2 * below <= width;
  }

  // Free the matched rows whose entry exceeds the least of their row by more than `slack`.
  void loosen(double slack) {
    for (int64_t i = 0; i < n; ++i) {
      if (column[i] < 0) continue;
      const double own = price[i] - v[column[i]] - slack;
      if (own <= std::min(level[i], look(i).least)) continue;
      if (own <= choose(i).least) continue;
      owner[column[i]] = -1;
      column[i] = -1;
      open.push_back(static_cast<int32_t>(i));
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
        for (int32_t k = 0; k < count[i]; ++k) {
          const int32_t j = cached[i * width + k];
          lower(j, value[i * width + k] - v[j]);
        }
      }
  }

  // ---- the stages

  void begin_reduction(Stage then) {
    stage = Stage::Reduce;
    after = then;
    pass = 0;
    steps = 0;
    todo.swap(open);
    open.clear();
  }

  void reduce() {
    while (!todo.empty() && work > 0) {
      const int32_t i = todo.back();
      todo.pop_back();
      if (++steps > REDUCTIONS * n) {
        open.push_back(i);
        continue;
      }
      const Choice t = choose(i);
      const bool unique = t.next > t.least;
      int32_t j = t.first;
      if (!unique && owner[j] >= 0 && t.second >= 0 && owner[t.second] < 0) j = t.second;
      const int32_t other = owner[j];
      if (other >= 0 && !unique) {
        open.push_back(i);
        continue;
      }
      if (unique && t.next < INF) v[j] -= t.next - t.least;
      if (other >= 0) column[other] = -1, todo.push_back(other);
      match(i, j);
    }
    if (!todo.empty()) return;
    if (++pass < PASSES && !open.empty()) {
      todo.assign(open.rbegin(), open.rend());
      open.clear();
      steps = 0;
    } else {
      stage = after;
    }
  }

  void decide() {
    if (static_cast<double>(open.size()) <= CROWDED * static_cast<double>(n)) {
      stage = Stage::Finish;
      return;
    }
    stage = Stage::Auction;
    first_margin = margin = std::max(std::min(margin, completion()), smallest_margin);
    loosen(margin);
  }

  // What any completion of the matching costs above the dual value, per row.
  double completion() {
    double sum = 0;
    int64_t j = 0;
    for (const int32_t i : open) {
      while (owner[j] >= 0) ++j;
      sum += at_(i, j) - v[j] - choose(i).least;
      ++j;
    }
    return sum / static_cast<double>(n);
  }

  void auction() {
    while (!open.empty() && work > 0) {
      const int32_t i = open.back();
      open.pop_back();
      const Choice t = choose(i);
      v[t.first] -= (t.next < INF ? t.next - t.least : 0.0) + margin;
      const int32_t other = owner[t.first];
      if (other >= 0) column[other] = -1, open.push_back(other);
      match(i, t.first);
    }
    if (!open.empty()) return;
    const bool last = margin <= smallest_margin;
    if (last || margin <= first_margin * FINE) {
      settle();
      loosen(0.0);
      if (last || static_cast<double>(open.size()) <= SETTLED * static_cast<double>(n)) {
        begin_reduction(Stage::Finish);
        return;
      }
    }
    margin = std::max(margin / SHRINK, smallest_margin);
    loosen(margin);
  }

  // Dijkstra's shortest paths over reduced entries (minus the least of each row), from all unmatched rows together, until
  // half as many free columns are reached. Potentials then fall so that every path found is tight, and each tree that
  // reached a free column is augmented. A row first offers its cache; that it must be read whole waits in the queue at
  // the distance where its level would matter.
  void grow() {
    if (open.empty()) {
      stage = Stage::Done;
      return;
    }
    const int64_t target = static_cast<int64_t>(open.size() + 1) / 2;
    double cap = INF;  // no path longer than this is wanted: `target` free columns are nearer
    int64_t expanded = 0, found = 0;
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
      work -= 2;
      depth[i] = at;
      entry[i] = own;
      for (int32_t k = 0; k < count[i]; ++k) {
        const int32_t j = cached[i * width + k];
        relax(i, j, at + std::max(0.0, value[i * width + k] - v[j] - own));
      }
      const double rest = at + std::max(0.0, level[i] - own);
      if (rest < INF && rest <= cap) push(rest, n + i);
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
    for (const int32_t j : done) v[j] -= reach - distance[j];
    todo.clear();
    for (const int32_t source : open) {
      int32_t j = reached[source];
      if (j < 0) {
        todo.push_back(source);
        continue;
      }
      for (int32_t i = parent[j];; i = parent[j]) {
        const int32_t before = column[i];
        match(i, j);
        if (i == source) break;
        j = before;
      }
    }
    for (const int32_t j : touched) distance[j] = INF, closed[j] = 0;
    open.swap(todo);
  }

  const int64_t n;
  const double* const c;
  const int64_t width;
  double margin, first_margin = 0, smallest_margin = 0;

  std::vector<double> v;                      // potentials of columns
  std::vector<double> price;                  // matched entry of every row
  std::vector<double> level, value;           // what a row knows: bound of all other entries, and entries ...
  std::vector<double> reduced, least;         // the row read last
  std::vector<double> distance, entry, depth; // of columns; of rows: their own reduced entry, and where they joined
  std::vector<double> keys;
  std::vector<int32_t> column, owner;         // the matching, from both sides; -1 where unmatched
  std::vector<int32_t> cached, count;         // ... in columns, n x width, and how many
  std::vector<int32_t> parent, root, reached;
  std::vector<int8_t> closed;
  std::vector<int32_t> open, todo, touched, done, ends, near;
  std::vector<Entry> heap, chosen;

  Stage stage = Stage::Reduce, after = Stage::Decide;
  int pass = 0;
  int64_t steps = 0, work = 0;
};

}  // namespace

// u_i = min_j (c_ij - v_j) and the first such j, for the n rows of m columns; with q also q_j = min_i c_ij.
EXPORT void icsbound_row_minima(int64_t n, int64_t m, const double* c, const double* v, double* u, int64_t* at, double* q) {
  if (q) std::fill(q, q + m, INF);
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) (q ? four_rows_and_columns : four_rows)(m, c + i * m, v, u + i, at + i, q);
  for (; i < n; ++i) (q ? one_row_and_columns : one_row)(m, c + i * m, v, u + i, at + i, q);
}

// A solver (see class Assignment); null where there is no memory. The matrix must stay while it lives.
EXPORT void* icsbound_assignment_new(int64_t n, const double* c, const double* v, const double* minima, const int64_t* at,
                                     double gap) {
  try {
    return new Assignment(n, c, v, minima, at, gap);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// 1: complete; 0: `work` is spent, call again; -1: out of memory.
EXPORT int32_t icsbound_assignment_run(void* solver, int64_t work) {
  try {
    return static_cast<Assignment*>(solver)->run(work) ? 1 : 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// The column of every row (-1: none yet) and the potential of every column.
EXPORT void icsbound_assignment_result(const void* solver, int64_t* matching, double* potentials) {
  static_cast<const Assignment*>(solver)->result(matching, potentials);
}

EXPORT void icsbound_assignment_delete(void* solver) { delete static_cast<Assignment*>(solver); }
