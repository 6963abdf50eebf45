// A sparse multilayer perceptron, forward and backward: linear layers with ReLU between them.
//
// The batch is cut into blocks of LANES examples. Within a block a feature is a row of LANES floats, so that a kept weight
// costs a few fused multiply-adds on whole vectors, and nothing is done for a pruned one. A block goes through all layers
// before the next begins: what it needs stays in the processor's caches.
//
// Nothing here checks an index: pattern.py makes the patterns, and checks them.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace lth {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
typedef uint16_t Bits;
#else
constexpr int WIDTH = 8;
typedef uint8_t Bits;
#endif
constexpr int VECTORS = 4;  // of a row; more would leave the first cache, fewer would not hide the latency of an addition
constexpr int LANES = WIDTH * VECTORS;
constexpr int LONG = 24;

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

// What a forward pass leaves for the backward pass.
enum Keep { NOTHING = 0, SIGNS = 1, VALUES = 2 };

// A layer among those units that have a path to an output. `first[r] .. first[r + 1]` are the places in theta of the weights
// into unit r, and `column` their inputs; `bias[r]` is the place of its bias, or -1. The same by columns: `into[i] ..
// into[i + 1]` are the weights out of input i, `row` their units, and `where` their places in theta.
struct Layer {
  int inputs, outputs;
  const int32_t *first, *bias, *into;
};

struct Network {
  std::vector<Layer> layers;
  int weights, parameters, hidden, longest;
  const int32_t *column, *row, *where;

  int inputs() const { return layers.front().inputs; }
  int outputs() const { return layers.back().outputs; }
};

// The pattern: number of layers, weights with a path, parameters; inputs and outputs of each layer; first, bias and into of
// each layer; column, row and where of all. Of the places in it, only those that the counts say are used.
inline Network read_pattern(const int32_t* at) {
  Network net;
  net.layers.resize(at[0]);
  net.weights = at[1];
  net.parameters = at[2];
  at += 3;
  net.hidden = 0;
  for (Layer& layer : net.layers) {
    layer.inputs = *at++;
    layer.outputs = *at++;
    net.hidden += layer.outputs;
  }
  net.hidden -= net.outputs();
  net.longest = net.inputs();
  for (Layer& layer : net.layers) {
    net.longest = std::max(net.longest, layer.outputs);
    layer.first = at;
    layer.bias = at + layer.outputs + 1;
    layer.into = layer.bias + layer.outputs;
    at = layer.into + layer.inputs + 1;
  }
  net.column = at;
  net.row = at + net.weights;
  net.where = at + 2 * net.weights;
  return net;
}

inline int blocks_of(int batch) { return (batch + LANES - 1) / LANES; }

inline size_t kept_bytes(const Network& net, int batch, Keep keep) {
  size_t each = keep == VALUES ? LANES * sizeof(float) : keep == SIGNS ? LANES / 8 : 0;
  return blocks_of(batch) * (size_t)net.hidden * each;
}

// sum += weight[k] * x[index[k]], for k in [begin, end)
inline __attribute__((always_inline)) void add_rows(Vector* sum, const float* weight, const int32_t* index, int begin,
                                                    int end, const float* x) {
  auto add = [&](Vector* to, int k) __attribute__((always_inline)) {
    const Vector* row = (const Vector*)(x + (size_t)index[k] * LANES);
    const float w = weight[k];
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) to[j] += w * row[j];
  };
  int k = begin;
  if (end - begin >= LONG) {  // two sums, because an addition waits for the one before it; adding them up pays for these
    Vector other[VECTORS] = {};
    for (; k + 2 <= end; k += 2) {
      add(sum, k);
      add(other, k + 1);
    }
    for (int j = 0; j < VECTORS; j++) sum[j] += other[j];
  }
  for (; k < end; k++) add(sum, k);
}

#if defined(__AVX512F__)
// Which elements are above zero, one bit each.
inline Bits positive(Vector v) { return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ); }

inline Vector where_set(Bits bits, Vector v) { return (Vector)_mm512_maskz_mov_ps(bits, (__m512)v); }

// The sums of four vectors.
inline Four sums(Vector a, Vector b, Vector c, Vector d) {
  auto halves = [](__m512 p, __m512 q) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x44), _mm512_shuffle_f32x4(p, q, 0xee));
  };
  __m512 ab = halves((__m512)a, (__m512)b), cd = halves((__m512)c, (__m512)d);
  __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
  s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
  const __m512i each_lane = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  return (Four)_mm512_castps512_ps128(_mm512_permutexvar_ps(each_lane, s));
}
#else
inline Bits positive(Vector v) {
  return (Bits)_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_GT_OQ));
}

inline Vector where_set(Bits bits, Vector v) {
  const __m256i each = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
  __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), each), each);
  return (Vector)_mm256_and_ps(_mm256_castsi256_ps(set), (__m256)v);
}

inline Four sums(Vector a, Vector b, Vector c, Vector d) {
  __m256 s = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
  return (Four)_mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
#endif

// y = relu(W x + b) by units, or W x + b for the last layer. Where `signs` is given it says what was positive.
inline void layer_forward(const Network& net, const Layer& layer, const float* theta, const float* x, float* y,
                          bool last, Bits* signs) {
  for (int r = 0; r < layer.outputs; r++) {
    Vector sum[VECTORS];
    const float bias = layer.bias[r] < 0 ? 0.0f : theta[layer.bias[r]];
    for (int j = 0; j < VECTORS; j++) sum[j] = Vector{} + bias;
    add_rows(sum, theta, net.column, layer.first[r], layer.first[r + 1], x);
    Vector* out = (Vector*)(y + (size_t)r * LANES);
    for (int j = 0; j < VECTORS; j++) {
      if (signs) signs[r * VECTORS + j] = positive(sum[j]);
      out[j] = last ? sum[j] : sum[j] <= 0 ? Vector{} : sum[j];  // NaN stays NaN, so that training sees it
    }
  }
}

// dx = W' dz for the inputs from `begin` to `end`; where `signs` or `values` of the inputs are given, only where they were positive.
inline void layer_backward(const Network& net, const Layer& layer, const float* transposed, const float* dz, float* dx,
                           int begin, int end, const Bits* signs, const float* values) {
  for (int i = begin; i < end; i++) {
    Vector sum[VECTORS] = {};
    add_rows(sum, transposed, net.row, layer.into[i], layer.into[i + 1], dz);
    Vector* out = (Vector*)(dx + (size_t)i * LANES);
    for (int j = 0; j < VECTORS; j++) {
      if (signs) sum[j] = where_set(signs[i * VECTORS + j], sum[j]);
      if (values) sum[j] = where_set(positive(((const Vector*)(values + (size_t)i * LANES))[j]), sum[j]);
      out[j] = sum[j];
    }
  }
}

inline __attribute__((always_inline)) Vector product(const Vector* d, const float* x) {
  const Vector* row = (const Vector*)x;
  Vector sum = d[0] * row[0];
#pragma GCC unroll 8
  for (int j = 1; j < VECTORS; j++) sum += d[j] * row[j];
  return sum;
}

// d theta += dz x', for the kept weights only, and the sum of dz for the biases.
inline void layer_gradient(const Network& net, const Layer& layer, const float* dz, const float* x, float* dtheta) {
  for (int r = 0; r < layer.outputs; r++) {
    const Vector* out = (const Vector*)(dz + (size_t)r * LANES);
    Vector d[VECTORS];
    for (int j = 0; j < VECTORS; j++) d[j] = out[j];
    if (layer.bias[r] >= 0) {
      const Four sum = sums(d[0], d[1], d[2], d[3]);
      dtheta[layer.bias[r]] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    int k = layer.first[r];
    const int end = layer.first[r + 1];
    for (; k + 4 <= end; k += 4) {
      Vector p[4];
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) p[u] = product(d, x + (size_t)net.column[k + u] * LANES);
      *(Four*)(dtheta + k) += sums(p[0], p[1], p[2], p[3]);
    }
    if (k < end) {
      Vector p[3] = {};
      for (int u = 0; k + u < end; u++) p[u] = product(d, x + (size_t)net.column[k + u] * LANES);
      const Four four = sums(p[0], p[1], p[2], p[2]);
      for (int u = 0; k + u < end; u++) dtheta[k + u] += four[u];
    }
  }
}

// Rows [start, start + LANES) of x (batch, features) to y (features, LANES); lanes beyond the batch are 0.
inline void to_lanes(const float* x, int batch, int features, int start, float* y) {
  const int rows = std::min(batch - start, LANES);
  if (rows < LANES) memset(y, 0, sizeof(float) * features * LANES);
  x += (size_t)start * features;
  int f = 0;
  for (; f + 4 <= features; f += 4) {
    int b = 0;
    for (; b + 4 <= rows; b += 4) {
      __m128 a0 = _mm_loadu_ps(x + (size_t)(b + 0) * features + f), a1 = _mm_loadu_ps(x + (size_t)(b + 1) * features + f);
      __m128 a2 = _mm_loadu_ps(x + (size_t)(b + 2) * features + f), a3 = _mm_loadu_ps(x + (size_t)(b + 3) * features + f);
      _MM_TRANSPOSE4_PS(a0, a1, a2, a3);
      _mm_storeu_ps(y + (size_t)(f + 0) * LANES + b, a0);
      _mm_storeu_ps(y + (size_t)(f + 1) * LANES + b, a1);
      _mm_storeu_ps(y + (size_t)(f + 2) * LANES + b, a2);
      _mm_storeu_ps(y + (size_t)(f + 3) * LANES + b, a3);
    }
    for (; b < rows; b++)
      for (int u = 0; u < 4; u++) y[(size_t)(f + u) * LANES + b] = x[(size_t)b * features + f + u];
  }
  for (; f < features; f++)
    for (int b = 0; b < rows; b++) y[(size_t)f * LANES + b] = x[(size_t)b * features + f];
}

// The way back: y (features, LANES) to rows [start, start + LANES) of x (batch, features).
inline void from_lanes(const float* y, int batch, int features, int start, float* x) {
  const int rows = std::min(batch - start, LANES);
  for (int b = 0; b < rows; b++)
    for (int f = 0; f < features; f++) x[(size_t)(start + b) * features + f] = y[(size_t)f * LANES + b];
}

// Memory that a thread keeps from call to call: fresh pages would cost more than the work on them.
inline float* scratch(size_t floats) {
  struct Memory {
    float* at = nullptr;
    size_t size = 0;
    ~Memory() { free(at); }
  };
  static thread_local Memory memory;
  if (floats > memory.size) {
    free(memory.at);
    memory.size = (floats + 15) / 16 * 16;
    memory.at = (float*)aligned_alloc(64, memory.size * sizeof(float));
  }
  return memory.at;
}

// y (batch, outputs) = network(x (batch, inputs)); `kept` has room for `kept_bytes`.
inline void forward(const Network& net, const float* theta, const float* x, int batch, Keep keep, float* y, void* kept) {
  const size_t rows = net.inputs() + net.outputs() + (keep == VALUES ? 0 : 2 * net.longest);
  float* const in = scratch(rows * LANES);
  float* const out = in + (size_t)net.inputs() * LANES;
  float* const between[2] = {out + (size_t)net.outputs() * LANES, out + (size_t)(net.outputs() + net.longest) * LANES};
  float* values = keep == VALUES ? (float*)kept : nullptr;
  Bits* signs = keep == SIGNS ? (Bits*)kept : nullptr;
  for (int block = 0; block < blocks_of(batch); block++) {
    to_lanes(x, batch, net.inputs(), block * LANES, in);
    const float* from = in;
    for (size_t l = 0; l < net.layers.size(); l++) {
      const Layer& layer = net.layers[l];
      const bool last = l + 1 == net.layers.size();
      float* to = last ? out : values ? values : between[l % 2];
      layer_forward(net, layer, theta, from, to, last, last ? nullptr : signs);
      if (!last && values) values += (size_t)layer.outputs * LANES;
      if (!last && signs) signs += (size_t)layer.outputs * VECTORS;
      from = to;
    }
    from_lanes(out, batch, net.outputs(), block * LANES, y);
  }
}

// The gradients of sum(dy * network(x)) by the inputs [begin, end) of x, to dx (batch, end - begin), and by theta, if
// `dtheta` is given. The latter needs VALUES.
inline void backward(const Network& net, const float* theta, const float* x, int batch, const float* dy, Keep keep,
                     const void* kept, int begin, int end, float* dx, float* dtheta) {
  const size_t ends = net.inputs() + net.outputs();
  float* const in = scratch((ends + 2 * (size_t)net.longest) * LANES + net.weights);
  float* const out = in + (size_t)net.inputs() * LANES;
  float* const between[2] = {in + ends * LANES, in + (ends + net.longest) * LANES};
  float* const transposed = in + (ends + 2 * (size_t)net.longest) * LANES;
  const bool want_dx = begin < end;
  for (int k = want_dx ? 0 : net.layers[0].first[net.layers[0].outputs]; k < net.weights; k++)
    transposed[k] = theta[net.where[k]];
  if (dtheta) memset(dtheta, 0, sizeof(float) * net.parameters);
  for (int block = 0; block < blocks_of(batch); block++) {
    to_lanes(dy, batch, net.outputs(), block * LANES, out);
    if (dtheta) to_lanes(x, batch, net.inputs(), block * LANES, in);
    const float* dz = out;
    size_t row = (size_t)(block + 1) * net.hidden;
    for (size_t l = net.layers.size(); l-- > 0;) {
      const Layer& layer = net.layers[l];
      const float* values = nullptr;
      const Bits* signs = nullptr;
      if (l > 0) {
        row -= layer.inputs;
        if (keep == VALUES) values = (const float*)kept + row * LANES;
        if (keep == SIGNS) signs = (const Bits*)kept + row * VECTORS;
      }
      if (dtheta) layer_gradient(net, layer, dz, l > 0 ? values : in, dtheta);
      if (l > 0 || want_dx) {
        layer_backward(net, layer, transposed, dz, between[l % 2], l > 0 ? 0 : begin, l > 0 ? layer.inputs : end, signs,
                       values);
        dz = between[l % 2];
      }
    }
    if (want_dx) from_lanes(dz + (size_t)begin * LANES, batch, end - begin, block * LANES, dx);
  }
}

// y (outputs) = network(x (inputs)) for one example, as acting needs it.
inline void forward_one(const Network& net, const float* theta, const float* x, float* y) {
  float* const between[2] = {scratch(2 * (size_t)net.longest), scratch(2 * (size_t)net.longest) + net.longest};
  const float* from = x;
  for (size_t l = 0; l < net.layers.size(); l++) {
    const Layer& layer = net.layers[l];
    const bool last = l + 1 == net.layers.size();
    float* to = last ? y : between[l % 2];
    for (int r = 0; r < layer.outputs; r++) {
      float sums[4] = {layer.bias[r] < 0 ? 0.0f : theta[layer.bias[r]]};  // four, so that none waits for the one before
      int k = layer.first[r];
      for (; k + 4 <= layer.first[r + 1]; k += 4)
        for (int u = 0; u < 4; u++) sums[u] += theta[k + u] * from[net.column[k + u]];
      for (; k < layer.first[r + 1]; k++) sums[0] += theta[k] * from[net.column[k]];
      const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      to[r] = last || !(sum <= 0) ? sum : 0.0f;
    }
    from = to;
  }
}

}  // namespace lth
