// The row primitives where a row's L values lie together. Every x enters as x - K, exact where mean ≫ std.
//
// Moments are taken in one look, as Σ (x - s) and Σ (x - s)² about a shift s close to the mean. What that loses is
// bounded: if s is the mean of k of a run of n elements, Σ (x - s)² is at most 1 + n / k times the sum of squared
// deviations, so rounding errors grow no more than that, and 1 + 1 / k times is usual.

namespace SIMD {

constexpr int64_t SHORT = 256;   // rows up to this length are summed W at a time
constexpr int64_t PIECE = 4096;  // longer ones in pieces of this length

// The shift of a run of elements: the mean of `K` of them, spread over it.
template <int K, class A, class T>
INLINE A shift_of(const T* x, int64_t length) {
  A s = 0;
  for (int64_t i = 0; i < K; ++i) s += one(x[length * (2 * i + 1) / (2 * K)]);
  return s * A(1.0 / K);
}

// Σ (x - s) and Σ (x - s)², by lanes.
template <int N, class T, class A>
INLINE void shifted_sums(const T* x, const Run<A>& run, A shift, V<A>* s1, V<A>* s2) {
  Sum<A, N> t1, t2;
  sweep_sums<A, N>(run, [&](auto v, int64_t i, int u) {
    const V<A> d = v.keep(v.load(x + i) - shift);
    t1.add(u, d);
    t2.add(u, d * d);
  });
  *s1 = t1.lanes(), *s2 = t2.lanes();
}

// Mean of x - K and Σ (x - K - mean)² of `rows` rows, at most W.
template <class T, class A>
inline void rows_moments(const T* x, int64_t rows, int64_t L, const A* pivot, A* mean, A* squares) {
  V<A> s1[W<A>] = {}, s2[W<A>] = {};
  alignas(64) A shift[W<A>] = {};
  const Run<A> run(L);
  for (int64_t j = 0; j < rows; ++j) {
    const T* row = x + j * L;
    if (L <= 64) {  // the sums of the next row do not wait either
      shift[j] = one(row[L / 2]);
      shifted_sums<1>(row, run, shift[j], s1 + j, s2 + j);
    } else {
      shift[j] = shift_of<4, A>(row, L);
      shifted_sums<4>(row, run, shift[j], s1 + j, s2 + j);
    }
  }
  const V<A> t1 = sums<A>(s1), m = t1 / A(L), M2 = sums<A>(s2) - t1 * m;
  const auto put = [&](auto v) {
    v.store(mean, (load(shift) - v.load(pivot)) + m);
    v.store(squares, (M2 < 0) ? V<A>{} : M2);
  };
  rows == W<A> ? put(Whole<A>{}) : put(Tail<A>(rows));
}

// The same of one piece of a long row, `before` elements of which `mean` and `squares` have (Chan's merge).
template <class T, class A>
inline void piece_moments(const T* x, int64_t length, int64_t before, A pivot, A* mean, A* squares) {
  const A shift = before ? pivot + *mean : length < 64 ? shift_of<4, A>(x, length) : shift_of<16, A>(x, length);
  V<A> s1, s2;
  shifted_sums<4>(x, Run<A>(length), shift, &s1, &s2);
  const A t1 = sum<A>(s1), offset = t1 / A(length), M2 = sum<A>(s2) - t1 * offset;
  const A m = (shift - pivot) + offset, delta = before ? m - *mean : A(0), share = A(length) / A(before + length);
  *squares = (before ? *squares : A(0)) + (M2 < 0 ? A(0) : M2) + delta * delta * (A(before) * share);
  *mean = before ? *mean + delta * share : m;
}

// r² Σ (x - K)², by lanes.
template <class T, class A>
inline V<A> row_squares(const T* x, const Run<A>& run, A pivot, A r) {
  Sum<A, 4> s;
  sweep_sums<A, 4>(run, [&](auto v, int64_t i, int u) {
    const V<A> d = v.keep(v.load(x + i) - pivot);
    s.add(u, d * d);
  });
  return r * r * s.lanes();
}

// y = a (x - K) + b.
template <class Full, class Act, class T, class A>
INLINE void row_affine(const T* x, T* y, const Run<A>& run, A pivot, A a, A b, Act act) {
  sweep<A, Full>(run, [&](auto v, int64_t i) {
    v.soon_read(x + i + AHEAD<T>), v.soon_stored(y + i + AHEAD<T>);
    v.store(y + i, act.output(a * (v.load(x + i) - pivot) + b));
  });
}

// Σ dy and Σ dy (x - K), by lanes.
template <class Act, class T, class A>
INLINE void row_dots(const T* dy, const T* x, const Run<A>& run, A pivot, A a, A b, Act act, V<A>* s0, V<A>* s1) {
  Sum<A, 4> t0, t1;
  sweep_sums<A, 4>(run, [&](auto v, int64_t i, int u) {
    const V<A> d = v.load(x + i) - pivot, g = act.gradient(v.load(dy + i), a * d + b);
    t0.add(u, g);
    t1.add(u, g * d);
  });
  *s0 = t0.lanes(), *s1 = t1.lanes();
}

// dx = a dy + s (x - K) + t.
template <class Full, class Act, class T, class A>
INLINE void row_affine2(const T* dy, const T* x, T* dx, const Run<A>& run, A pivot, A a, A b, Act act, A s, A t) {
  sweep<A, Full>(run, [&](auto v, int64_t i) {
    v.soon_read(x + i + AHEAD<T>), v.soon_read(dy + i + AHEAD<T>), v.soon_stored(dx + i + AHEAD<T>);
    const V<A> d = v.load(x + i) - pivot, g = act.gradient(v.load(dy + i), a * d + b);
    v.store(dx + i, a * g + (s * d + t));
  });
}

}  // namespace SIMD
