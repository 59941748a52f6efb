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
  const Problem& p;
  Saved<A> saved;
  const int64_t C = p.channels, pixels = p.samples * p.positions;

  int64_t parts() const {
    const int64_t n = pixels / 16;
    return n < 1 ? 1 : n > MOST_PARTS ? MOST_PARTS : n;
  }
  int64_t begin(int64_t part) const { return pixels * part / parts(); }

  template <class Form>
  void forward(int64_t from, int64_t to) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    const T* x = static_cast<const T*>(p.x) + from * C;
    T* y = static_cast<T*>(p.out) + from * C;
    const A w = A(p.per_kappa);
    for (int64_t i = from; i < to; ++i, x += C, y += C) {
      Sum<A> squares;
      sweep_sums<A>(C, [&](auto v, int64_t c, int u) {
        const V<A> d = v.keep(v.load(s.r + c) * ((v.load(x + c) - v.load(s.pivot + c)) - v.load(s.mean + c)));
        squares.add(u, d * d);
      });
      const A nu = s.nu[i] = relative_norm(w * squares.total(), p), t = Form::t(nu);
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> centred = (v.load(x + c) - v.load(s.pivot + c)) - v.load(s.mean + c);
        const V<A> a = v.load(s.gr + c) * Form::k(t, v.load(s.alpha + c));
        v.store(y + c, raised<A>(a * centred + v.load(s.beta + c), floor));
      });
    }
  }

  // Adds to sums (6×C) those of a run of pixels, and sets their e.
  template <class Form>
  void dots(int64_t from, int64_t to, A* e, A* sums) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    constexpr int64_t TILE = 8;
    Scratch<A> ks(TILE * C);
    Norm<A> norm[TILE];
    for (int64_t begin = from; begin < to; begin += TILE) {
      const int64_t P = to - begin < TILE ? to - begin : TILE;
      const T *x = static_cast<const T*>(p.x) + begin * C, *dy = static_cast<const T*>(p.dy) + begin * C;
      A* k = ks.get();
      for (int64_t i = 0; i < P; ++i) {
        norm[i] = norm_of<Form>(s.nu[begin + i], p);
        Sum<A> total;
        sweep_sums<A>(C, [&](auto v, int64_t c, int u) {
          const V<A> centred = (v.load(x + i * C + c) - v.load(s.pivot + c)) - v.load(s.mean + c);
          const V<A> alpha = v.load(s.alpha + c), gr = v.load(s.gr + c), kc = Form::k(norm[i].t, alpha);
          v.store(k + i * C + c, kc);
          const V<A> y = gr * kc * centred + v.load(s.beta + c);
          const V<A> g = v.keep(passed<A>(v.load(dy + i * C + c), y, floor));
          total.add(u, gr * alpha * Form::p(kc) * g * v.keep(centred));
        });
        e[begin + i] = norm[i].by_n2 * total.total();
      }
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> K = v.load(s.pivot + c), m = v.load(s.mean + c), gr = v.load(s.gr + c), beta = v.load(s.beta + c);
        V<A> t[SUMS] = {};
        for (int64_t i = 0; i < P; ++i) {
          const V<A> centred = (v.load(x + i * C + c) - K) - m, kc = v.load(k + i * C + c);
          const V<A> g = passed<A>(v.load(dy + i * C + c), gr * kc * centred + beta, floor);
          const V<A> kg = kc * g, ex = e[begin + i] * centred;
          t[0] += kg * centred;
          t[1] += norm[i].by_alpha * Form::p(kc) * (g * centred);
          t[2] += g;
          t[3] += kg;
          t[4] += ex * centred;
          t[5] += ex;
        }
        t[3] *= gr;
        for (int j = 0; j < SUMS; ++j) v.store(sums + j * C + c, v.load(sums + j * C + c) + v.keep(t[j]));
      });
    }
  }

  template <class Form>
  void gradient(int64_t from, int64_t to, const Work<A> w) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    const T *x = static_cast<const T*>(p.x) + from * C, *dy = static_cast<const T*>(p.dy) + from * C;
    T* dx = static_cast<T*>(p.out) + from * C;
    for (int64_t i = from; i < to; ++i, x += C, dy += C, dx += C) {
      const A t = Form::t(s.nu[i]), e = w.e[i];
      sweep<A>(C, [&](auto v, int64_t c) {
        const V<A> centred = (v.load(x + c) - v.load(s.pivot + c)) - v.load(s.mean + c);
        const V<A> a = v.load(s.gr + c) * Form::k(t, v.load(s.alpha + c));
        const V<A> g = passed<A>(v.load(dy + c), a * centred + v.load(s.beta + c), floor);
        const V<A> b = v.load(w.b0 + c) + e * v.load(w.b1 + c);
        v.store(dx + c, a * g + (b * centred + v.load(w.shift + c)));
      });
    }
  }
};

// Layout "rows": vectors over positions, block by block of at most BLOCK positions of one sample.
template <class T, class A>
struct RowMajor {
  static constexpr int64_t BLOCK = 256;
  const Problem& p;
  Saved<A> saved;
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

  template <class Form>
  void forward(int64_t from, int64_t to) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    const A w = A(p.per_kappa);
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      const T* x = static_cast<const T*>(p.x) + b.at;
      T* y = static_cast<T*>(p.out) + b.at;
      A t[BLOCK] = {};
      for (int64_t c = 0; c < C; ++c) {
        const A pivot = s.pivot[c], mean = s.mean[c], r = s.r[c];
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> d = v.keep(r * ((v.load(x + c * L + i) - pivot) - mean));
          v.store(t + i, v.load(t + i) + d * d);
        });
      }
      for (int64_t i = 0; i < b.size; ++i) {
        const A nu = s.nu[b.pixel + i] = relative_norm(w * t[i], p);
        t[i] = Form::t(nu);
      }
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const V<A> alpha = all<A>(ch.alpha);
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> centred = (v.load(x + c * L + i) - ch.pivot) - ch.mean;
          const V<A> a = ch.gr * Form::k(v.load(t + i), alpha);
          v.store(y + c * L + i, raised<A>(a * centred + ch.beta, floor));
        });
      }
    }
  }

  template <class Form>
  void dots(int64_t from, int64_t to, A* e, A* sums) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      const T *x = static_cast<const T*>(p.x) + b.at, *dy = static_cast<const T*>(p.dy) + b.at;
      A t[BLOCK], by_alpha[BLOCK], by_n2[BLOCK], total[BLOCK] = {};
      for (int64_t i = 0; i < b.size; ++i) {
        const Norm<A> norm = norm_of<Form>(s.nu[b.pixel + i], p);
        t[i] = norm.t, by_alpha[i] = norm.by_alpha, by_n2[i] = norm.by_n2;
      }
      const auto loaded = [&](auto v, const Channels<A>& ch, int64_t at, int64_t i, V<A>& centred, V<A>& k) {
        centred = (v.load(x + at + i) - ch.pivot) - ch.mean;
        k = Form::k(v.load(t + i), all<A>(ch.alpha));
        return passed<A>(v.load(dy + at + i), ch.gr * k * centred + ch.beta, floor);
      };
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const A scale = ch.gr * ch.alpha;
        sweep<A>(b.size, [&](auto v, int64_t i) {
          V<A> centred, k;
          const V<A> g = loaded(v, ch, c * L, i, centred, k);
          v.store(total + i, v.load(total + i) + v.keep(scale * Form::p(k) * g * centred));
        });
      }
      A* eb = e + b.pixel;
      for (int64_t i = 0; i < b.size; ++i) eb[i] = by_n2[i] * total[i];
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        V<A> z[SUMS] = {};
        sweep<A>(b.size, [&](auto v, int64_t i) {
          V<A> centred, k;
          const V<A> g = loaded(v, ch, c * L, i, centred, k);
          const V<A> kg = k * g, ex = v.load(eb + i) * centred;
          z[0] += v.keep(kg * centred);
          z[1] += v.keep(v.load(by_alpha + i) * Form::p(k) * (g * centred));
          z[2] += v.keep(g);
          z[3] += v.keep(ch.gr * kg);
          z[4] += v.keep(ex * centred);
          z[5] += v.keep(ex);
        });
        for (int j = 0; j < SUMS; ++j) sums[j * C + c] += sum<A>(z[j]);
      }
    }
  }

  template <class Form>
  void gradient(int64_t from, int64_t to, const Work<A> w) const {
    const Saved<A> s = saved;  // local, so that no store is taken to change it
    const A floor = floor_of<A>(p);
    for (int64_t block = from; block < to; ++block) {
      const Place b = place(block);
      const T *x = static_cast<const T*>(p.x) + b.at, *dy = static_cast<const T*>(p.dy) + b.at;
      T* dx = static_cast<T*>(p.out) + b.at;
      A t[BLOCK];
      for (int64_t i = 0; i < b.size; ++i) t[i] = Form::t(s.nu[b.pixel + i]);
      for (int64_t c = 0; c < C; ++c) {
        const Channels<A> ch(s, c);
        const A b0 = w.b0[c], b1 = w.b1[c], shift = w.shift[c];
        const V<A> alpha = all<A>(ch.alpha);
        sweep<A>(b.size, [&](auto v, int64_t i) {
          const V<A> centred = (v.load(x + c * L + i) - ch.pivot) - ch.mean;
          const V<A> a = ch.gr * Form::k(v.load(t + i), alpha);
          const V<A> g = passed<A>(v.load(dy + c * L + i), a * centred + ch.beta, floor);
          const V<A> be = b0 + b1 * v.load(w.e + b.pixel + i);
          v.store(dx + c * L + i, a * g + (be * centred + shift));
        });
      }
    }
  }
};

}  // namespace SIMD
