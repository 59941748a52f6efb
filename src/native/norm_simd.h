// Vectors of A, loads and stores that convert to and from T, and sweeps over a row.
//
// Compiled once per instruction set, with SIMD its namespace and SIMD_BYTES the width of its registers (GCC's vector
// types, so there is one source for all of them). 64 bytes mean AVX-512 and 32 AVX2 with F16C: some compilers do not
// define their macros where a pragma chose the target.

namespace SIMD {

#define INLINE inline __attribute__((always_inline))

struct bfloat16 {
  uint16_t bits;
};
struct half {
  uint16_t bits;
};

template <class A>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float vector __attribute__((vector_size(SIMD_BYTES)));
  typedef int32_t mask __attribute__((vector_size(SIMD_BYTES)));
  typedef uint32_t bits __attribute__((vector_size(SIMD_BYTES)));
  typedef uint16_t halves __attribute__((vector_size(SIMD_BYTES / 2)));
};
template <>
struct Lanes<double> {
  typedef double vector __attribute__((vector_size(SIMD_BYTES)));
  typedef int64_t mask __attribute__((vector_size(SIMD_BYTES)));
};

template <class A>
using V = typename Lanes<A>::vector;
template <class A>
using M = typename Lanes<A>::mask;
template <class A>
constexpr int64_t W = SIMD_BYTES / sizeof(A);

using V32 = Lanes<float>::vector;
using B32 = Lanes<float>::bits;
using H16 = Lanes<float>::halves;

template <class To, class From>
INLINE To same_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To r;
  __builtin_memcpy(&r, &v, sizeof r);
  return r;
}

template <class A>
INLINE V<A> all(A a) {
  return V<A>{} + a;
}

INLINE V32 load(const float* p) {
  V32 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float* p, V32 v) { __builtin_memcpy(p, &v, sizeof v); }

INLINE V<double> load(const double* p) {
  V<double> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(double* p, V<double> v) { __builtin_memcpy(p, &v, sizeof v); }

INLINE V32 load(const bfloat16* p) {
  H16 h;
  __builtin_memcpy(&h, p, sizeof h);
  return same_bits<V32>(__builtin_convertvector(h, B32) << 16);
}
INLINE void store(bfloat16* p, V32 v) {  // to nearest, ties to even
  const B32 u = same_bits<B32>(v);
  const B32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const H16 h = __builtin_convertvector((v == v) ? rounded : (B32{} + 0x7fc0u), H16);
  __builtin_memcpy(p, &h, sizeof h);
}

#if SIMD_BYTES == 64
INLINE V32 load(const half* p) { return (V32)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p)); }
INLINE void store(half* p, V32 v) { _mm256_storeu_si256((__m256i*)p, _mm512_maskz_cvtps_ph(0xffff, (__m512)v, 8)); }
#elif SIMD_BYTES == 32
INLINE V32 load(const half* p) { return (V32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE void store(half* p, V32 v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 8)); }
#else
INLINE V32 load(const half* p) {
  H16 h;
  __builtin_memcpy(&h, p, sizeof h);
  const B32 u = __builtin_convertvector(h, B32);
  const B32 magnitude = (u & 0x7fffu) << 13;
  V32 v = same_bits<V32>(magnitude) * 0x1p112f;  // moves the exponent, and makes subnormals normal
  const B32 special = magnitude | 0x7f800000u;   // infinity and NaN
  v = (magnitude >= 0x0f800000u) ? same_bits<V32>(special) : v;
  return same_bits<V32>(same_bits<B32>(v) | ((u & 0x8000u) << 16));
}
INLINE void store(half* p, V32 v) {  // to nearest, ties to even
  const B32 u = same_bits<B32>(v), sign = u & 0x80000000u, magnitude = u ^ sign;
  const V32 positive = same_bits<V32>(magnitude);
  // Adding a power of two above it leaves the bits of a subnormal half at the bottom, rounded by the addition itself.
  const B32 small = same_bits<B32>(positive + 0.5f) - 0x3f000000u;
  const B32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  B32 h = (magnitude < 0x38800000u) ? small : normal;
  h = (magnitude >= 0x477ff000u) ? B32{} + 0x7c00u : h;
  h = (magnitude > 0x7f800000u) ? B32{} + 0x7e00u : h;
  const H16 out = __builtin_convertvector(h | (sign >> 16), H16);
  __builtin_memcpy(p, &out, sizeof out);
}
#endif

template <class A, int64_t N>
INLINE A sum_lanes(const A* p) {
  typedef A Half __attribute__((vector_size(N / 2 * sizeof(A))));
  Half low, high;
  __builtin_memcpy(&low, p, sizeof low);
  __builtin_memcpy(&high, p + N / 2, sizeof high);
  low += high;
  if constexpr (N / 2 > 2)
    return sum_lanes<A, N / 2>(reinterpret_cast<const A*>(&low));
  else
    return low[0] + low[1];
}
template <class A>
INLINE A sum(V<A> v) {
  if constexpr (W<A> == 2)
    return v[0] + v[1];
  else
    return sum_lanes<A, W<A>>(reinterpret_cast<const A*>(&v));
}

// 1 / v, for v > 0.
INLINE float reciprocal(float v) { return 1 / v; }
INLINE double reciprocal(double v) { return 1 / v; }
INLINE V<double> reciprocal(V<double> v) { return 1.0 / v; }
#if SIMD_BYTES == 64
INLINE V32 reciprocal(V32 v) {  // a table look-up of 14 bits and a Newton step: an ulp at most, in half the time
  v = (v > 1e38f) ? V32{} + 1e38f : v;  // infinity would give NaN
  const V32 guess = (V32)_mm512_maskz_rcp14_ps(0xffff, (__m512)v);
  return guess + guess * (1.0f - v * guess);
}
#else
INLINE V32 reciprocal(V32 v) { return 1.0f / v; }
#endif

// How a vector of a sweep is loaded, stored, and added to a sum: all of it; or as the tail of a row, which overlaps its
// neighbour, or is padded where the row is shorter than a vector, so that only some of its lanes count.
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
  INLINE V<A> keep(V<A> v) const { return v; }
};

template <class T>
inline __attribute__((noinline)) void copy_few(T* to, const T* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class A>
struct Tail {
  int64_t few;  // elements of a row shorter than a vector, else 0
  M<A> mask;
  INLINE Tail(int64_t length, int64_t done) : few(length < W<A> ? length : 0) {
    M<A> lane;
    for (int64_t i = 0; i < W<A>; ++i) lane[i] = i;
    const auto first = few ? 0 : W<A> - (length - done), end = few ? few : W<A>;
    mask = (lane >= M<A>{} + decltype(lane[0] + 0)(first)) & (lane < M<A>{} + decltype(lane[0] + 0)(end));
  }
  template <class T>
  INLINE V<A> load(const T* p) const {
    if (!few) return SIMD::load(p);
    T buffer[W<A>] = {};
    copy_few(buffer, p, few);
    return SIMD::load(buffer);
  }
  template <class T>
  INLINE void store(T* p, V<A> v) const {
    if (!few) return SIMD::store(p, v);
    T buffer[W<A>];
    SIMD::store(buffer, v);
    copy_few(p, buffer, few);
  }
  INLINE V<A> keep(V<A> v) const { return same_bits<V<A>>(same_bits<M<A>>(v) & mask); }
};

// Calls f(lanes, i) for every vector of [0, length).
template <class A, class F>
INLINE void sweep(int64_t length, F f) {
  constexpr int64_t w = W<A>;
  int64_t i = 0;
  for (; i + w <= length; i += w) f(Whole<A>{}, i);
  if (i < length) f(Tail<A>(length, i), length < w ? 0 : length - w);
}

// The same with f(lanes, i, u), u in 0..3 naming one of four sums, so that additions do not wait for one another.
template <class A, class F>
INLINE void sweep_sums(int64_t length, F f) {
  constexpr int64_t w = W<A>;
  int64_t i = 0;
  for (; i + 4 * w <= length; i += 4 * w) {
    f(Whole<A>{}, i, 0);
    f(Whole<A>{}, i + w, 1);
    f(Whole<A>{}, i + 2 * w, 2);
    f(Whole<A>{}, i + 3 * w, 3);
  }
  for (; i + w <= length; i += w) f(Whole<A>{}, i, 0);
  if (i < length) f(Tail<A>(length, i), length < w ? 0 : length - w, 1);
}

template <class A>
struct Sum {  // four running sums, used with the u of a sweep_sums
  V<A> part[4] = {};
  INLINE void add(int u, V<A> v) { part[u] += v; }
  INLINE A total() const { return sum<A>((part[0] + part[1]) + (part[2] + part[3])); }
};

// A fused ReLU has floor 0, none -infinity: what is below is raised, and its gradient dropped. NaN stays NaN.
template <class A>
INLINE V<A> raised(V<A> y, A floor) {
  return (y < floor) ? all<A>(floor) : y;
}
template <class A>
INLINE V<A> passed(V<A> dy, V<A> y, A floor) {
  return (y > floor) ? dy : V<A>{};
}
template <bool Relu, class A>
INLINE V<A> passed(V<A> dy, V<A> y) {  // known at compile time, where y would have to be found for it
  if constexpr (Relu) return (y > 0) ? dy : V<A>{};
  return dy;
}
template <class A>
INLINE A floor_of(const Problem& p) {
  return p.relu ? A(0) : -std::numeric_limits<A>::infinity();
}

}  // namespace SIMD
