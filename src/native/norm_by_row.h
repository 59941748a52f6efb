// Forward and backward in scopes "sample" and "batch", from the primitives: one map a row.

namespace SIMD {

template <class T, class A>
struct ByRow {
  const Problem& p;
  const int64_t N = p.samples, C = p.channels, L = p.positions;
  const Saved<A> s;
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
  T* out = static_cast<T*>(p.out);
  const bool rows = p.layout == ROWS;

  explicit ByRow(const Problem& problem) : ByRow(problem, {problem.saved, problem.samples, problem.channels}) {}
  ByRow(const Problem& problem, const Saved<A>& saved) : p(problem), s(saved) {}

  // Work goes by row in layout "rows". In layout "pixels" it goes by segment of a sample, so that a small batch of
  // large images keeps every thread at work, and sums stay short; the cut depends on the shape alone.
  const int64_t segments = segments_of(N, L);
  static int64_t segments_of(int64_t N, int64_t L) {
    const int64_t few = (32 + N - 1) / N, wanted = few > L / 2048 ? few : L / 2048, most = L / 64;
    return most < 1 ? 1 : wanted < most ? wanted : most;
  }
  const int64_t R = rows ? 1 : repeats<A>(C, L / segments);  // see norm_pixels.h

  int64_t cut(int64_t segment) const { return L * segment / segments; }
  int64_t row_grain() const { return 1 + 16384 / L; }
  int64_t pixel_grain() const { return 1 + 16384 * segments / (L * C); }

  // Calls f(row, n, c) for rows begin to end of N·C, sample n and channel c; backwards with `step` -1.
  template <class F>
  INLINE void over_rows(int64_t begin, int64_t end, int step, F f) const {
    const int64_t C = this->C;
    int64_t i = step > 0 ? begin : end - 1, n = i / C, c = i % C;
    for (int64_t left = end - begin; left > 0; --left, i += step) {
      f(i, n, c);
      c += step;
      if (c == C) c = 0, ++n;
      if (c < 0) c = C - 1, --n;
    }
  }
  // Calls f(row, c, k) for W rows at a time, k counting them, and then `then(row, W or fewer)`.
  template <class F, class G>
  INLINE void by_vectors(int64_t begin, int64_t end, F f, G then) const {
    for (int64_t first = begin; first < end; first += W<A>) {
      const int64_t last = end - first < W<A> ? end : first + W<A>;
      over_rows(first, last, 1, [&](int64_t i, int64_t, int64_t c) { f(i, c, i - first); });
      then(first, last - first);
    }
  }
  // Calls f(piece, n, from, to) for segments begin to end of N·segments; backwards if asked.
  template <class F>
  INLINE void over_segments(int64_t begin, int64_t end, bool backwards, F f) const {
    for (int64_t k = 0; k < end - begin; ++k) {
      const int64_t i = backwards ? end - 1 - k : begin + k;
      f(i, i / segments, cut(i % segments), cut(i % segments + 1));
    }
  }

  void pivots() const {
    for (int64_t c = 0; c < C; ++c) s.pivot[c] = one(x[rows ? c * L : c]);
  }

  void moments_of_rows() const {
    in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
      if (L > SHORT)
        return over_rows(begin, end, 1, [&](int64_t i, int64_t, int64_t c) {
          for (int64_t from = 0; from < L; from += PIECE)
            piece_moments(x + i * L + from, L - from < PIECE ? L - from : PIECE, from, s.pivot[c], s.d + i, s.q + i);
        });
      alignas(64) A pivot[W<A>] = {};
      by_vectors(
          begin, end, [&](int64_t, int64_t c, int64_t k) { pivot[k] = s.pivot[c]; },
          [&](int64_t i, int64_t count) { rows_moments(x + i * L, count, L, pivot, s.d + i, s.q + i); });
    });
  }

  void moments() const {
    if (rows) return moments_of_rows();
    const int64_t S = segments;
    Scratch<A> parts(S > 1 ? 2 * N * S * C : 0);
    A *m = S > 1 ? parts.get() : s.d, *M2 = S > 1 ? m + N * S * C : s.q;
    in_parallel(p, N * S, pixel_grain(), [&](int64_t begin, int64_t end) {
      Scratch<A> work(3 * R * C);
      over_segments(begin, end, false, [&](int64_t i, int64_t n, int64_t from, int64_t to) {
        for_reading<T, A>(p, [&](auto lanes) {
          pixel_moments<decltype(lanes)>(x + (n * L + from) * C, to - from, C, R, s.pivot, m + i * C, M2 + i * C,
                                         work.get());
        });
      });
    });
    for (int64_t n = 0; n < (S > 1 ? N : 0); ++n) {  // Chan's merge of the segments of a sample
      A *d = s.d + n * C, *q = s.q + n * C;
      for (int64_t j = 0; j < S; ++j) {
        const A *mj = m + (n * S + j) * C, *Mj = M2 + (n * S + j) * C;
        const A size = A(cut(j + 1) - cut(j)), share = size / A(cut(j + 1)), cross = A(cut(j)) * share;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
          const A delta = j ? mj[c] - d[c] : A(0);
          d[c] = j ? d[c] + delta * share : mj[c];
          q[c] = (j ? q[c] : A(0)) + Mj[c] + delta * delta * cross;
        }
      }
    }
  }

  // y = a (x - K) + b with b = β - a μ; dx = a dy + slope (x - K) + shift. In layout "pixels" the coefficients of one
  // sample after another, by repeated channel.
  struct Map {
    const ByRow& of;
    const int64_t C = of.C, R = of.R;
    Scratch<A> memory{5 * R * C};
    A *pivot = memory.get(), *a = pivot + R * C, *b = a + R * C, *slope = b + R * C, *shift = slope + R * C;
    int64_t sample = -1;

    explicit Map(const ByRow& r) : of(r) {
      for (int64_t c = 0; c < C; ++c) pivot[c] = of.s.pivot[c];
      repeat(pivot, C, R);
    }
    void of_sample(int64_t n) {
      if (n == sample) return;
      sample = n;
      const Saved<A> s = of.s;
      const A* an = s.a + n * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) a[c] = an[c], b[c] = s.beta[c] - an[c] * s.mean[c];
      repeat(a, C, R), repeat(b, C, R);
    }
    void of_sample(int64_t n, const Work<A> w) {
      if (n == sample) return;
      of_sample(n);
      const A *mean = of.s.mean, e = w.e[n];
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const A slope_c = w.b0[c] + w.b1[c] * e;
        slope[c] = slope_c, shift[c] = w.shift[c] - slope_c * mean[c];
      }
      repeat(slope, C, R), repeat(shift, C, R);
    }
  };

  // The second look at x goes backwards: what the first saw last is still in cache.
  template <class Act>
  void affine_rows(Act act, int64_t begin, int64_t end, const Stream<T>& stream) const {
    const T* const x = this->x;
    T* const out = this->out;
    const Saved<A> s = this->s;  // local, so that no store is taken to change it
    const Run<A> run(L);
    stream.template choose<A>(out + begin * L, L, [&](auto lanes) {
      over_rows(begin, end, -1, [&](int64_t i, int64_t, int64_t c) {
        const A a = s.a[i], b = s.beta[c] - a * s.mean[c];
        row_affine<decltype(lanes)>(x + i * run.length, out + i * run.length, run, s.pivot[c], a, b, act);
      });
    });
  }
  template <class Act>
  void affine_pixels(Act act, int64_t n, int64_t from, int64_t to, const Stream<T>& stream, Map& map) const {
    map.of_sample(n);
    over_runs(to - from, C, R, [&](int64_t first, int64_t count, int64_t channels) {
      const int64_t at = (n * L + from + first) * C;
      stream.template choose<A>(out + at, channels, [&](auto lanes) {
        pixel_affine<decltype(lanes)>(x + at, out + at, count, channels, map.pivot, map.a, map.b, act);
      });
    });
  }

  template <class Act>
  void affine(Act act) const {
    if (rows)
      return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
        affine_rows(act, begin, end, Stream<T>(p));
      });
    in_parallel(p, N * segments, pixel_grain(), [&](int64_t begin, int64_t end) {
      const Stream<T> stream(p);
      Map map(*this);
      over_segments(begin, end, true, [&](int64_t, int64_t n, int64_t from, int64_t to) {
        affine_pixels(act, n, from, to, stream, map);
      });
    });
  }

  // Σ_c r² Σ_l x̂² of one sample; `pivot` and `r` by repeated channel. `fetch`: what is about to be written is fetched
  // meanwhile.
  A squares(int64_t n, const A* pivot, const A* r, bool fetch) const {
    V<A> total{};
    const auto ask = [&](int64_t at, int64_t count) {
      for (int64_t i = 0; fetch && i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(out + at + i, 1, 2);
    };
    const Run<A> run(L);
    if (rows)
      over_rows(n * C, (n + 1) * C, 1, [&](int64_t i, int64_t, int64_t c) {
        ask(i * L, L);
        total += row_squares(x + i * L, run, pivot[c], r[c]);
      });
    else
      over_runs(L, C, R, [&](int64_t from, int64_t count, int64_t channels) {
        ask((n * L + from) * C, count * channels);
        for_reading<T, A>(p, [&](auto lanes) {
          total += pixel_squares<decltype(lanes)>(x + (n * L + from) * C, count, channels, pivot, r);
        });
      });
    return sum<A>(total);
  }

  // Statistics are stored: a sample's norm and its output need that sample only, which is still in cache for the
  // second look. A batch too small to share out by samples goes by rows, twice.
  template <class Act>
  void evaluate(Act act) const {
    const A per_element = A(p.per_kappa / double(L)), shared = p.scope == BATCH ? shared_n2(p, s) : A(0);
    const auto finish = [&](int64_t n, A n2) { sample_coefficients(p, n2, s.nu + n, s.a + n * C, s); };
    if (p.scope == BATCH) {
      for (int64_t n = 0; n < N; ++n) finish(n, shared);
      return affine(act);
    }
    const bool by_sample = N >= p.threads;
    const bool fetch = by_sample && bytes_of<T>(p) < LARGE && 2 * L * C * int64_t(sizeof(T)) <= NEAR;
    in_parallel(p, N, by_sample ? 1 + 16384 / (L * C) : 1, [&](int64_t begin, int64_t end) {
      const Stream<T> stream(p);
      Map map(*this);
      Scratch<A> r(R * C);
      for (int64_t c = 0; c < C; ++c) r.get()[c] = s.r[c];
      repeat(r.get(), C, R);
      for (int64_t n = begin; n < end; ++n) {
        finish(n, per_element * squares(n, map.pivot, r.get(), fetch));
        if (!by_sample) continue;
        rows ? affine_rows(act, n * C, (n + 1) * C, stream) : affine_pixels(act, n, 0, L, stream, map);
      }
    });
    if (!by_sample) affine(act);
  }

  void forward() const {
    if (!p.training) {
      channel_coefficients(p, s);
      return with_activation(p, [&](auto act) { evaluate(act); });
    }
    if (p.phases & STATISTICS) {
      pivots();
      moments();
      merge_groups(p, N, s.d, s.q, s);
    }
    if (p.phases & REST) {
      channel_coefficients(p, s);
      forward_coefficients(p, s);
      centre_pivots(p, s);
      with_activation(p, [&](auto act) { affine(act); });
    }
  }

  template <class Act>
  void dots_of_rows(Act act, const Work<A>& w) const {
    in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
      const T *const x = this->x, *const dy = this->dy;
      const Saved<A> s = this->s;
      const Run<A> run(L);
      V<A> t0[W<A>], t1[W<A>];
      alignas(64) A mean[W<A>];
      const auto one_row = [&](int64_t i, int64_t c, int64_t k) {
        const A a = s.a[i], b = s.beta[c] - a * (mean[k] = s.mean[c]);
        row_dots(dy + i * run.length, x + i * run.length, run, s.pivot[c], a, b, act, t0 + k, t1 + k);
      };
      if (L > SHORT)
        return over_rows(begin, end, 1, [&](int64_t i, int64_t, int64_t c) {
          one_row(i, c, 0);
          const A s0 = w.row_s0[i] = sum<A>(t0[0]);
          w.row_s1[i] = sum<A>(t1[0]) - mean[0] * s0;
        });
      by_vectors(begin, end, one_row, [&](int64_t i, int64_t count) {
        const auto put = [&](auto v) {
          const V<A> s0 = sums<A>(t0);
          v.store(w.row_s0 + i, s0);
          v.store(w.row_s1 + i, sums<A>(t1) - load(mean) * s0);
        };
        if (count == W<A>) return put(Whole<A>{});
        for (int64_t k = count; k < W<A>; ++k) t0[k] = t1[k] = V<A>{}, mean[k] = 0;
        put(Tail<A>(count));
      });
    });
  }

  template <class Act>
  void dots(Act act, const Work<A>& w) const {
    if (rows) return dots_of_rows(act, w);
    const int64_t S = segments;
    Scratch<A> parts(S > 1 ? 2 * N * S * C : 0);
    A *s0 = S > 1 ? parts.get() : w.row_s0, *s1 = S > 1 ? s0 + N * S * C : w.row_s1;
    in_parallel(p, N * S, pixel_grain(), [&](int64_t begin, int64_t end) {
      Map map(*this);
      Scratch<A> totals(2 * R * C);
      A *t0 = totals.get(), *t1 = t0 + R * C;
      over_segments(begin, end, false, [&](int64_t i, int64_t n, int64_t from, int64_t to) {
        map.of_sample(n);
        for (int64_t c = 0; c < 2 * R * C; ++c) t0[c] = 0;
        over_runs(to - from, C, R, [&](int64_t first, int64_t count, int64_t channels) {
          const int64_t at = (n * L + from + first) * C;
          for_reading<T, A>(p, [&](auto lanes) {
            pixel_dots<decltype(lanes)>(dy + at, x + at, count, channels, map.pivot, map.a, map.b, act, t0, t1);
          });
        });
        fold(t0, C, R), fold(t1, C, R);
        A *s0i = s0 + i * C, *s1i = s1 + i * C;
        const A* mean = s.mean;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) s0i[c] = t0[c], s1i[c] = t1[c] - mean[c] * t0[c];
      });
    });
    for (int64_t i = 0; i < (S > 1 ? N * C : 0); ++i) {
      A t0 = 0, t1 = 0;
      for (int64_t j = 0; j < S; ++j) {
        const int64_t at = (i / C * S + j) * C + i % C;
        t0 += s0[at], t1 += s1[at];
      }
      w.row_s0[i] = t0, w.row_s1[i] = t1;
    }
  }

  template <class Act>
  void gradient_rows(Act act, const Work<A> w, int64_t begin, int64_t end) const {
    const T *const x = this->x, *const dy = this->dy;
    T* const out = this->out;
    const Saved<A> s = this->s;
    const Run<A> run(L);
    const Stream<T> stream(p);
    stream.template choose<A>(out + begin * L, L, [&](auto lanes) {
      over_rows(begin, end, -1, [&](int64_t i, int64_t n, int64_t c) {
        const int64_t at = i * run.length;
        const A mu = s.mean[c], a = s.a[i], b = s.beta[c] - a * mu, slope = w.b0[c] + w.b1[c] * w.e[n];
        row_affine2<decltype(lanes)>(dy + at, x + at, out + at, run, s.pivot[c], a, b, act, slope,
                                     w.shift[c] - slope * mu);
      });
    });
  }

  template <class Act>
  void gradient(Act act, const Work<A>& w) const {
    if (rows)
      return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) { gradient_rows(act, w, begin, end); });
    in_parallel(p, N * segments, pixel_grain(), [&](int64_t begin, int64_t end) {
      const Stream<T> stream(p);
      Map map(*this);
      over_segments(begin, end, true, [&](int64_t, int64_t n, int64_t from, int64_t to) {
        map.of_sample(n, w);
        over_runs(to - from, C, R, [&](int64_t first, int64_t count, int64_t channels) {
          const int64_t at = (n * L + from + first) * C;
          stream.template choose<A>(out + at, channels, [&](auto lanes) {
            pixel_affine2<decltype(lanes)>(dy + at, x + at, out + at, count, channels, map.pivot, map.a, map.b, act,
                                           map.slope, map.shift);
          });
        });
      });
    });
  }

  void backward() const {
    const Scratch<A> own(p.work ? 0 : Work<A>::size(N, C, N * C));
    const Work<A> w(p.work ? p.work : own.get(), N, C);
    if (p.phases & STATISTICS) {
      with_activation(p, [&](auto act) { dots(act, w); });
      backward_sums(p, s, w);
      parameter_gradients(p, s, w);
    }
    if ((p.phases & REST) && out) {
      backward_coefficients(p, L, s, w);
      with_activation(p, [&](auto act) { gradient(act, w); });
    }
  }
};

}  // namespace SIMD
