// Vectors of A, which is float or double, and conversion of bfloat16 and half.
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

#if SIMD_BYTES == 64
INLINE V32 load(const bfloat16* p) {  // each to the upper half of its lane
  alignas(64) static constexpr uint16_t FROM[32] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                    0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  const __m512i few = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p));
  return (V32)_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, *(const __m512i*)FROM, few);
}
INLINE void store(bfloat16* p, V32 v) {  // to nearest, ties to even
  const __m512i u = (__m512i)v, nan = _mm512_set1_epi32(0x7fc00000);
  const __mmask16 number = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_ORD_Q);
  const __mmask16 odd = _mm512_mask_test_epi32_mask(number, u, _mm512_set1_epi32(0x10000));
  const __m512i even = _mm512_mask_add_epi32(nan, number, u, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_mask_add_epi32(even, odd, u, _mm512_set1_epi32(0x8000));
  const __m512i upper = _mm512_maskz_srli_epi32(0xffff, rounded, 16);
  _mm256_storeu_si256((__m256i*)p, _mm512_maskz_cvtepi32_epi16(0xffff, upper));
}
#else
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
#endif

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

// One element, not by way of memory: a vector that is loaded where an element was stored waits for it.
INLINE float one(float element) { return element; }
INLINE double one(double element) { return element; }
INLINE float one(bfloat16 element) { return same_bits<float>(uint32_t(element.bits) << 16); }
#if SIMD_BYTES >= 32
INLINE float one(half element) { return _cvtsh_ss(element.bits); }
#else
INLINE float one(half element) {
  const half few[W<float>] = {element};
  return load(few)[0];
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

// Two vectors, each of the partial sums of W / G rows in groups of G lanes, to one in groups of G / 2.
template <class A, int64_t G, int64_t... I>
INLINE V<A> halves_added(V<A> a, V<A> b, std::integer_sequence<int64_t, I...>) {
  constexpr int64_t H = G / 2;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (I / H * G + I % H)...) + __builtin_shufflevector(a, b, (I / H * G + I % H + H)...);
#else
  const M<A> low{(I / H * G + I % H)...}, high{(I / H * G + I % H + H)...};
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
#endif
}
// The sums of W vectors, which are overwritten: lane i is that of v[i]. A third of the work of W sums.
template <class A, int64_t G = W<A>>
INLINE V<A> sums(V<A>* v) {
  if constexpr (G > 1) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < G / 2; ++i)
      v[i] = halves_added<A, G>(v[2 * i], v[2 * i + 1], std::make_integer_sequence<int64_t, W<A>>{});
    return sums<A, G / 2>(v);
  }
  return v[0];
}

// 1 / v, for v > 0 and finite.
INLINE float reciprocal(float v) { return 1 / v; }
INLINE double reciprocal(double v) { return 1 / v; }
INLINE V<double> reciprocal(V<double> v) { return 1.0 / v; }
#if SIMD_BYTES == 64
INLINE V32 reciprocal(V32 v) {  // a table look-up of 14 bits and a Newton step: an ulp at most, in half the time
  const V32 guess = (V32)_mm512_maskz_rcp14_ps(0xffff, (__m512)v);
  return guess + guess * (1.0f - v * guess);
}
#else
INLINE V32 reciprocal(V32 v) { return 1.0f / v; }
#endif

}  // namespace SIMD
