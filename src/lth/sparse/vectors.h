// Vectors of floats, and the operations that the compiler's vector types lack: one section per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#error "the kernel is written for AVX2, AVX-512 and 64-bit NEON"
#endif

namespace lth {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
constexpr int COLUMNS = 4;  // vectors that a tile of a dense product spans: with UNITS of kernel.h, as many as registers hold
typedef uint16_t Bits;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
constexpr int COLUMNS = 2;
typedef uint8_t Bits;
#else
constexpr int WIDTH = 4;
constexpr int COLUMNS = 4;
typedef uint8_t Bits;
#endif

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

// The same number in every element. Not 0 + x: that turns -0 into 0, so compilers would emit an addition.
inline Vector all(float x) { return x - Vector{}; }

#if defined(__AVX512F__)
// A bit mask of the elements above zero.
inline Bits positive(Vector v) { return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ); }

inline Vector where_set(Bits bits, Vector v) { return (Vector)_mm512_maskz_mov_ps(bits, (__m512)v); }

inline Vector square_root(Vector v) { return (Vector)_mm512_sqrt_ps((__m512)v); }

// The sums of four vectors.
inline Four sums(Vector a, Vector b, Vector c, Vector d) {
  auto halves = [](Vector v) {
    return _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1)));
  };
  __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(halves(a), halves(b)), _mm256_hadd_ps(halves(c), halves(d)));
  return (Four)_mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

// WIDTH rows of 4 floats, `stride` apart, to 4 vectors.
inline void transpose(const float* from, size_t stride, Vector* to) {
  __m512 row[4];
  for (int i = 0; i < 4; i++) {
    auto four = [&](int block) { return _mm_loadu_ps(from + (4 * block + i) * stride); };
    __m512 v = _mm512_castps128_ps512(four(0));
    v = _mm512_insertf32x4(v, four(1), 1);
    v = _mm512_insertf32x4(v, four(2), 2);
    row[i] = _mm512_insertf32x4(v, four(3), 3);
  }
  const __m512 a = _mm512_unpacklo_ps(row[0], row[1]), b = _mm512_unpackhi_ps(row[0], row[1]);
  const __m512 c = _mm512_unpacklo_ps(row[2], row[3]), d = _mm512_unpackhi_ps(row[2], row[3]);
  to[0] = (Vector)_mm512_shuffle_ps(a, c, 0x44);
  to[1] = (Vector)_mm512_shuffle_ps(a, c, 0xee);
  to[2] = (Vector)_mm512_shuffle_ps(b, d, 0x44);
  to[3] = (Vector)_mm512_shuffle_ps(b, d, 0xee);
}
#elif defined(__AVX2__)
inline Bits positive(Vector v) {
  return (Bits)_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_GT_OQ));
}

inline Vector where_set(Bits bits, Vector v) {
  const __m256i each = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
  __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), each), each);
  return (Vector)_mm256_and_ps(_mm256_castsi256_ps(set), (__m256)v);
}

inline Vector square_root(Vector v) { return (Vector)_mm256_sqrt_ps((__m256)v); }

inline Four sums(Vector a, Vector b, Vector c, Vector d) {
  __m256 s = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
  return (Four)_mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

inline void transpose(const float* from, size_t stride, Vector* to) {
  __m256 row[4];
  for (int i = 0; i < 4; i++) {
    auto four = [&](int block) { return _mm_loadu_ps(from + (4 * block + i) * stride); };
    row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(four(0)), four(1), 1);
  }
  const __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpackhi_ps(row[0], row[1]);
  const __m256 c = _mm256_unpacklo_ps(row[2], row[3]), d = _mm256_unpackhi_ps(row[2], row[3]);
  to[0] = (Vector)_mm256_shuffle_ps(a, c, 0x44);
  to[1] = (Vector)_mm256_shuffle_ps(a, c, 0xee);
  to[2] = (Vector)_mm256_shuffle_ps(b, d, 0x44);
  to[3] = (Vector)_mm256_shuffle_ps(b, d, 0xee);
}
#else
inline Bits positive(Vector v) {
  const uint32x4_t each = {1, 2, 4, 8};
  return (Bits)vaddvq_u32(vandq_u32(vcgtq_f32((float32x4_t)v, vdupq_n_f32(0)), each));
}

inline Vector where_set(Bits bits, Vector v) {
  const uint32x4_t each = {1, 2, 4, 8};
  return (Vector)vreinterpretq_f32_u32(vandq_u32(vtstq_u32(vdupq_n_u32(bits), each), vreinterpretq_u32_f32((float32x4_t)v)));
}

inline Vector square_root(Vector v) { return (Vector)vsqrtq_f32((float32x4_t)v); }

inline Four sums(Vector a, Vector b, Vector c, Vector d) {
  return (Four)vpaddq_f32(vpaddq_f32((float32x4_t)a, (float32x4_t)b), vpaddq_f32((float32x4_t)c, (float32x4_t)d));
}

inline void transpose(const float* from, size_t stride, Vector* to) {
  const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + stride);
  const float32x4_t c = vld1q_f32(from + 2 * stride), d = vld1q_f32(from + 3 * stride);
  const float64x2_t p = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), q = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
  const float64x2_t r = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), s = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
  to[0] = (Vector)vreinterpretq_f32_f64(vtrn1q_f64(p, r));
  to[1] = (Vector)vreinterpretq_f32_f64(vtrn1q_f64(q, s));
  to[2] = (Vector)vreinterpretq_f32_f64(vtrn2q_f64(p, r));
  to[3] = (Vector)vreinterpretq_f32_f64(vtrn2q_f64(q, s));
}
#endif

}  // namespace lth
