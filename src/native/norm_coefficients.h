// The mathematics between the passes over the data, on N×C and C numbers: the native counterpart of
// icsbound/norm/coefficients.py, where the formulas are derived; same names.

namespace SIMD {

// What forward keeps for backward besides x: 6 C numbers, then by rows N + 3 N C, by pixels N L.
template <class A>
struct Saved {
  A *pivot, *mean, *r, *alpha, *gr, *beta;  // mean relative to the pivot; r is the biased variance at first
  A* nu;                                    // by sample, or by pixel
  A *d, *q, *a;                             // by row

  Saved(void* memory, int64_t N, int64_t C) {
    A* p = static_cast<A*>(memory);
    pivot = p, mean = p + C, r = p + 2 * C, alpha = p + 3 * C, gr = p + 4 * C;
    beta = p + 5 * C, nu = p + 6 * C;
    d = nu + N, q = d + N * C, a = q + N * C;
  }
  Saved with_moments(A* means, A* squares) const {  // by row, elsewhere
    Saved other = *this;
    other.d = means, other.q = squares;
    return other;
  }
};

// What one backward works with: 9 C numbers, e by sample or by pixel (their number is N here), then by rows 2 N C.
template <class A>
struct Work {
  A *ks1, *dots_alpha, *s0, *as0, *eq, *ed;  // sums over the batch, by channel
  A *b0, *b1, *shift;                        // dx = a dy + (b0 + b1 e) (x̃ - μ) + shift
  A *e, *row_s0, *row_s1;

  Work(void* memory, int64_t N, int64_t C) {
    A* p = static_cast<A*>(memory);
    ks1 = p, dots_alpha = p + C, s0 = p + 2 * C, as0 = p + 3 * C, eq = p + 4 * C, ed = p + 5 * C;
    b0 = p + 6 * C, b1 = p + 7 * C, shift = p + 8 * C, e = p + 9 * C;
    row_s0 = e + N, row_s1 = row_s0 + N * C;
  }
  static int64_t size(int64_t N, int64_t C, int64_t rows) { return 9 * C + N + 2 * rows; }
};

constexpr int SUMS = 6;

constexpr int64_t STRIP = 64;  // channels that a column of sums is taken over at a time

// Mean and biased variance of every channel from G groups with means m and squared deviations M2 (G×C each), into which
// its N·L values are cut evenly: the groups' own spread and that of their means (Chan's merge). Written to saved.mean and
// saved.r.
template <class A>
void merge_groups(const Problem& p, int64_t G, const A* m, const A* M2, const Saved<A>& s) {
  const int64_t values = p.samples * p.positions;
  const auto size = [=](int64_t g) { return values * (g + 1) / G - values * g / G; };
  const int64_t C = p.channels, strips = (C + STRIP - 1) / STRIP;
  in_parallel(p, strips, 1 + 16384 / (STRIP * (G + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t c0 = strip * STRIP, n = C - c0 < STRIP ? C - c0 : STRIP;
      double mean[STRIP] = {}, squares[STRIP] = {}, count = 0;
      for (int64_t g = 0; g < G; ++g) {
        const double w = double(size(g));
        count += w;
        const A* mg = m + g * C + c0;
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) mean[c] += w * mg[c];
      }
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) mean[c] /= count;
      for (int64_t g = 0; g < G; ++g) {
        const double w = double(size(g));
        const A *mg = m + g * C + c0, *Mg = M2 + g * C + c0;
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
          const double d = mg[c] - mean[c];
          squares[c] += Mg[c] + w * d * d;
        }
      }
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        s.mean[c0 + c] = A(mean[c]);
        s.r[c0 + c] = A(squares[c] / count);
      }
    }
  });
}

// Statistics to coefficients of the channels: α into its range, γ r, the running statistics. `s.r` turns from the
// biased variance (in evaluation from the stored one) into r.
template <class A>
void channel_coefficients(const Problem& p, const Saved<A>& saved) {
  const Saved<A> s = saved;
  const A *weight = static_cast<const A*>(p.weight), *alpha = static_cast<const A*>(p.alpha);
  const A* bias = static_cast<const A*>(p.bias);
  A *mean = static_cast<A*>(p.mean), *var = static_cast<A*>(p.var);
  const A low = A(p.alpha_low), high = A(p.alpha_high), B = A(p.variance_factor), eps = A(p.eps);
  const int64_t C = p.channels;
  if (p.training) {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) s.r[c] *= B;
    if (mean) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) mean[c] = s.pivot[c] + s.mean[c], var[c] = s.r[c];
    }
    if (p.running_mean) {
      A *running_mean = static_cast<A*>(p.running_mean), *running_var = static_cast<A*>(p.running_var);
      const A momentum = A(p.momentum), bessel = A(p.bessel);
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        running_mean[c] += momentum * (s.pivot[c] + s.mean[c] - running_mean[c]);
        running_var[c] += momentum * (s.r[c] * bessel - running_var[c]);
      }
    }
  } else {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) s.pivot[c] = mean[c], s.mean[c] = 0, s.r[c] = var[c];
  }
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    s.r[c] = 1 / std::sqrt(s.r[c] + eps);
    s.alpha[c] = alpha[c] < low ? low : alpha[c] > high ? high : alpha[c];
  }
  for (int64_t c = 0; c < C; ++c) s.gr[c] = s.r[c], s.beta[c] = bias ? bias[c] : A(0);
  if (!weight) return;
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) s.gr[c] *= weight[c];
}

// In scope "batch" every sample has the same n², per_kappa Σ_c r² v with v the biased batch variance, or the stored.
template <class A>
A shared_n2(const Problem& p, const Saved<A>& s) {
  const A* var = static_cast<const A*>(p.var);
  const double B = p.training ? p.variance_factor : 1.0;
  double total = 0;
  for (int64_t c = 0; c < p.channels; ++c) total += double(var[c]) / B * s.r[c] * s.r[c];
  return A(p.per_kappa * total);
}

// ν of one sample and a = γ r k of its rows.
template <class A>
void sample_coefficients(const Problem& p, A n2, A* nu, A* a, const Saved<A>& s) {
  *nu = relative_norm(n2, p);
  with_form(p, [&](auto form) {
    const A t = form.t(*nu);
#pragma omp simd
    for (int64_t c = 0; c < p.channels; ++c) a[c] = s.gr[c] * form.k(t, s.alpha[c]);
  });
}

// Row moments (mean in s.d, squared deviation in s.q) to d, q, ν and a, sample by sample.
template <class A>
void forward_coefficients(const Problem& p, const Saved<A>& s) {
  const int64_t C = p.channels;
  const A shared = p.scope == BATCH ? shared_n2(p, s) : A(0), per_position = A(1) / A(p.positions);
  in_parallel(p, p.samples, 1 + 8192 / C, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      A *d = s.d + n * C, *q = s.q + n * C, total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t c = 0; c < C; ++c) {
        d[c] -= s.mean[c];
        q[c] = q[c] * per_position + d[c] * d[c];
        total += q[c] * (s.r[c] * s.r[c]);
      }
      sample_coefficients(p, p.scope == BATCH ? shared : A(p.per_kappa) * total, s.nu + n, s.a + n * C, s);
    }
  });
}

// Moves the pivots to the means, of which what rounding leaves is kept: x - K is x̂ but for that, and exact about there.
template <class A>
void centre_pivots(const Problem& p, const Saved<A>& s) {
#pragma omp simd
  for (int64_t c = 0; c < p.channels; ++c) {
    const A before = s.pivot[c];
    s.pivot[c] = before + s.mean[c];
    s.mean[c] = (before - s.pivot[c]) + s.mean[c];
  }
}

// Row dots (w.row_s0, w.row_s1) to e and the sums over the batch.
template <class A>
void backward_sums(const Problem& p, const Saved<A>& s, const Work<A>& w) {
  const int64_t N = p.samples, C = p.channels;
  in_parallel(p, N, 1 + 8192 / C, [&](int64_t begin, int64_t end) {
    with_form(p, [&](auto form) {
      for (int64_t n = begin; n < end; ++n) {
        const A* s1 = w.row_s1 + n * C;
        const Norm<A> norm = norm_of(form, s.nu[n], p);
        A total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < C; ++c) {
          const A k = form.k(norm.t, s.alpha[c]);
          total += s.gr[c] * s.alpha[c] * form.p_times(k, s1[c], k * s1[c]);
        }
        w.e[n] = norm.by_n2 * total;
      }
    });
  });
  if (p.scope == BATCH) {
    double total = 0;
    for (int64_t n = 0; n < N; ++n) total += w.e[n];
    for (int64_t n = 0; n < N; ++n) w.e[n] = p.training ? A(total / double(N)) : A(0);
  }
  const int64_t strips = (C + STRIP - 1) / STRIP;
  in_parallel(p, strips, 1 + 8192 / (STRIP * N), [&](int64_t begin, int64_t end) {
    with_form(p, [&](auto form) {
      for (int64_t strip = begin; strip < end; ++strip) {
        const int64_t c0 = strip * STRIP, width = C - c0 < STRIP ? C - c0 : STRIP;
        double sums[SUMS][STRIP] = {};
        for (int64_t n = 0; n < N; ++n) {
          const A *s0 = w.row_s0 + n * C + c0, *s1 = w.row_s1 + n * C + c0, *alpha = s.alpha + c0;
          const A *a = s.a + n * C + c0, *d = s.d + n * C + c0, *q = s.q + n * C + c0;
          const Norm<A> norm = norm_of(form, s.nu[n], p);
          const A e = w.e[n];
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            const A k = form.k(norm.t, alpha[c]);
            sums[0][c] += k * s1[c];
            sums[1][c] += norm.by_alpha * form.p_times(k, s1[c], k * s1[c]);
            sums[2][c] += s0[c];
          }
          if (!p.training) continue;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            sums[3][c] += a[c] * s0[c];
            sums[4][c] += e * q[c];
            sums[5][c] += e * d[c];
          }
        }
        A* to[SUMS] = {w.ks1, w.dots_alpha, w.s0, w.as0, w.eq, w.ed};
        for (int i = 0; i < SUMS; ++i)
          for (int64_t c = 0; c < width; ++c) to[i][c0 + c] = A(sums[i][c]);
      }
    });
  });
}

// The gradients of the parameters, from this process's own sums.
template <class A>
void parameter_gradients(const Problem& p, const Saved<A>& s, const Work<A>& w) {
  A *weight = static_cast<A*>(p.grad_weight), *bias = static_cast<A*>(p.grad_bias);
  A* alpha = static_cast<A*>(p.grad_alpha);
  const A low = A(p.alpha_low), high = A(p.alpha_high);
#pragma omp simd
  for (int64_t c = 0; c < p.channels; ++c) {
    weight[c] = s.r[c] * w.ks1[c];
    bias[c] = w.s0[c];
    const A g = s.gr[c] * w.dots_alpha[c];  // less what points out of α's range
    alpha[c] = (s.alpha[c] <= low && g > 0) || (s.alpha[c] >= high && g < 0) ? A(0) : g;
  }
}

// The sums to what a row of dx needs. `positions` is L by rows, 1 by pixels. The sum of d over the batch vanishes.
template <class A>
void backward_coefficients(const Problem& p, int64_t positions, const Saved<A>& s, const Work<A>& w) {
  const A* weight = static_cast<const A*>(p.weight);
  const A pk = A(p.per_kappa), L = A(positions), groups = A(p.count / double(positions));
  const A by_dvar = 2 / L * A(p.variance_factor) / groups, count = A(p.count);
#pragma omp simd
  for (int64_t c = 0; c < p.channels; ++c) {
    const A r = s.r[c];
    w.b1[c] = 2 / L * pk * r * r;
    w.b0[c] = w.shift[c] = 0;
  }
  if (!p.training) return;
#pragma omp simd
  for (int64_t c = 0; c < p.channels; ++c) {
    const A r = s.r[c], dr = (weight ? weight[c] : A(1)) * w.ks1[c] + 2 * pk * r * w.eq[c];
    w.b0[c] = by_dvar * (A(-0.5) * r * r * r * dr);
    w.shift[c] = (-w.as0[c] - 2 * pk * r * r * w.ed[c]) / count;
  }
}

}  // namespace SIMD
