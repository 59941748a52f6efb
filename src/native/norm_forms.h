// The three interpolations between batch normalization and unitization: the native counterpart of
// icsbound/norm/interpolation.py; same names.

namespace SIMD {

// The three interpolations. k depends on ν through one number t; with p = k², 1 or k, ∂k/∂α = by_alpha(ν) p and
// ∂k/∂(n²) = by_n2(ν) α p, so that what depends on ν alone is found once for a sample or pixel. `p_times` is p z, from
// k, z and k z.
template <class A>
struct Norm {
  A t, by_alpha, by_n2;
};

// Finite even where n² has overflowed, as an infinite ν times an α of 0 would be NaN; so is α times it. NaN stays NaN.
template <class A>
INLINE A relative_norm(A n2, const Problem& p) {
  constexpr A most = std::numeric_limits<A>::max() / 1024;
  const A nu = std::sqrt(n2 + A(p.norm_eps)), finite = nu > most ? most : nu;
  return p.shrink_only && finite < 1 ? A(1) : finite;
}

struct Harmonic {
  template <class A>
  static INLINE A t(A nu) {
    return nu;
  }
  template <class A, class X>
  static INLINE X k(A t, X alpha) {
    return reciprocal(alpha * t + (1.0f - alpha));
  }
  template <class X>
  static INLINE X p_times(X k, X, X kz) {
    return k * kz;
  }
  template <class A>
  static INLINE Norm<A> norm(A nu) {
    return {t(nu), 1 - nu, A(-0.5) / nu};
  }
};

struct Direct {  // the other two, told apart at run time
  bool geometric;

  template <class A>
  INLINE A t(A nu) const {
    return geometric ? std::log(nu) : 1 / nu;
  }
  template <class A, class X>
  INLINE X k(A t, X alpha) const {
    if (geometric) return exponential(-alpha * t);
    return alpha * t + (1.0f - alpha);
  }
  template <class X>
  INLINE X p_times(X, X z, X kz) const {
    return geometric ? kz : z;
  }
  template <class A>
  INLINE Norm<A> norm(A nu) const {
    if (geometric) return {std::log(nu), -std::log(nu), A(-0.5) / (nu * nu)};
    return {1 / nu, 1 / nu - 1, A(-0.5) / (nu * nu * nu)};
  }

 private:
  static float exponential(float v) { return std::exp(v); }
  static double exponential(double v) { return std::exp(v); }
  static __attribute__((noinline)) V<float> exponential(V<float> v) { return by_lane<float>(v); }
  static __attribute__((noinline)) V<double> exponential(V<double> v) { return by_lane<double>(v); }
  template <class A>
  static INLINE V<A> by_lane(V<A> v) {
    for (int64_t i = 0; i < W<A>; ++i) v[i] = std::exp(v[i]);
    return v;
  }
};

template <class Form, class A>
INLINE Norm<A> norm_of(Form form, A nu, const Problem& p) {
  Norm<A> n = form.norm(nu);
  if (p.shrink_only && !(nu > 1)) n.by_n2 = 0;
  return n;
}

// Calls f(form) with the form that the problem names.
template <class F>
INLINE void with_form(const Problem& p, F f) {
  if (p.interpolation == HARMONIC) return f(Harmonic{});
  return f(Direct{p.interpolation == GEOMETRIC});
}

// Calls f(form, activation); code of its own for each activation is kept for the usual form.
template <class F>
INLINE void with_map(const Problem& p, F f) {
  if (p.interpolation == HARMONIC) return with_activation(p, [&](auto act) { f(Harmonic{}, act); });
  f(Direct{p.interpolation == GEOMETRIC}, Either{p.relu != 0});
}

}  // namespace SIMD
