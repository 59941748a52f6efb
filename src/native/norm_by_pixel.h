// Kernels where every pixel has a norm of its own: scope "position", and dense input in scope "sample" (one pixel a
// sample). ν and e are kept by pixel; k, which every element has for itself, is computed again where it is needed.
//
// A *part* is a run of pixels of the flat list of N·L whose sums over channels are taken together. The cut does not
// depend on the number of threads, so neither do the results.

namespace SIMD {

constexpr int64_t MOST_PARTS = 64;

template <class A>
struct Channels {  // one channel's numbers, for the layout whose vectors run over pixels
  A pivot, mean, alpha, gr, beta;
  INLINE Channels(const Saved<A>& s, int64_t c)
      : pivot(s.pivot[c]), mean(s.mean[c]), alpha(s.alpha[c]), gr(s.gr[c]), beta(s.beta[c]) {}
};

// Layout "pixels": vectors over channels, pixel by pixel.
template <class T, class A>
struct PixelMajor {
  static constexpr bool ROWWISE = false;
  const Problem& p;
  Saved<A> saved;
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
  T* out = static_cast<T*>(p.out);
  const int64_t C = p.channels, pixels = p.samples * p.positions;

  int64_t parts() const {
    const int64_t n = pixels / 16;
    return n < 1 ? 1 : n > MOST_PARTS ? MOST_PARTS : n;
  }
  int64_t begin(int64_t part) const { return pixels * part / parts(); }

  // Calls f(at, P) for tiles of P = TILE pixels, then for P = 1, known at compile time. A tile stays in the first-level
  // cache from one sweep to the next; a sweep holds the numbers of a strip of channels in registers while it goes
  // through the pixels, and a sum for each pixel.
  static constexpr int64_t TILE = 8;
  template <class F>
  static INLINE void over_tiles(int64_t from, int64_t to, F f) {
    int64_t at = from;
    for (; at + TILE <= to; at += TILE) f(at, std::integral_constant<int64_t, TILE>{});
    for (; at < to; ++at) f(at, std::integral_constant<int64_t, 1>{});
  }

  template <class Form, class Act>
  void forward(Form form, Act act, const Stream<T>& stream, int64_t from, int64_t to) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A w = A(p.per_kappa);
    over_tiles(from, to, [&](int64_t at, auto size) {
      constexpr int64_t P = decltype(size)::value;
      const T* x = this->x + at * C;
      V<A> squares[P] = {};
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c), r = v.load(s.r + c);
#pragma GCC unroll 8
        for (int64_t i = 0; i < P; ++i) {
          const V<A> d = r * ((v.load(x + i * C + c) - K) - m);
          squares[i] += d * d;
        }
      });
      A t[P];
#pragma GCC unroll 8
      for (int64_t i = 0; i < P; ++i) {
        const A nu = s.nu[at + i] = relative_norm(w * sum<A>(squares[i]), p);
        t[i] = form.t(nu);
      }
      T* y = out + at * C;
      stream.template for_storing<A>(y, C, [&](auto lanes) {
        sweep<A, decltype(lanes)>(C, [&](auto v, int64_t c) {
          const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c), gr = v.load(s.gr + c);
          const V<A> alpha = v.load(s.alpha + c), beta = v.load(s.beta + c);
#pragma GCC unroll 1
          for (int64_t i = 0; i < P; ++i) {
            const V<A> centred = (v.load(x + i * C + c) - K) - m;
            v.store(y + i * C + c, act.output(gr * form.k(t[i], alpha) * centred + beta));
          }
        });
      });
    });
  }

  // Adds to sums (6×C) those of a run of pixels, and sets their e.
  template <class Form, class Act>
  void dots(Form form, Act act, int64_t from, int64_t to, A* e, A* sums) const {
    const Saved<A> s = saved;
    const auto add = [&](auto v, A* to, V<A> z) { v.store(to, v.load(to) + z); };
    over_tiles(from, to, [&](int64_t at, auto size) {
      constexpr int64_t P = decltype(size)::value;
      const T *x = this->x + at * C, *dy = this->dy + at * C;
      Norm<A> norm[P];
      V<A> total[P] = {};
#pragma GCC unroll 8
      for (int64_t i = 0; i < P; ++i) norm[i] = norm_of(form, s.nu[at + i], p);
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c), gr = v.load(s.gr + c);
        const V<A> alpha = v.load(s.alpha + c), beta = v.load(s.beta + c), scale = gr * alpha;
        V<A> z[4] = {};
#pragma GCC unroll 8
        for (int64_t i = 0; i < P; ++i) {
          const V<A> centred = (v.load(x + i * C + c) - K) - m, k = form.k(norm[i].t, alpha);
          const V<A> g = act.gradient(v.load(dy + i * C + c), gr * k * centred + beta);
          const V<A> kg = k * g, kgc = kg * centred, pgc = form.p_times(k, g * centred, kgc);
          total[i] += scale * pgc;
          z[0] += kgc;
          z[1] += norm[i].by_alpha * pgc;
          z[2] += g;
          z[3] += kg;
        }
        z[3] *= gr;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) add(v, sums + j * C + c, z[j]);
      });
      A ee[P];
#pragma GCC unroll 8
      for (int64_t i = 0; i < P; ++i) e[at + i] = ee[i] = norm[i].by_n2 * sum<A>(total[i]);
      if (!p.training) return;  // the other sums are for the statistics
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c);
        V<A> z[2] = {};
#pragma GCC unroll 8
        for (int64_t i = 0; i < P; ++i) {
          const V<A> centred = (v.load(x + i * C + c) - K) - m, ex = ee[i] * centred;
          z[0] += ex * centred;
          z[1] += ex;
        }
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) add(v, sums + (4 + j) * C + c, z[j]);
      });
    });
  }

  template <class Form, class Act>
  void gradient(Form form, Act act, const Stream<T>& stream, int64_t from, int64_t to, const Work<A> w) const {
    const Saved<A> s = saved;
    over_tiles(from, to, [&](int64_t at, auto size) {
      constexpr int64_t P = decltype(size)::value;
      const T *x = this->x + at * C, *dy = this->dy + at * C;
      A t[P], e[P];
#pragma GCC unroll 8
      for (int64_t i = 0; i < P; ++i) t[i] = form.t(s.nu[at + i]), e[i] = w.e[at + i];
      T* dx = out + at * C;
      stream.template for_storing<A>(dx, C, [&](auto lanes) {
        sweep<A, decltype(lanes)>(C, [&](auto v, int64_t c) {
          const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c), gr = v.load(s.gr + c);
          const V<A> alpha = v.load(s.alpha + c), beta = v.load(s.beta + c);
          const V<A> b0 = v.load(w.b0 + c), b1 = v.load(w.b1 + c), shift = v.load(w.shift + c);
#pragma GCC unroll 1
          for (int64_t i = 0; i < P; ++i) {
            const V<A> centred = (v.load(x + i * C + c) - K) - m, a = gr * form.k(t[i], alpha);
            const V<A> g = act.gradient(v.load(dy + i * C + c), a * centred + beta);
            v.store(dx + i * C + c, a * g + ((b0 + e[i] * b1) * centred + shift));
          }
        });
      });
    });
  }
};

// Layout "rows": vectors over positions, block by block of at most BLOCK positions of one sample.
template <class T, class A>
struct RowMajor {
  static constexpr bool ROWWISE = true;
  static constexpr int64_t BLOCK = 256;
  const Problem& p;
  Saved<A> saved;
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
  T* out = static_cast<T*>(p.out);
  const int64_t C = p.channels, L = p.positions, blocks = (L + BLOCK - 1) / BLOCK;

  int64_t parts() const {
    const int64_t n = p.samples * blocks;
    return n > MOST_PARTS ? MOST_PARTS : n;
  }
  int64_t begin(int64_t part) const { return p.samples * blocks * part / parts(); }

  struct Place {
    int64_t at, pixel, size;  // element of channel 0, index of the first pixel, number of pixels
  };
  Place place(int64_t block) const {
    const int64_t n = block / blocks, l = block % blocks * BLOCK;
    return {n * C * L + l, n * L + l, L - l < BLOCK ? L - l : BLOCK};
  }

  template <class Form, class Act>
  void forward(Form form, Act act, const Stream<T>& stream, int64_t from, int64_t to) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A w = A(p.per_kappa);
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      A t[BLOCK] = {};
      for (int64_t c = 0; c < C; ++c) {
        const T* x = this->x + b.at + c * L;
        const A pivot = s.pivot[c], mean = s.mean[c], r = s.r[c];
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> d = r * ((v.load(x + i) - pivot) - mean);
          v.store(t + i, v.load(t + i) + d * d);
        });
      }
      for (int64_t i = 0; i < b.size; ++i) {
        const A nu = s.nu[b.pixel + i] = relative_norm(w * t[i], p);
        t[i] = form.t(nu);
      }
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const V<A> alpha = all<A>(ch.alpha);
        const T* x = this->x + b.at + c * L;
        T* y = out + b.at + c * L;
        stream.template for_storing<A>(y, 0, [&](auto lanes) {
          sweep<A, decltype(lanes)>(b.size, [&](auto v, int64_t i) {
            const V<A> centred = (v.load(x + i) - ch.pivot) - ch.mean;
            const V<A> a = ch.gr * form.k(v.load(t + i), alpha);
            v.store(y + i, act.output(a * centred + ch.beta));
          });
        });
      }
    }
  }

  template <class Form, class Act>
  void dots(Form form, Act act, int64_t from, int64_t to, A* e, A* sums) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      A t[BLOCK], by_alpha[BLOCK], by_n2[BLOCK], total[BLOCK] = {};
      for (int64_t i = 0; i < b.size; ++i) {
        const Norm<A> norm = norm_of(form, s.nu[b.pixel + i], p);
        t[i] = norm.t, by_alpha[i] = norm.by_alpha, by_n2[i] = norm.by_n2;
      }
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const A scale = ch.gr * ch.alpha;
        const T *x = this->x + b.at + c * L, *dy = this->dy + b.at + c * L;
        V<A> z[4] = {};
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> centred = (v.load(x + i) - ch.pivot) - ch.mean, k = form.k(v.load(t + i), all<A>(ch.alpha));
          const V<A> g = act.gradient(v.load(dy + i), ch.gr * k * centred + ch.beta);
          const V<A> kg = k * g, kgc = kg * centred, pgc = form.p_times(k, g * centred, kgc);
          v.store(total + i, v.load(total + i) + scale * pgc);
          z[0] += v.keep(kgc);
          z[1] += v.load(by_alpha + i) * v.keep(pgc);
          z[2] += g;
          z[3] += v.keep(kg);
        });
        z[3] *= ch.gr;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sums[j * C + c] += sum<A>(z[j]);
      }
      A* eb = e + b.pixel;
      for (int64_t i = 0; i < b.size; ++i) eb[i] = by_n2[i] * total[i];
      for (int64_t c = 0; c < (p.training ? C : 0); ++c) {  // the other sums are for the statistics
        const T* x = this->x + b.at + c * L;
        const A pivot = s.pivot[c], mean = s.mean[c];
        V<A> z[2] = {};
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> centred = (v.load(x + i) - pivot) - mean, ex = v.load(eb + i) * centred;
          z[0] += ex * centred;
          z[1] += ex;
        });
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) sums[(4 + j) * C + c] += sum<A>(z[j]);
      }
    }
  }

  template <class Form, class Act>
  void gradient(Form form, Act act, const Stream<T>& stream, int64_t from, int64_t to, const Work<A> w) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      A t[BLOCK];
      for (int64_t i = 0; i < b.size; ++i) t[i] = form.t(s.nu[b.pixel + i]);
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const A b0 = w.b0[c], b1 = w.b1[c], shift = w.shift[c];
        const V<A> alpha = all<A>(ch.alpha);
        const T *x = this->x + b.at + c * L, *dy = this->dy + b.at + c * L;
        T* dx = out + b.at + c * L;
        stream.template for_storing<A>(dx, 0, [&](auto lanes) {
          sweep<A, decltype(lanes)>(b.size, [&](auto v, int64_t i) {
            const V<A> centred = (v.load(x + i) - ch.pivot) - ch.mean;
            const V<A> a = ch.gr * form.k(v.load(t + i), alpha);
            const V<A> g = act.gradient(v.load(dy + i), a * centred + ch.beta);
            const V<A> be = b0 + b1 * v.load(w.e + b.pixel + i);
            v.store(dx + i, a * g + (be * centred + shift));
          });
        });
      }
    }
  }
};

}  // namespace SIMD
