// Forward and backward of the layer, from the primitives. Included once per instruction set.

#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "norm.h"
#include "norm_simd.h"
#include "norm_sweep.h"
#include "norm_window.h"
#include "norm_forms.h"
#include "norm_coefficients.h"
#include "norm_rows.h"
#include "norm_pixels.h"
#include "norm_by_row.h"
#include "norm_by_pixel.h"

namespace SIMD {

// Forward and backward where every pixel has a map of its own, in one of the layouts of norm_by_pixel.h.
template <class T, class A, template <class, class> class Layout>
struct ByPixel {
  const Problem& p;
  const int64_t N = p.samples, C = p.channels, L = p.positions;
  Saved<A> s{p.saved, N * L, C};
  const Layout<T, A> k{p, s};

  int64_t grain() const { return 1 + 16384 * k.parts() / (N * L * C); }

  // Calls f(stream, part, from, to), the stream each thread's own.
  template <class F>
  void over_parts(bool backwards, F f) const {
    in_parallel(p, k.parts(), grain(), [&](int64_t begin, int64_t end) {
      const Stream<T> stream(p);
      for (int64_t i = 0; i < end - begin; ++i) {
        const int64_t part = backwards ? end - 1 - i : begin + i;
        f(stream, part, k.begin(part), k.begin(part + 1));
      }
    });
  }

  void statistics() const {
    const ByRow<T, A> rows(p);
    rows.pivots();
    const int64_t G = Layout<T, A>::ROWWISE ? N : k.parts();
    Scratch<A> memory(2 * G * C);
    A *m = memory.get(), *M2 = m + G * C;
    if constexpr (Layout<T, A>::ROWWISE) {
      ByRow<T, A>(p, rows.s.with_moments(m, M2)).moments_of_rows();
    } else {
      const int64_t R = repeats<A>(C, N * L / G);
      in_parallel(p, G, grain(), [&](int64_t begin, int64_t end) {
        Scratch<A> work(3 * R * C);
        for (int64_t part = begin; part < end; ++part) {
          const int64_t from = k.begin(part), pixels = k.begin(part + 1) - from;
          for_reading<T, A>(p, [&](auto lanes) {
            pixel_moments<decltype(lanes)>(rows.x + from * C, pixels, C, R, s.pivot, m + part * C, M2 + part * C,
                                           work.get());
          });
        }
      });
    }
    merge_groups(p, G, m, M2, s);
  }

  void forward() const {
    if (p.training && (p.phases & STATISTICS)) statistics();
    if (!(p.phases & REST)) return;
    channel_coefficients(p, s);
    with_map(p, [&](auto form, auto act) {
      over_parts(true, [&](const Stream<T>& stream, int64_t, int64_t from, int64_t to) {
        k.forward(form, act, stream, from, to);
      });
    });
  }

  void backward() const {
    const Scratch<A> own(p.work ? 0 : Work<A>::size(N * L, C, 0));
    const Work<A> w(p.work ? p.work : own.get(), N * L, C);
    if (p.phases & STATISTICS) {
      const int64_t parts = k.parts(), size = SUMS * C;
      Scratch<A> memory(parts * size);
      with_map(p, [&](auto form, auto act) {
        over_parts(false, [&](const Stream<T>&, int64_t part, int64_t from, int64_t to) {
          A* sums = memory.get() + part * size;
          for (int64_t i = 0; i < size; ++i) sums[i] = 0;
          k.dots(form, act, from, to, w.e, sums);
        });
      });
      A* sums = w.ks1;  // the six lie one after another
      for (int64_t i = 0; i < size; ++i) sums[i] = memory.get()[i];
      for (int64_t part = 1; part < parts; ++part) {
        const A* more = memory.get() + part * size;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) sums[i] += more[i];
      }
      parameter_gradients(p, s, w);
    }
    if (!(p.phases & REST) || !p.out) return;
    backward_coefficients(p, 1, s, w);
    with_map(p, [&](auto form, auto act) {
      over_parts(true, [&](const Stream<T>& stream, int64_t, int64_t from, int64_t to) {
        k.gradient(form, act, stream, from, to, w);
      });
    });
  }
};

template <class T, class A>
void run(const Problem& p, bool forward) {
  const auto pass = [&](const auto& kernel) { forward ? kernel.forward() : kernel.backward(); };
  if (p.scope == POSITION || (p.scope == SAMPLE && p.positions == 1))
    return p.layout == PIXELS ? pass(ByPixel<T, A, PixelMajor>{p}) : pass(ByPixel<T, A, RowMajor>{p});
  Problem q = p;
  // Where one norm is that of the whole batch, and no other process has a part of it, all pixels are those of one sample.
  if (p.scope == BATCH && p.layout == PIXELS && p.phases == (STATISTICS | REST))
    q.samples = 1, q.positions = p.samples * p.positions;
  pass(ByRow<T, A>(q));
}

void run(const Problem& p, bool forward) {
  if (p.dtype == FLOAT32) return run<float, float>(p, forward);
  if (p.dtype == FLOAT64) return run<double, double>(p, forward);
  if (p.dtype == BFLOAT16) return run<bfloat16, float>(p, forward);
  run<half, float>(p, forward);
}

}  // namespace SIMD
