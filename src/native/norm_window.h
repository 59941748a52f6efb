// Tensors as kernels see them.

namespace SIMD {

// Memory of one piece of parallel work; std::bad_alloc where there is none.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(static_cast<A*>(std::malloc(sizeof(A) * size_t(count)))) {
    if (!memory_ && count) throw std::bad_alloc();
  }
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

// What a core keeps in a cache of its own, at the least.
constexpr int64_t NEAR = 512 << 10;  // bytes

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
  // The same for kernels that ask for nothing in advance.
  template <class A, class F>
  INLINE void for_storing(const T* to, int64_t step, F f) const {
    passes<A>(to, step) ? f(Streamed<A>{}) : f(Whole<A>{});
  }

 private:
  const Problem& p;
  const bool large;
};

}  // namespace SIMD
