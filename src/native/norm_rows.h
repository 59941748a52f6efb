// The row primitives, in both layouts. Every x enters as x̂ = (x - K) - μ, the pivot K subtracted first because that is
// exact where mean ≫ std.

namespace SIMD {

// Mean of x - K, and Σ (x - K - mean)², of one row. Long rows go in pieces that stay in the first-level cache for
// the second look, merged as Chan's formula says.
template <class T, class A>
inline void row_moments(const T* x, int64_t L, A pivot, A* mean, A* squares) {
  constexpr int64_t PIECE = 16384 / sizeof(A);
  A m = 0, M2 = 0;
  for (int64_t begin = 0; begin < L; begin += PIECE) {
    const int64_t size = L - begin < PIECE ? L - begin : PIECE;
    const T* piece = x + begin;
    Sum<A> s;
    sweep_sums<A>(size, [&](auto v, int64_t i, int u) { s.add(u, v.keep(v.load(piece + i) - pivot)); });
    const A mp = s.total() / A(size);
    Sum<A> ss;
    sweep_sums<A>(size, [&](auto v, int64_t i, int u) {
      const V<A> d = v.keep((v.load(piece + i) - pivot) - mp);
      ss.add(u, d * d);
    });
    const A delta = mp - m, whole = A(begin + size);
    m += delta * (A(size) / whole);
    M2 += ss.total() + delta * delta * (A(begin) * (A(size) / whole));
  }
  *mean = m, *squares = M2;
}

// Σ x̂².
template <class T, class A>
inline A row_squares(const T* x, int64_t L, A pivot, A mean) {
  Sum<A> s;
  sweep_sums<A>(L, [&](auto v, int64_t i, int u) {
    const V<A> d = v.keep((v.load(x + i) - pivot) - mean);
    s.add(u, d * d);
  });
  return s.total();
}

// y = a x̂ + β, not below `floor`.
template <class T, class A>
inline void row_affine(const T* x, T* y, int64_t L, A pivot, A mean, A a, A beta, A floor) {
  sweep<A>(L, [&](auto v, int64_t i) {
    v.store(y + i, raised<A>(a * ((v.load(x + i) - pivot) - mean) + beta, floor));
  });
}

// Σ dy and Σ dy x̂.
template <class T, class A>
inline void row_dots(const T* dy, const T* x, int64_t L, A pivot, A mean, A a, A beta, A floor, A* s0, A* s1) {
  Sum<A> t0, t1;
  sweep_sums<A>(L, [&](auto v, int64_t i, int u) {
    const V<A> centred = (v.load(x + i) - pivot) - mean;
    const V<A> g = v.keep(passed<A>(v.load(dy + i), a * centred + beta, floor));
    t0.add(u, g);
    t1.add(u, g * v.keep(centred));
  });
  *s0 = t0.total(), *s1 = t1.total();
}

// dx = a dy + b x̂ + shift.
template <class T, class A>
inline void row_affine2(const T* dy, const T* x, T* dx, int64_t L, A pivot, A mean, A a, A beta, A floor, A b,
                        A shift) {
  sweep<A>(L, [&](auto v, int64_t i) {
    const V<A> centred = (v.load(x + i) - pivot) - mean;
    const V<A> g = passed<A>(v.load(dy + i), a * centred + beta, floor);
    v.store(dx + i, a * g + (b * centred + shift));
  });
}

}  // namespace SIMD
