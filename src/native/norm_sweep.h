// Sweeps over a run of elements: how its vectors are loaded and stored, and what an activation makes of them.

namespace SIMD {

// Copies fewer than MOST elements, a power of two.
template <int64_t MOST, class T>
INLINE void copy_few(T* to, const T* from, int64_t count) {
#pragma GCC unroll 3
  for (int64_t some = MOST / 2, at = 0; some > 0; some /= 2)
    if (count & some) __builtin_memcpy(to + at, from + at, some * sizeof(T)), at += some;
}

// How a vector of a sweep is loaded and stored: all of it, or the few elements at the end of a run (Tail), with zeros in
// the other lanes. `keep` puts zeros there again.
template <class A>
struct Whole {
  template <class T>
  INLINE V<A> load(const T* p) const {
    return SIMD::load(p);
  }
  template <class T>
  INLINE void store(T* p, V<A> v) const {
    SIMD::store(p, v);
  }
  template <class T>
  INLINE void soon_read(const T*) const {}
  template <class T>
  INLINE void soon_stored(T*) const {}
  INLINE V<A> keep(V<A> v) const { return v; }
};

// Whole vectors of a tensor too large for the caches near the core: what comes next is asked for.
template <class A>
struct Far : Whole<A> {
  template <class T>
  INLINE void soon_read(const T* p) const {
    __builtin_prefetch(p, 0, 3);
  }
  template <class T>
  INLINE void soon_stored(T* p) const {
    __builtin_prefetch(p, 1, 3);
  }
};
template <class T>
constexpr int64_t AHEAD = 512 / sizeof(T);  // elements, within a row

// The same stored past the caches; `p` must be aligned. `fence` follows before another thread reads.
#if SIMD_BYTES == 16
template <class A>
using Streamed = Far<A>;
INLINE void fence() {}
#else
template <class A>
struct Streamed : Far<A> {
  template <class T>
  INLINE void soon_stored(T*) const {}
  template <class T>
  INLINE void store(T* p, V<A> v) const {
    alignas(SIMD_BYTES) T to[W<A>];
    SIMD::store(to, v);
    if constexpr (sizeof to == 64)
      _mm512_stream_si512((__m512i*)p, *(const __m512i*)to);
    else if constexpr (sizeof to == 32)
      _mm256_stream_si256((__m256i*)p, *(const __m256i*)to);
    else
      _mm_stream_si128((__m128i*)p, *(const __m128i*)to);
  }
};
INLINE void fence() { _mm_sfence(); }
#endif

template <class A>
struct Tail {
  int64_t count;
#if SIMD_BYTES == 64
  typename std::conditional<sizeof(A) == 4, __mmask16, __mmask8>::type lanes;
  INLINE explicit Tail(int64_t n) : count(n), lanes(decltype(lanes)((1u << n) - 1)) {}
  INLINE V32 keep(V32 v) const { return (V32)_mm512_maskz_mov_ps(lanes, (__m512)v); }
  INLINE V<double> keep(V<double> v) const { return (V<double>)_mm512_maskz_mov_pd(lanes, (__m512d)v); }
  INLINE V32 load(const float* p) const { return (V32)_mm512_maskz_loadu_ps(lanes, p); }
  INLINE void store(float* p, V32 v) const { _mm512_mask_storeu_ps(p, lanes, (__m512)v); }
  INLINE V<double> load(const double* p) const { return (V<double>)_mm512_maskz_loadu_pd(lanes, p); }
  INLINE void store(double* p, V<double> v) const { _mm512_mask_storeu_pd(p, lanes, (__m512d)v); }
  template <class T>
  INLINE V32 load(const T* p) const {  // of bfloat16 or half
    T few[W<A>];
    _mm256_storeu_si256((__m256i*)few, _mm256_maskz_loadu_epi16(lanes, p));
    return SIMD::load(few);
  }
  template <class T>
  INLINE void store(T* p, V32 v) const {
    T few[W<A>];
    SIMD::store(few, v);
    _mm256_mask_storeu_epi16(p, lanes, _mm256_loadu_si256((const __m256i*)few));
  }
#else
  M<A> mask;
  INLINE explicit Tail(int64_t n) : count(n) {
    M<A> lane;
    for (int64_t i = 0; i < W<A>; ++i) lane[i] = i;
    mask = lane < M<A>{} + decltype(lane[0] + 0)(n);
  }
  INLINE V<A> keep(V<A> v) const { return same_bits<V<A>>(same_bits<M<A>>(v) & mask); }
#if SIMD_BYTES == 32
  INLINE V32 load(const float* p) const { return (V32)_mm256_maskload_ps(p, (__m256i)mask); }
  INLINE void store(float* p, V32 v) const { _mm256_maskstore_ps(p, (__m256i)mask, (__m256)v); }
  INLINE V<double> load(const double* p) const { return (V<double>)_mm256_maskload_pd(p, (__m256i)mask); }
  INLINE void store(double* p, V<double> v) const { _mm256_maskstore_pd(p, (__m256i)mask, (__m256d)v); }
  // bfloat16 and half: in pairs, and the last one by itself.
  INLINE __m128i pairs() const { return _mm_cmpgt_epi32(_mm_set1_epi32(int(count / 2)), _mm_setr_epi32(0, 1, 2, 3)); }
  template <class T>
  INLINE V32 load(const T* p) const {
    T few[W<A>];
    const __m128i last = _mm_cmpeq_epi16(_mm_set1_epi16(short(count - 1)), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
    const __m128i one = _mm_and_si128(last, _mm_set1_epi16(short(p[count - 1].bits)));
    _mm_storeu_si128((__m128i*)few, _mm_or_si128(_mm_maskload_epi32((const int*)p, pairs()), one));
    return SIMD::load(few);
  }
  template <class T>
  INLINE void store(T* p, V32 v) const {
    T few[W<A>];
    SIMD::store(few, v);
    _mm_maskstore_epi32((int*)p, pairs(), _mm_loadu_si128((const __m128i*)few));
    p[count - 1] = few[count - 1];
  }
#else
  template <class T>
  INLINE V<A> load(const T* p) const {
    T few[W<A>] = {};
    copy_few<W<A>>(few, p, count);
    return SIMD::load(few);
  }
  template <class T>
  INLINE void store(T* p, V<A> v) const {
    T few[W<A>];
    SIMD::store(few, v);
    copy_few<W<A>>(p, few, count);
  }
#endif
#endif
  template <class T>
  INLINE void soon_read(const T*) const {}
  template <class T>
  INLINE void soon_stored(T*) const {}
};

// A run of elements as vectors: made once for many runs of one length.
template <class A>
struct Run {
  int64_t length, whole;  // elements, and those of them in whole vectors
  Tail<A> tail;
  INLINE explicit Run(int64_t n) : length(n), whole(n / W<A> * W<A>), tail(n % W<A>) {}
};

// Calls f(lanes, i) for every vector of a run.
template <class A, class Full = Whole<A>, class F>
INLINE void sweep(const Run<A>& run, F f) {
  for (int64_t i = 0; i < run.whole; i += W<A>) f(Full{}, i);
  if (run.whole < run.length) f(run.tail, run.whole);
}
template <class A, class Full = Whole<A>, class F>
INLINE void sweep(int64_t length, F f) {
  sweep<A, Full>(Run<A>(length), f);
}

// The same with f(lanes, i, u), u < N naming one of N sums, so that additions do not wait for one another.
template <class A, int N, class F>
INLINE void sweep_sums(const Run<A>& run, F f) {
  int64_t i = 0;
  for (; i + N * W<A> <= run.whole; i += N * W<A>)
#pragma GCC unroll 4
    for (int u = 0; u < N; ++u) f(Whole<A>{}, i + u * W<A>, u);
  for (; i < run.whole; i += W<A>) f(Whole<A>{}, i, 0);
  if (run.whole < run.length) f(run.tail, run.whole, N - 1);
}

template <class A, int N>
struct Sum {  // N running sums, used with the u of a sweep_sums
  V<A> part[N] = {};
  INLINE void add(int u, V<A> v) { part[u] += v; }
  INLINE V<A> lanes() const {
    if constexpr (N == 1) return part[0];
    if constexpr (N == 2) return part[0] + part[1];
    if constexpr (N == 4) return (part[0] + part[1]) + (part[2] + part[3]);
  }
};

// What follows the normalization: the output for y, and the gradient of y for that of the output. NaN stays NaN.
struct Linear {
  template <class V>
  INLINE V output(V y) const {
    return y;
  }
  template <class V>
  INLINE V gradient(V dy, V) const {
    return dy;
  }
};
struct Relu {
  template <class V>
  INLINE V output(V y) const {
    return (y < 0) ? V{} : y;
  }
  template <class V>
  INLINE V gradient(V dy, V y) const {
    return (y > 0) ? dy : V{};
  }
};

struct Either {  // told apart at run time
  bool relu;

  template <class V>
  INLINE V output(V y) const {
    return relu ? Relu{}.output(y) : y;
  }
  template <class V>
  INLINE V gradient(V dy, V y) const {
    return relu ? Relu{}.gradient(dy, y) : dy;
  }
};

// Calls f(activation) with the one that the problem names.
template <class F>
INLINE void with_activation(const Problem& p, F f) {
  p.relu ? f(Relu{}) : f(Linear{});
}

}  // namespace SIMD
