// The same primitives where the C values of a pixel lie together: the vectors run over channels, for a few pixels at a
// time, each of them read from its beginning to its end, so that coefficients and sums are loaded once for all of them.
//
// Few or odd numbers of channels are *repeated*: R pixels are read as one of R·C channels, with R copies of each
// coefficient, so that vectors are full.

namespace SIMD {

// R, a power of two, for C channels, where runs are of at least `pixels` pixels.
template <class A>
INLINE int64_t repeats(int64_t C, int64_t pixels) {
  constexpr int64_t block = 4 * W<A>;
  int64_t R = 1;
  while (R * C % block && 2 * R * C <= 8 * block && 32 * R <= pixels) R *= 2;
  return R;
}

template <class A>
INLINE void repeat(A* values, int64_t C, int64_t R) {  // the first C, R times
  for (int64_t r = 1; r < R; r *= 2) __builtin_memcpy(values + r * C, values, size_t(r * C) * sizeof(A));
}

// Adds up what was summed by repeated channel.
template <class A>
INLINE void fold(A* values, int64_t C, int64_t R) {
  for (int64_t j = 1; j < R; ++j)
    for (int64_t c = 0; c < C; ++c) values[c] += values[j * C + c];
}

// Calls f(from, rows, channels) for `pixels` pixels: from the `from`-th on, `rows` times `channels` values.
template <class F>
INLINE void over_runs(int64_t pixels, int64_t C, int64_t R, F f) {
  const int64_t rows = pixels / R;
  f(0, rows, R * C);
  if (pixels % R) f(rows * R, pixels % R, C);
}

// Calls f(lanes, i, c, n, soon) for vectors of channels at c of the n pixels from i, n known at compile time. From `soon`
// on lie n vectors of the pixels after these, to be asked for: as a whole they are those pixels in the order of memory,
// which processors follow better than the order of the work.
template <class A, class Full = Whole<A>, class F>
INLINE void over_pixels(int64_t rows, int64_t C, F f) {
  constexpr int64_t SOME = 4;
  int64_t i = 0;
  const auto pass = [&](auto n) { sweep<A, Full>(C, [&](auto v, int64_t c) { f(v, i, c, n, (i + n) * C + c * n); }); };
  for (; i + SOME <= rows; i += SOME) pass(std::integral_constant<int64_t, SOME>{});
  for (; i < rows; ++i) pass(std::integral_constant<int64_t, 1>{});
}

// Adds to s1 and s2 (C,) the Σ (x - s) and Σ (x - s)² of `rows` pixels, s the shift (C,); see norm_rows.h.
template <class Full, class T, class A>
inline void pixel_sums(const T* x, int64_t rows, int64_t C, const A* shift, A* s1, A* s2) {
  over_pixels<A, Full>(rows, C, [&](auto v, int64_t i, int64_t c, auto n, int64_t soon) {
    constexpr int64_t some = decltype(n)::value;
    const V<A> s = v.load(shift + c);
    V<A> t1{}, t2{};
#pragma GCC unroll 4
    for (int64_t j = 0; j < some; ++j) {
      v.soon_read(x + soon + j * W<A>);
      const V<A> d = v.load(x + (i + j) * C + c) - s;
      t1 += d;
      t2 += d * d;
    }
    v.store(s1 + c, v.load(s1 + c) + t1);
    v.store(s2 + c, v.load(s2 + c) + t2);
  });
}

// Σ r² (x - K)², by lanes.
template <class Full, class T, class A>
inline V<A> pixel_squares(const T* x, int64_t rows, int64_t C, const A* pivot, const A* r) {
  V<A> total{};
  over_pixels<A, Full>(rows, C, [&](auto v, int64_t i, int64_t c, auto n, int64_t soon) {
    constexpr int64_t some = decltype(n)::value;
    const V<A> K = v.load(pivot + c), rc = v.load(r + c);
    V<A> t{};
#pragma GCC unroll 4
    for (int64_t j = 0; j < some; ++j) {
      v.soon_read(x + soon + j * W<A>);
      const V<A> d = v.load(x + (i + j) * C + c) - K;
      t += d * d;
    }
    total += rc * rc * t;
  });
  return total;
}

// y = a (x - K) + b.
template <class Full, class Act, class T, class A>
inline void pixel_affine(const T* x, T* y, int64_t rows, int64_t C, const A* pivot, const A* a, const A* b, Act act) {
  over_pixels<A, Full>(rows, C, [&](auto v, int64_t i, int64_t c, auto n, int64_t soon) {
    constexpr int64_t some = decltype(n)::value;
    const V<A> K = v.load(pivot + c), ac = v.load(a + c), bc = v.load(b + c);
#pragma GCC unroll 4
    for (int64_t j = 0, at = i * C + c; j < some; ++j, at += C) {
      v.soon_read(x + soon + j * W<A>), v.soon_stored(y + soon + j * W<A>);
      v.store(y + at, act.output(ac * (v.load(x + at) - K) + bc));
    }
  });
}

// Adds to s0 and s1 (C,) the Σ dy and Σ dy (x - K).
template <class Full, class Act, class T, class A>
inline void pixel_dots(const T* dy, const T* x, int64_t rows, int64_t C, const A* pivot, const A* a, const A* b,
                       Act act, A* s0, A* s1) {
  over_pixels<A, Full>(rows, C, [&](auto v, int64_t i, int64_t c, auto n, int64_t soon) {
    constexpr int64_t some = decltype(n)::value;
    const V<A> K = v.load(pivot + c), ac = v.load(a + c), bc = v.load(b + c);
    V<A> t0{}, t1{};
#pragma GCC unroll 4
    for (int64_t j = 0, at = i * C + c; j < some; ++j, at += C) {
      v.soon_read(x + soon + j * W<A>), v.soon_read(dy + soon + j * W<A>);
      const V<A> d = v.load(x + at) - K, g = act.gradient(v.load(dy + at), ac * d + bc);
      t0 += g;
      t1 += g * d;
    }
    v.store(s0 + c, v.load(s0 + c) + t0);
    v.store(s1 + c, v.load(s1 + c) + t1);
  });
}

// dx = a dy + s (x - K) + t.
template <class Full, class Act, class T, class A>
inline void pixel_affine2(const T* dy, const T* x, T* dx, int64_t rows, int64_t C, const A* pivot, const A* a,
                          const A* b, Act act, const A* slope, const A* shift) {
  over_pixels<A, Full>(rows, C, [&](auto v, int64_t i, int64_t c, auto n, int64_t soon) {
    constexpr int64_t some = decltype(n)::value;
    const V<A> K = v.load(pivot + c), ac = v.load(a + c), bc = v.load(b + c);
    const V<A> s = v.load(slope + c), t = v.load(shift + c);
#pragma GCC unroll 4
    for (int64_t j = 0, at = i * C + c; j < some; ++j, at += C) {
      v.soon_read(x + soon + j * W<A>), v.soon_read(dy + soon + j * W<A>);
      v.soon_stored(dx + soon + j * W<A>);
      const V<A> d = v.load(x + at) - K, g = act.gradient(v.load(dy + at), ac * d + bc);
      v.store(dx + at, ac * g + (s * d + t));
    }
  });
}

// Mean of x - K and Σ (x - K - mean)² of every channel over `pixels` pixels. `work` has 3 R C numbers.
template <class Full, class T, class A>
inline void pixel_moments(const T* x, int64_t pixels, int64_t C, int64_t R, const A* pivot, A* mean, A* squares,
                          A* work) {
  constexpr int64_t SOME = 4;  // pixels that the shift is the mean of, spread over the run
  A *shift = work, *s1 = shift + R * C, *s2 = s1 + R * C;
  for (int64_t i = 0; i < R * C; ++i) shift[i] = s1[i] = s2[i] = 0;
  for (int64_t i = 0; i < SOME; ++i) {
    const T* some = x + pixels * (2 * i + 1) / (2 * SOME) * C;
    sweep<A>(C, [&](auto v, int64_t c) { v.store(shift + c, v.load(shift + c) + A(1.0 / SOME) * v.load(some + c)); });
  }
  repeat(shift, C, R);
  over_runs(pixels, C, R, [&](int64_t from, int64_t rows, int64_t channels) {
    pixel_sums<Full>(x + from * C, rows, channels, shift, s1, s2);
  });
  fold(s1, C, R), fold(s2, C, R);
  sweep<A>(C, [&](auto v, int64_t c) {
    const V<A> t1 = v.load(s1 + c), m = t1 / A(pixels), M2 = v.load(s2 + c) - t1 * m;
    v.store(mean + c, (v.load(shift + c) - v.load(pivot + c)) + m);
    v.store(squares + c, (M2 < 0) ? V<A>{} : M2);
  });
}

}  // namespace SIMD
