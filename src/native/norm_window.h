// Tensors as kernels see them.

namespace SIMD {

// Memory of one piece of parallel work.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(static_cast<A*>(std::malloc(sizeof(A) * size_t(count)))) {}
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() const { return memory_; }

 private:
  A* memory_;
};

// From here on a tensor is read with what comes next asked for, which costs time where it lies in a near cache.
constexpr int64_t DISTANT = 4 << 20;  // bytes
// A large output is stored past the caches, into which it would otherwise be read line by line before it is overwritten.
// Whatever reads it next would find little of it there. Measured with a ReLU on either side, this gains from here on and
// loses below.
constexpr int64_t LARGE = 8 << 20;  // bytes

template <class T>
int64_t bytes_of(const Problem& p) {
  return p.samples * p.channels * p.positions * int64_t(sizeof(T));
}

// Calls f(Far) or f(Whole), as suits reading.
template <class T, class A, class F>
INLINE void for_reading(const Problem& p, F f) {
  bytes_of<T>(p) >= DISTANT ? f(Far<A>{}) : f(Whole<A>{});
}

template <class T>
class Stream {
 public:
  explicit Stream(const Problem& problem) : p(problem), large(bytes_of<T>(p) >= LARGE) {}
  ~Stream() {
    if (large) fence();
  }
  // Whether runs `step` elements apart, the first from `to`, are stored past the caches.
  template <class A>
  INLINE bool passes(const T* to, int64_t step) const {
    return large && (reinterpret_cast<uintptr_t>(to) | size_t(step) * sizeof(T)) % (W<A> * sizeof(T)) == 0;
  }
  // Calls f(Streamed), f(Far) or f(Whole), as suits such runs.
  template <class A, class F>
  INLINE void choose(const T* to, int64_t step, F f) const {
    passes<A>(to, step) ? f(Streamed<A>{}) : for_reading<T, A>(p, f);
  }

 private:
  const Problem& p;
  const bool large;
};

template <class T>
inline void widen(const T* from, float* to, int64_t count) {
  sweep<float>(count, [&](auto v, int64_t i) { v.store(to + i, v.load(from + i)); });
}
template <class T>
inline void narrow(const float* from, T* to, int64_t count) {
  sweep<float>(count, [&](auto v, int64_t i) { v.store(to + i, v.load(from + i)); });
}

// Windows on x, dy and the output of a problem, for kernels that exist for float and double alone: half precision is
// converted in a buffer of at most `most` elements.
template <class A>
class Windows {
 public:
  Windows(const Problem& problem, int64_t most)
      : p(problem), size(most), buffers(p.dtype == BFLOAT16 || p.dtype == FLOAT16 ? 3 * most : 0), stream(problem) {}

  // `count` elements from `at`, until the next call.
  INLINE const A* x(int64_t at, int64_t count) const { return input(p.x, at, count, buffers.get()); }
  INLINE const A* dy(int64_t at, int64_t count) const { return input(p.dy, at, count, buffers.get() + size); }
  // Calls write(to, lanes) to write `count` elements from `at`, in runs `step` apart.
  template <class F>
  INLINE void out(int64_t at, int64_t count, int64_t step, F write) const {
    A* buffer = buffers.get() + 2 * size;
    if constexpr (sizeof(A) == 4) {
      if (p.dtype == BFLOAT16) {
        write(buffer, Whole<A>{});
        return narrow(buffer, static_cast<bfloat16*>(p.out) + at, count);
      }
      if (p.dtype == FLOAT16) {
        write(buffer, Whole<A>{});
        return narrow(buffer, static_cast<half*>(p.out) + at, count);
      }
    }
    A* to = static_cast<A*>(p.out) + at;
    stream.template passes<A>(to, step) ? write(to, Streamed<A>{}) : write(to, Whole<A>{});
  }

 private:
  const Problem& p;
  const int64_t size;
  Scratch<A> buffers;
  Stream<A> stream;

  INLINE const A* input(const void* data, int64_t at, int64_t count, A* buffer) const {
    if constexpr (sizeof(A) == 4) {
      if (p.dtype == BFLOAT16) return widen(static_cast<const bfloat16*>(data) + at, buffer, count), buffer;
      if (p.dtype == FLOAT16) return widen(static_cast<const half*>(data) + at, buffer, count), buffer;
    }
    return static_cast<const A*>(data) + at;
  }
};

}  // namespace SIMD
