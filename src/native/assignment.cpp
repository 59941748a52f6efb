// Least-cost assignment between two clouds, warm-started by dual potentials.
//
// Notation: c is the n x n matrix of distances, row-major, float64; v one potential a column; the reduced entry of row i
// and column j is c_ij - v_j. A matched entry is tight where it is the least reduced entry of its row; a complete matching
// of tight entries is optimal. Here v only ever decreases.
//
// The steps (stages of class Assignment), each on what the one before left open:
//   start    rows keep their own column where it is tight, else take the hinted one if nobody has it; where most keep their
//            own, all do, and potentials are lowered until that is optimal or shows not to be;
//   reduce   Jonker and Volgenant's row reduction: a row takes its best column, which is lowered to its second best;
//   auction  Bertsekas' bids with a margin eps that shrinks, where many rows are still unmatched; a price war of a few
//            rows is ended by paths;
//   finish   shortest augmenting paths, grown from all unmatched rows at once.
//
// Each layer below knows the one under it: rows read at the speed of memory (assignment_rows.h), what is remembered of
// them (assignment_cache.h), the matching (assignment_matching.h), augmenting paths (assignment_paths.h), and the stages.
//
// Nothing here is trusted: the caller prices the matching and computes the dual value anew from v.

#include "assignment_paths.h"

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

class Assignment : AugmentingPaths {
 public:
  // No entry of a row is below its `minima` for the potentials `start`; its column `at` is hinted as the least. `gap` is an
  // upper bound of (cost of an optimal matching - dual value) / n, and `slack` what of it may stay open; `points` (or null)
  // number the rows by their points.
  Assignment(int64_t size, const double* cost, const double* start, const double* minima, const int64_t* at, double gap,
             double slack, const int64_t* points)
      : AugmentingPaths(size, cost, start, minima, points), margin(gap) {
    double largest = 0;  // of the first row and column; by the triangle inequality no entry exceeds three times it
    for (int64_t i = 0; i < n; ++i) largest = std::max({largest, at_(0, i), at_(i, 0)});
    smallest_margin = std::ldexp(largest, -36);
    take_hints(at, slack);
    begin_reduction(Stage::Decide);
  }

  // Go on for about `budget` units of work (a look at a cache each); true when the matching is complete.
  bool run(int64_t budget) {
    work = budget;
    while (work > 0 && stage != Stage::Done) switch (stage) {
        case Stage::Reduce: reduce(); break;
        case Stage::Decide: decide(); break;
        case Stage::Auction: auction(); break;
        case Stage::Finish: finish(); break;
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

  static constexpr double HINTED = 0.45;     // share of rows that keep their own column, from where all are to
  static constexpr int64_t SETTLE = 4;       // times n: looks at rows until the others fit, or not
  static constexpr int PASSES = 2;           // of row reduction
  static constexpr int64_t REDUCTIONS = 2;   // times n in each pass
  static constexpr double CROWDED = 0.15;    // share of unmatched rows above which the auction is worth its start
  static constexpr double SHRINK = 8;        // of the margin from round to round
  static constexpr int64_t WAR = 16;         // times n: bids in a round, after which a few rows that are left get paths
  static constexpr int64_t FEW = 50;         // ... fewer than one of so many
  static constexpr double FINE = 1.0 / 64;   // of the first margin, from where a round may be the last
  static constexpr double SETTLED = 0.3;     // share of loose rows below which it is

  void take_hints(const int64_t* at, double slack) {
    for (int64_t i = 0; i < n; ++i)
      if (at_(i, i) - v[i] <= level[i] + slack) match(i, static_cast<int32_t>(i));
    if (static_cast<double>(std::count(column.begin(), column.end(), -1)) <= (1 - HINTED) * static_cast<double>(n)) {
      for (int64_t i = 0; i < n; ++i) match(i, static_cast<int32_t>(i));
      if (!prove(slack, SETTLE * n)) loosen(0.0);
      return;
    }
    for (int64_t i = n - 1; i >= 0; --i)
      if (column[i] < 0) {
        if (owner[at[i]] < 0)
          match(i, static_cast<int32_t>(at[i]));
        else
          open.push_back(static_cast<int32_t>(i));
      }
  }

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
    // A few rows may outbid each other for as many columns by one margin after another, a whole row read for each bid.
    const auto war = [&] { return bids > WAR * n && FEW * static_cast<int64_t>(open.size()) < n; };
    while (!open.empty() && !war() && work > 0) {
      const int32_t i = open.back();
      open.pop_back();
      ++bids;
      const Choice t = choose(i);
      v[t.first] -= (t.next < INF ? t.next - t.least : 0.0) + margin;
      const int32_t other = owner[t.first];
      if (other >= 0) column[other] = -1, open.push_back(other);
      match(i, t.first);
    }
    while (!open.empty() && war() && work > 0) grow();
    if (!open.empty()) return;
    bids = 0;
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

  void finish() {
    if (open.empty())
      stage = Stage::Done;
    else
      grow();
  }

  double margin, first_margin = 0, smallest_margin = 0;
  Stage stage = Stage::Reduce, after = Stage::Decide;
  std::vector<int32_t> todo;  // of the pass of row reduction
  int pass = 0;
  int64_t steps = 0;
  int64_t bids = 0;  // in this round of the auction
};

}  // namespace

// u_i = min_j (c_ij - v_j) and the first such j, for n rows of m columns, those that `rows` lists or (null) the first; with
// q also q_j = min_i c_ij.
EXPORT void icsbound_row_minima(int64_t n, int64_t m, const double* c, const int64_t* rows, const double* v, double* u,
                                int64_t* at, double* q) {
  if (q) std::fill(q, q + m, INF);
  const auto row = [&](int64_t i) { return c + (rows ? rows[i] : i) * m; };
  for (int64_t i = 0; i < n; ++i) row_least(m, row(i), row(std::min(i + 1, n - 1)), v, u + i, at + i, q);
}

// A solver (see class Assignment); null where there is no memory. The matrix must stay while it lives.
EXPORT void* icsbound_assignment_new(int64_t n, const double* c, const double* v, const double* minima, const int64_t* at,
                                     double gap, double slack, const int64_t* points) {
  try {
    return new Assignment(n, c, v, minima, at, gap, slack, points);
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
