// Forward and backward of the layer, from the primitives. Included once per instruction set.

#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include "norm.h"
#include "norm_simd.h"
#include "norm_coefficients.h"
#include "norm_rows.h"
#include "norm_pixels.h"
#include "norm_by_pixel.h"

namespace SIMD {

// x̂ of scopes "sample" and "batch": one map a row.
template <class T, class A>
struct ByRow {
  const Problem& p;
  const int64_t N = p.samples, C = p.channels, L = p.positions;
  Saved<A> s{p.saved, N, C};
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
  T* out = static_cast<T*>(p.out);
  const bool rows = p.layout == ROWS;
  const A floor = floor_of<A>(p);

  // Work goes by row in layout "rows". In layout "pixels" it goes by segment of a sample, so that a small batch of
  // large images keeps every thread at work; the cut depends on the shape alone.
  const int64_t segments = segments_of(N, L);
  static int64_t segments_of(int64_t N, int64_t L) {
    const int64_t wanted = (32 + N - 1) / N, most = L / 64;
    return most < 1 ? 1 : wanted < most ? wanted : most;
  }
  int64_t cut(int64_t segment) const { return L * segment / segments; }
  int64_t row_grain() const { return 1 + 16384 / L; }
  // Calls f(row, n, c) for rows begin to end of N·C; backwards with `step` -1.
  template <class F>
  void over_rows(int64_t begin, int64_t end, int step, F f) const {
    int64_t i = step > 0 ? begin : end - 1, n = i / C, c = i % C;
    for (int64_t left = end - begin; left > 0; --left, i += step) {
      f(i, n, c);
      c += step;
      if (c == C) c = 0, ++n;
      if (c < 0) c = C - 1, --n;
    }
  }
  int64_t pixel_grain() const { return 1 + 16384 * segments / (L * C); }

  void pivots() const {
    for (int64_t c = 0; c < C; ++c) {
      alignas(64) A first[W<A>];
      store(first, Tail<A>(1, 0).load(x + (rows ? c * L : c)));
      s.pivot[c] = first[0];
    }
  }

  void moments() const {
    if (rows)
      return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
        over_rows(begin, end, 1, [&](int64_t i, int64_t, int64_t c) {
          row_moments(x + i * L, L, s.pivot[c], s.d + i, s.q + i);
        });
      });
    if (segments == 1)
      return in_parallel(p, N, pixel_grain(), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) pixel_moments(x + n * L * C, L, C, s.pivot, s.d + n * C, s.q + n * C);
      });
    const int64_t S = segments;
    Scratch<A> parts(2 * N * S * C);
    A *m = parts.get(), *M2 = m + N * S * C;
    in_parallel(p, N * S, pixel_grain(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / S, from = cut(i % S), to = cut(i % S + 1);
        pixel_moments(x + (n * L + from) * C, to - from, C, s.pivot, m + i * C, M2 + i * C);
      }
    });
    for (int64_t n = 0; n < N; ++n) {  // Chan's merge of the segments of a sample
      A *d = s.d + n * C, *q = s.q + n * C;
      for (int64_t j = 0; j < S; ++j) {
        const A *mj = m + (n * S + j) * C, *Mj = M2 + (n * S + j) * C;
        const A size = A(cut(j + 1) - cut(j)), share = size / A(cut(j + 1)), cross = A(cut(j)) * share;
        for (int64_t c = 0; c < C; ++c) {
          const A delta = j ? mj[c] - d[c] : A(0);
          d[c] = j ? d[c] + delta * share : mj[c];
          q[c] = (j ? q[c] : A(0)) + Mj[c] + delta * delta * cross;
        }
      }
    }
  }

  // The second look at x goes backwards: what the first saw last is still in cache.
  void affine_rows(int64_t begin, int64_t end) const {
    over_rows(begin, end, -1, [&](int64_t i, int64_t, int64_t c) {
      row_affine(x + i * L, out + i * L, L, s.pivot[c], s.mean[c], s.a[i], s.beta[c], floor);
    });
  }
  void affine_pixels(int64_t n, int64_t from, int64_t to) const {
    const int64_t at = (n * L + from) * C;
    pixel_affine(x + at, out + at, to - from, C, s.pivot, s.mean, s.a + n * C, s.beta, floor);
  }

  void affine() const {
    if (rows) return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) { affine_rows(begin, end); });
    in_parallel(p, N * segments, pixel_grain(), [&](int64_t begin, int64_t end) {
      for (int64_t i = end; i-- > begin;) affine_pixels(i / segments, cut(i % segments), cut(i % segments + 1));
    });
  }

  // Σ_c r² Σ_l x̂² of one sample.
  A squares(int64_t n) const {
    if (!rows) return pixel_squares(x + n * L * C, L, C, s.pivot, s.mean, s.r);
    double total = 0;
    for (int64_t c = 0; c < C; ++c)
      total += s.r[c] * s.r[c] * row_squares(x + (n * C + c) * L, L, s.pivot[c], s.mean[c]);
    return A(total);
  }

  // Statistics are stored: a sample's norm and its output need that sample only, which is still in cache for the
  // second look. A batch too small to share out by samples goes by rows, twice.
  void evaluate() const {
    const A per_element = A(p.per_kappa / double(L)), shared = p.scope == BATCH ? shared_n2(p, s) : A(0);
    const auto finish = [&](int64_t n, A n2) { sample_coefficients(p, n2, s.nu + n, s.a + n * C, s); };
    if (p.scope == BATCH || N < p.threads) {
      in_parallel(p, p.scope == BATCH ? 0 : N, 1, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) finish(n, per_element * squares(n));
      });
      if (p.scope == BATCH)
        for (int64_t n = 0; n < N; ++n) finish(n, shared);
      return affine();
    }
    in_parallel(p, N, 1 + 16384 / (L * C), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        finish(n, per_element * squares(n));
        if (rows)
          affine_rows(n * C, (n + 1) * C);
        else
          affine_pixels(n, 0, L);
      }
    });
  }

  void forward() const {
    if (!p.training) {
      channel_coefficients(p, s);
      return evaluate();
    }
    if (p.phases & STATISTICS) {
      pivots();
      moments();
      merge_groups(p, N, s.d, s.q, [&](int64_t) { return L; }, s);
    }
    if (p.phases & REST) {
      channel_coefficients(p, s);
      forward_coefficients(p, s);
      affine();
    }
  }

  void dots(const Work<A>& w) const {
    if (rows)
      return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
        over_rows(begin, end, 1, [&](int64_t i, int64_t, int64_t c) {
          row_dots(dy + i * L, x + i * L, L, s.pivot[c], s.mean[c], s.a[i], s.beta[c], floor, w.row_s0 + i,
                   w.row_s1 + i);
        });
      });
    const int64_t S = segments;
    Scratch<A> parts(S > 1 ? 2 * N * S * C : 0);
    A *s0 = S > 1 ? parts.get() : w.row_s0, *s1 = S > 1 ? s0 + N * S * C : w.row_s1;
    in_parallel(p, N * S, pixel_grain(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / S, from = cut(i % S), to = cut(i % S + 1), at = (n * L + from) * C;
        for (int64_t c = 0; c < C; ++c) s0[i * C + c] = s1[i * C + c] = 0;
        pixel_dots(dy + at, x + at, to - from, C, s.pivot, s.mean, s.a + n * C, s.beta, floor, s0 + i * C, s1 + i * C);
      }
    });
    if (S == 1) return;
    for (int64_t i = 0; i < N * C; ++i) {
      A t0 = 0, t1 = 0;
      for (int64_t j = 0; j < S; ++j) {
        const int64_t at = (i / C * S + j) * C + i % C;
        t0 += s0[at], t1 += s1[at];
      }
      w.row_s0[i] = t0, w.row_s1[i] = t1;
    }
  }

  void gradient(const Work<A>& w) const {
    if (rows)
      return in_parallel(p, N * C, row_grain(), [&](int64_t begin, int64_t end) {
        over_rows(begin, end, -1, [&](int64_t i, int64_t n, int64_t c) {
          const A b = w.b0[c] + w.b1[c] * w.e[n];
          row_affine2(dy + i * L, x + i * L, out + i * L, L, s.pivot[c], s.mean[c], s.a[i], s.beta[c], floor, b,
                      w.shift[c]);
        });
      });
    in_parallel(p, N * segments, pixel_grain(), [&](int64_t begin, int64_t end) {
      Scratch<A> b(C);
      for (int64_t i = end; i-- > begin;) {
        const int64_t n = i / segments, from = cut(i % segments), to = cut(i % segments + 1), at = (n * L + from) * C;
        for (int64_t c = 0; c < C; ++c) b.get()[c] = w.b0[c] + w.b1[c] * w.e[n];
        pixel_affine2(dy + at, x + at, out + at, to - from, C, s.pivot, s.mean, s.a + n * C, s.beta, floor, b.get(),
                            w.shift);
      }
    });
  }

  void backward() const {
    const Work<A> w(p.work, N, C);
    if (p.phases & STATISTICS) {
      dots(w);
      backward_sums(p, s, w);
      parameter_gradients(p, s, w);
    }
    if ((p.phases & REST) && out) {
      backward_coefficients(p, L, s, w);
      gradient(w);
    }
  }
};

// The same where every pixel has a map of its own.
template <class T, class A, template <class, class> class Layout>
struct ByPixel {
  const Problem& p;
  const int64_t N = p.samples, C = p.channels, L = p.positions;
  Saved<A> s{p.saved, N * L, C};
  const Layout<T, A> k{p, s};

  int64_t grain() const { return 1 + 16384 * k.parts() / (N * L * C); }

  template <class F>
  void over_parts(F f) const {
    in_parallel(p, k.parts(), grain(), [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) f(part, k.begin(part), k.begin(part + 1));
    });
  }
  template <class F>
  void over_parts_backwards(F f) const {
    in_parallel(p, k.parts(), grain(), [&](int64_t begin, int64_t end) {
      for (int64_t part = end; part-- > begin;) f(k.begin(part), k.begin(part + 1));
    });
  }

  void statistics() const {
    ByRow<T, A> rows{p};
    rows.pivots();
    const bool by_row = p.layout == ROWS;
    const int64_t G = by_row ? N * C : k.parts() * C;
    Scratch<A> memory(2 * G);
    A *m = memory.get(), *M2 = m + G;
    if (by_row) {
      in_parallel(p, N * C, rows.row_grain(), [&](int64_t begin, int64_t end) {
        rows.over_rows(begin, end, 1, [&](int64_t i, int64_t, int64_t c) {
          row_moments(rows.x + i * L, L, s.pivot[c], m + i, M2 + i);
        });
      });
      return merge_groups(p, N, m, M2, [&](int64_t) { return L; }, s);
    }
    over_parts([&](int64_t part, int64_t from, int64_t to) {
      pixel_moments(rows.x + from * C, to - from, C, s.pivot, m + part * C, M2 + part * C);
    });
    merge_groups(p, k.parts(), m, M2, [&](int64_t part) { return k.begin(part + 1) - k.begin(part); }, s);
  }

  void forward() const {
    if (p.training && (p.phases & STATISTICS)) statistics();
    if (!(p.phases & REST)) return;
    channel_coefficients(p, s);
    with_form(p, [&](auto form) {
      over_parts_backwards([&](int64_t from, int64_t to) { k.forward(form, from, to); });
    });
  }

  void backward() const {
    const Work<A> w(p.work, N * L, C);
    if (p.phases & STATISTICS) {
      const int64_t parts = k.parts(), size = SUMS * C;
      Scratch<A> memory(parts * size);
      with_form(p, [&](auto form) {
        over_parts([&](int64_t part, int64_t from, int64_t to) {
          A* sums = memory.get() + part * size;
          for (int64_t i = 0; i < size; ++i) sums[i] = 0;
          if (p.relu)
            k.template dots<true>(form, from, to, w.e, sums);
          else
            k.template dots<false>(form, from, to, w.e, sums);
        });
      });
      A* sums = w.ks1;  // the six lie one after another
      for (int64_t i = 0; i < size; ++i) sums[i] = memory.get()[i];
      for (int64_t part = 1; part < parts; ++part) {
        const A* more = memory.get() + part * size;
        for (int64_t i = 0; i < size; ++i) sums[i] += more[i];
      }
      parameter_gradients(p, s, w);
    }
    if (!(p.phases & REST) || !p.out) return;
    backward_coefficients(p, 1, s, w);
    with_form(p, [&](auto form) {
      over_parts_backwards([&](int64_t from, int64_t to) { k.gradient(form, from, to, w); });
    });
  }
};

template <class K>
void run(const K& kernel, bool forward) {
  forward ? kernel.forward() : kernel.backward();
}

template <class T, class A>
void run_as(const Problem& p, bool forward) {
  const bool dense = p.scope == SAMPLE && p.positions == 1;
  if (p.scope != POSITION && !dense)
    run(ByRow<T, A>{p}, forward);
  else if (p.layout == PIXELS)
    run(ByPixel<T, A, PixelMajor>{p}, forward);
  else
    run(ByPixel<T, A, RowMajor>{p}, forward);
}

void run(const Problem& p, bool forward) {
  if (p.dtype == FLOAT32) return run_as<float, float>(p, forward);
  if (p.dtype == FLOAT64) return run_as<double, double>(p, forward);
  if (p.dtype == BFLOAT16) return run_as<bfloat16, float>(p, forward);
  return run_as<half, float>(p, forward);
}

}  // namespace SIMD
