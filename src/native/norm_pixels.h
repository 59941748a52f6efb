// The same primitives where the C values of a pixel lie together: the vectors run over channels, and a tile of pixels
// that stays in the first-level cache is read in strips of channels, whose sums stay in registers.

namespace SIMD {

constexpr int64_t TILE_BYTES = 16384;

template <class T>
INLINE int64_t tile_pixels(int64_t C) {
  const int64_t pixels = TILE_BYTES / (C * int64_t(sizeof(T)));
  return pixels < 8 ? 8 : pixels;
}

// Scratch memory of one piece of parallel work.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(static_cast<A*>(std::malloc(sizeof(A) * size_t(count)))) {}
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() const { return memory_; }

 private:
  A* memory_;
};

// Mean of x - K and Σ (x - K - mean)² of every channel over `pixels` pixels.
template <class T, class A>
inline void pixel_moments(const T* x, int64_t pixels, int64_t C, const A* pivot, A* mean, A* squares) {
  const int64_t tile = tile_pixels<T>(C);
  for (int64_t begin = 0; begin < pixels; begin += tile) {
    const int64_t P = pixels - begin < tile ? pixels - begin : tile;
    const T* rows = x + begin * C;
    const A share = A(P) / A(begin + P), cross = A(begin) * share;
    sweep<A>(C, [&](auto v, int64_t c) {
      const V<A> K = v.load(pivot + c);
      V<A> t0{}, t1{};
      int64_t i = 0;
      for (; i + 2 <= P; i += 2) {
        t0 += v.load(rows + i * C + c) - K;
        t1 += v.load(rows + (i + 1) * C + c) - K;
      }
      if (i < P) t0 += v.load(rows + i * C + c) - K;
      const V<A> m = (t0 + t1) / A(P);
      t0 = t1 = V<A>{};
      for (i = 0; i + 2 <= P; i += 2) {
        const V<A> d0 = (v.load(rows + i * C + c) - K) - m, d1 = (v.load(rows + (i + 1) * C + c) - K) - m;
        t0 += d0 * d0;
        t1 += d1 * d1;
      }
      if (i < P) {
        const V<A> d = (v.load(rows + i * C + c) - K) - m;
        t0 += d * d;
      }
      if (begin == 0) {
        v.store(mean + c, m);
        v.store(squares + c, t0 + t1);
      } else {
        const V<A> before = v.load(mean + c), delta = v.keep(m - before);
        v.store(mean + c, before + delta * share);
        v.store(squares + c, v.load(squares + c) + v.keep(t0 + t1) + delta * delta * cross);
      }
    });
  }
}

// Σ_c r² Σ x̂² over `pixels` pixels.
template <class T, class A>
inline A pixel_squares(const T* x, int64_t pixels, int64_t C, const A* pivot, const A* mean, const A* r) {
  double total = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    Sum<A> s;
    sweep_sums<A>(C, [&](auto v, int64_t c, int u) {
      const V<A> d = v.keep(v.load(r + c) * ((v.load(x + i * C + c) - v.load(pivot + c)) - v.load(mean + c)));
      s.add(u, d * d);
    });
    total += s.total();
  }
  return A(total);
}

template <class T, class A>
inline void pixel_affine(const T* x, T* y, int64_t pixels, int64_t C, const A* pivot, const A* mean, const A* a,
                  const A* beta, A floor) {
  for (int64_t i = 0; i < pixels; ++i, x += C, y += C)
    sweep<A>(C, [&](auto v, int64_t c) {
      const V<A> centred = (v.load(x + c) - v.load(pivot + c)) - v.load(mean + c);
      v.store(y + c, raised<A>(v.load(a + c) * centred + v.load(beta + c), floor));
    });
}

// Adds to s0 and s1 (C,) the Σ dy and Σ dy x̂ of `pixels` pixels.
template <class T, class A>
inline void pixel_dots(const T* dy, const T* x, int64_t pixels, int64_t C, const A* pivot, const A* mean, const A* a,
                const A* beta, A floor, A* s0, A* s1) {
  const int64_t tile = tile_pixels<T>(C);
  for (int64_t begin = 0; begin < pixels; begin += tile) {
    const int64_t P = pixels - begin < tile ? pixels - begin : tile;
    const T *xs = x + begin * C, *dys = dy + begin * C;
    sweep<A>(C, [&](auto v, int64_t c) {
      const V<A> K = v.load(pivot + c), m = v.load(mean + c), ac = v.load(a + c), bc = v.load(beta + c);
      V<A> t0{}, t1{}, u0{}, u1{};
      int64_t i = 0;
      for (; i + 2 <= P; i += 2) {
        const V<A> x0 = (v.load(xs + i * C + c) - K) - m, x1 = (v.load(xs + (i + 1) * C + c) - K) - m;
        const V<A> g0 = passed<A>(v.load(dys + i * C + c), ac * x0 + bc, floor);
        const V<A> g1 = passed<A>(v.load(dys + (i + 1) * C + c), ac * x1 + bc, floor);
        t0 += g0, u0 += g0 * x0;
        t1 += g1, u1 += g1 * x1;
      }
      if (i < P) {
        const V<A> x0 = (v.load(xs + i * C + c) - K) - m;
        const V<A> g0 = passed<A>(v.load(dys + i * C + c), ac * x0 + bc, floor);
        t0 += g0, u0 += g0 * x0;
      }
      v.store(s0 + c, v.load(s0 + c) + v.keep(t0 + t1));
      v.store(s1 + c, v.load(s1 + c) + v.keep(u0 + u1));
    });
  }
}

template <class T, class A>
inline void pixel_affine2(const T* dy, const T* x, T* dx, int64_t pixels, int64_t C, const A* pivot, const A* mean,
                   const A* a, const A* beta, A floor, const A* b, const A* shift) {
  for (int64_t i = 0; i < pixels; ++i, x += C, dy += C, dx += C)
    sweep<A>(C, [&](auto v, int64_t c) {
      const V<A> centred = (v.load(x + c) - v.load(pivot + c)) - v.load(mean + c), ac = v.load(a + c);
      const V<A> g = passed<A>(v.load(dy + c), ac * centred + v.load(beta + c), floor);
      v.store(dx + c, ac * g + (v.load(b + c) * centred + v.load(shift + c)));
    });
}

}  // namespace SIMD
