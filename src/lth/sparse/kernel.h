// A multilayer perceptron over its kept weights, forward and backward: linear layers with ReLU between them, and layer
// normalization before the ReLU where the network has it.
//
// The batch is divided into blocks of LANES examples. Within a block, a feature is a row of LANES floats, so a kept weight costs
// a few fused multiply-adds on whole vectors, and a pruned weight costs nothing. Layers with few pruned weights are computed
// densely, in tiles of UNITS rows, which loads less than row by row. A block passes through all layers before the next one
// starts, so its data stays in the processor's caches.
//
// Blocks are distributed over threads. Gradients are summed in block order, so they do not depend on the number of threads.
//
// Indices are not checked here; pattern.py makes and checks the patterns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace lth {

constexpr int VECTORS = 4;  // per row; more would not fit the first cache, fewer would not hide the latency of an addition
constexpr int LANES = WIDTH * VECTORS;
constexpr int UNITS = 6;    // rows of a tile of a dense product
constexpr int CHUNKS = 8;   // the maximum number of chunks; gradients are summed block by block within a chunk, then chunk by chunk
constexpr float EPSILON = 1e-6f;  // of layer normalization, as in Flax

#define LTH_INLINE inline __attribute__((always_inline))

// What a forward pass stores for the backward pass.
enum Keep { NOTHING = 0, SIGNS = 1, VALUES = 2 };

// Units whose weights come from one range of inputs, all computed the same way. If a dense block keeps all its weights, its
// matrix is a part of theta; otherwise it is expanded before a pass, at `place` in a scratch buffer of `Network::expanded` floats.
struct Block {
  int unit, unit_end, input, input_end;
  bool dense, full;
  size_t place;

  int units() const { return unit_end - unit; }
  int inputs() const { return input_end - input; }
};

// A layer among those units that have a path to an output. `first[r] .. first[r + 1]` are the places in theta of the weights
// into unit r, and `column` their inputs; `bias[r]` is the place of its bias, or -1. The same by columns: `into[i] ..
// into[i + 1]` are the weights out of input i, `row` their units, and `where` their places in theta. A normalized layer has
// the places of each unit's scale and shift, or -1, and the units of group g are `group[g] .. group[g + 1]`.
struct Layer {
  int inputs, outputs, groups;
  const int32_t *first, *bias, *into, *group, *scale, *shift;
  std::vector<Block> blocks;
  bool sparse, dense;  // whether it has blocks of the kind
};

struct Network {
  std::vector<Layer> layers;
  int weights, parameters, longest, widest;
  size_t expanded, kept_rows;
  bool normed, sparse;
  const int32_t *column, *row, *where;

  int inputs() const { return layers.front().inputs; }
  int outputs() const { return layers.back().outputs; }
};

// The pattern: number of layers, weights with a path, parameters, whether normalized. Of each layer: inputs, outputs, blocks,
// groups; first, bias and into; if it is normalized group, scale and shift; unit, unit_end, input, input_end and whether dense
// of each block. Then column, row and where of all. Of the places in it, only those that the counts say are used.
inline Network read_pattern(const int32_t* at) {
  Network net;
  net.layers.resize(at[0]);
  net.weights = at[1];
  net.parameters = at[2];
  net.normed = at[3];
  at += 4;
  net.longest = net.widest = 0;
  net.expanded = net.kept_rows = 0;
  net.sparse = false;
  for (size_t l = 0; l < net.layers.size(); l++) {
    Layer& layer = net.layers[l];
    const bool last = l + 1 == net.layers.size();
    layer.inputs = at[0];
    layer.outputs = at[1];
    layer.blocks.resize(at[2]);
    layer.groups = at[3];
    layer.first = at + 4;
    layer.bias = layer.first + layer.outputs + 1;
    layer.into = layer.bias + layer.outputs;
    at = layer.into + layer.inputs + 1;
    if (layer.groups) {
      layer.group = at;
      layer.scale = at + layer.groups + 1;
      layer.shift = layer.scale + layer.outputs;
      at = layer.shift + layer.outputs;
    }
    layer.sparse = layer.dense = false;
    for (Block& block : layer.blocks) {
      block = {at[0], at[1], at[2], at[3], at[4] != 0, false, net.expanded};
      at += 5;
      const int kept = layer.first[block.unit_end] - layer.first[block.unit];
      block.full = kept == block.units() * block.inputs();
      if (block.dense && !block.full) net.expanded += (size_t)block.units() * block.inputs();
      (block.dense ? layer.dense : layer.sparse) = true;
      if (block.dense) net.widest = std::max(net.widest, (block.inputs() + WIDTH - 1) / WIDTH * WIDTH);
    }
    net.sparse |= layer.sparse;
    net.longest = std::max({net.longest, layer.inputs, layer.outputs});
    if (!last) net.kept_rows += (size_t)layer.outputs * (net.normed ? 2 : 1) + layer.groups;
  }
  net.column = at;
  net.row = at + net.weights;
  net.where = at + 2 * net.weights;
  return net;
}

inline int blocks_of(int batch) { return (batch + LANES - 1) / LANES; }

// What is stored for a block of examples. For VALUES: the rows of each hidden layer and, if it is normalized, its rows before scale
// and shift, and each group's reciprocal standard deviation.
inline size_t kept_bytes_a_block(const Network& net, Keep keep) {
  return keep == VALUES ? net.kept_rows * LANES * sizeof(float) : keep == SIGNS ? net.kept_rows * VECTORS * sizeof(Bits) : 0;
}

// Memory that a thread reuses between calls, because touching new pages would cost more than the computation.
template <int SLOT>
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

// ---------------------------------------------------------------------------------------------------------------------
// Dense blocks: tiles of U rows x C vectors

// Calls f(std::integral_constant<int, n>, i) for i from `begin` to `end` in steps of MOST, the last n is what is left.
template <int MOST, typename F>
LTH_INLINE void in_steps(int begin, int end, const F& f) {
  for (; end - begin >= MOST; begin += MOST) f(std::integral_constant<int, MOST>{}, begin);
  if constexpr (MOST > 1) {
    if (begin < end) in_steps<MOST - 1>(begin, end, f);
  }
}

// sum[u][c] += a[u * unit_step + k * step] * b[k][c] for k in [0, count), where rows of b are `stride` floats apart
template <int U, int C>
LTH_INLINE void tile(const float* a, size_t unit_step, size_t step, const float* b, size_t stride, int count,
                     Vector (&sum)[U][C]) {
  for (int k = 0; k < count; k++, a += step, b += stride) {
    Vector row[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) row[c] = ((const Vector*)b)[c];
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) {
      const Vector w = all(a[u * unit_step]);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) sum[u][c] += w * row[c];
    }
  }
}

inline const float* matrix_of(const Layer& layer, const Block& block, const float* theta, const float* expanded) {
  return block.full ? theta + layer.first[block.unit] : expanded + block.place;
}

// ---------------------------------------------------------------------------------------------------------------------
// One layer, one block of examples

// sum += weight[k] * x[index[k]], for k in [begin, end)
LTH_INLINE void add_rows(Vector* sum, const float* weight, const int32_t* index, int begin, int end, const float* x) {
  for (int k = begin; k < end; k++) {
    const Vector* row = (const Vector*)(x + (size_t)index[k] * LANES);
    const Vector w = all(weight[k]);
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) sum[j] += w * row[j];
  }
}

// y = W x + b by units; y = relu(W x + b) where `relu` says so, and `signs`, if given, records which values were positive.
inline void layer_forward(const Network& net, const Layer& layer, const float* theta, const float* expanded,
                          const float* x, float* y, bool relu, Bits* signs) {
  auto finish = [&](int r, int j, Vector sum) __attribute__((always_inline)) {
    if (signs) signs[r * VECTORS + j] = positive(sum);
    ((Vector*)(y + (size_t)r * LANES))[j] = relu ? (sum <= 0 ? Vector{} : sum) : sum;  // NaN stays NaN, so training detects it
  };
  auto bias = [&](int r) { return layer.bias[r] < 0 ? 0.0f : theta[layer.bias[r]]; };
  for (const Block& block : layer.blocks) {
    if (block.dense) {
      const float* w = matrix_of(layer, block, theta, expanded);
      const size_t width = block.inputs();
      in_steps<UNITS>(block.unit, block.unit_end, [&](auto n, int r) {
        constexpr int U = decltype(n)::value;
        for (int j = 0; j < VECTORS; j += COLUMNS) {
          Vector sum[U][COLUMNS];
          for (int u = 0; u < U; u++)
            for (int c = 0; c < COLUMNS; c++) sum[u][c] = all(bias(r + u));
          tile<U, COLUMNS>(w + (r - block.unit) * width, width, 1, x + (size_t)block.input * LANES + j * WIDTH, LANES,
                           block.inputs(), sum);
          for (int u = 0; u < U; u++)
            for (int c = 0; c < COLUMNS; c++) finish(r + u, j + c, sum[u][c]);
        }
      });
    } else {
      for (int r = block.unit; r < block.unit_end; r++) {
        Vector sum[VECTORS];
        for (int j = 0; j < VECTORS; j++) sum[j] = all(bias(r));
        add_rows(sum, theta, net.column, layer.first[r], layer.first[r + 1], x);
        for (int j = 0; j < VECTORS; j++) finish(r, j, sum[j]);
      }
    }
  }
}

// dx = W' dz for the inputs from `begin` to `end`; where `signs` or `values` of the inputs are given, only where they were positive.
inline void layer_backward(const Network& net, const Layer& layer, const float* theta, const float* expanded,
                           const float* transposed, const float* dz, float* dx, int begin, int end, const Bits* signs,
                           const float* values) {
  auto finish = [&](int i, int j, Vector sum) __attribute__((always_inline)) {
    if (signs) sum = where_set(signs[i * VECTORS + j], sum);
    if (values) sum = where_set(positive(((const Vector*)(values + (size_t)i * LANES))[j]), sum);
    ((Vector*)(dx + (size_t)i * LANES))[j] = sum;
  };
  for (const Block& block : layer.blocks) {
    const int low = std::max(begin, block.input), high = std::min(end, block.input_end);
    if (block.dense) {
      const float* w = matrix_of(layer, block, theta, expanded);
      in_steps<UNITS>(low, high, [&](auto n, int i) {
        constexpr int U = decltype(n)::value;
        for (int j = 0; j < VECTORS; j += COLUMNS) {
          Vector sum[U][COLUMNS] = {};
          tile<U, COLUMNS>(w + (i - block.input), 1, block.inputs(), dz + (size_t)block.unit * LANES + j * WIDTH, LANES,
                           block.units(), sum);
          for (int u = 0; u < U; u++)
            for (int c = 0; c < COLUMNS; c++) finish(i + u, j + c, sum[u][c]);
        }
      });
    } else {
      for (int i = low; i < high; i++) {
        Vector sum[VECTORS] = {};
        add_rows(sum, transposed, net.row, layer.into[i], layer.into[i + 1], dz);
        for (int j = 0; j < VECTORS; j++) finish(i, j, sum[j]);
      }
    }
  }
}

LTH_INLINE Vector product(const Vector* d, const float* x) {
  const Vector* row = (const Vector*)x;
  Vector sum = d[0] * row[0];
#pragma GCC unroll 8
  for (int j = 1; j < VECTORS; j++) sum += d[j] * row[j];
  return sum;
}

inline float sum_of(const Vector* d) {
  const Four four = sums(d[0], d[1], d[2], d[3]);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// d theta += the sums of rows of d, at `places`, where there is one.
inline void bias_gradient(const Layer& layer, const int32_t* places, const float* d, float* dtheta) {
  for (int r = 0; r < layer.outputs; r += 4) {
    Vector sum[4] = {};
    const int count = std::min(4, layer.outputs - r);
    for (int u = 0; u < count; u++) {
      const Vector* row = (const Vector*)(d + (size_t)(r + u) * LANES);
      sum[u] = row[0];
      for (int j = 1; j < VECTORS; j++) sum[u] += row[j];
    }
    const Four four = sums(sum[0], sum[1], sum[2], sum[3]);
    for (int u = 0; u < count; u++)
      if (places[r + u] >= 0) dtheta[places[r + u]] += four[u];
  }
}

// d theta += dz x', for the kept weights only, and the sum of dz for the biases. `by_example` is the block's x, `stride` floats
// an example, as dense blocks need it; `rows` is their scratch.
inline void layer_gradient(const Network& net, const Layer& layer, const float* dz, const float* x,
                           const float* by_example, size_t stride, float* rows, float* dtheta) {
  bias_gradient(layer, layer.bias, dz, dtheta);
  Vector left[4];  // products of the units' left-over weights, summed four at a time
  int places[4], lefts = 0;
  auto add_left = [&] {
    const Four four = sums(left[0], left[1], left[2], left[3]);
    for (int u = 0; u < lefts; u++) dtheta[places[u]] += four[u];
    lefts = 0;
  };
  for (const Block& block : layer.blocks) {
    if (block.dense) {
      const int width = block.inputs();
      in_steps<UNITS>(block.unit, block.unit_end, [&](auto n, int r) {
        constexpr int U = decltype(n)::value;
        in_steps<COLUMNS>(0, (width + WIDTH - 1) / WIDTH, [&](auto m, int j) {
          constexpr int C = decltype(m)::value;
          Vector sum[U][C] = {};
          tile<U, C>(dz + (size_t)r * LANES, LANES, 1, by_example + block.input + (size_t)j * WIDTH, stride, LANES, sum);
          for (int u = 0; u < U; u++)
            for (int c = 0; c < C; c++) ((Vector*)(rows + u * stride))[j + c] = sum[u][c];
        });
        for (int u = 0; u < U; u++) {
          float* to = dtheta + layer.first[r + u];
          const float* row = rows + u * stride;
          if (block.full) {
            for (int i = 0; i < width; i++) to[i] += row[i];
          } else {
            const int32_t* column = net.column + layer.first[r + u];
            const int count = layer.first[r + u + 1] - layer.first[r + u];
            for (int k = 0; k < count; k++) to[k] += row[column[k] - block.input];
          }
        }
      });
    } else {
      for (int r = block.unit; r < block.unit_end; r++) {
        int k = layer.first[r];
        const int end = layer.first[r + 1];
        if (k == end) continue;
        const Vector* out = (const Vector*)(dz + (size_t)r * LANES);
        Vector d[VECTORS];
        for (int j = 0; j < VECTORS; j++) d[j] = out[j];
        for (; k + 4 <= end; k += 4) {
          Vector p[4];
#pragma GCC unroll 4
          for (int u = 0; u < 4; u++) p[u] = product(d, x + (size_t)net.column[k + u] * LANES);
          *(Four*)(dtheta + k) += sums(p[0], p[1], p[2], p[3]);
        }
        for (; k < end; k++) {
          left[lefts] = product(d, x + (size_t)net.column[k] * LANES);
          places[lefts] = k;
          if (++lefts == 4) add_left();
        }
      }
    }
  }
  if (lefts) add_left();
}

// Not by a deduced type: that is aligned as the processor's vectors are, which rows need not be.
LTH_INLINE Vector& at(float* rows, int r, int j) { return ((Vector*)(rows + (size_t)r * LANES))[j]; }

// Layer normalization of each group of units (Ba et al. 2016): z = (z - mean) / sqrt(variance + EPSILON), y = relu(scale z + shift);
// `deviation` gets the reciprocal of the root, a row a group.
inline void norm_forward(const Layer& layer, const float* theta, float* z, float* y, float* deviation) {
  for (int g = 0; g < layer.groups; g++) {
    const int begin = layer.group[g], end = layer.group[g + 1];
    for (int j = 0; j < VECTORS; j++) {
      Vector sum = {}, squares = {};
      for (int r = begin; r < end; r++) sum += at(z, r, j);
      const Vector mean = sum / (float)(end - begin);
      for (int r = begin; r < end; r++) squares += (at(z, r, j) - mean) * (at(z, r, j) - mean);
      const Vector reciprocal = 1.0f / square_root(squares / (float)(end - begin) + EPSILON);
      at(deviation, g, j) = reciprocal;
      for (int r = begin; r < end; r++) {
        const float scale = layer.scale[r] < 0 ? 0.0f : theta[layer.scale[r]];
        const float shift = layer.shift[r] < 0 ? 0.0f : theta[layer.shift[r]];
        const Vector normal = (at(z, r, j) - mean) * reciprocal, out = normal * scale + shift;
        at(z, r, j) = normal;
        at(y, r, j) = out <= 0 ? Vector{} : out;
      }
    }
  }
}

// The gradient by the rows before normalization, in the place of that by the rows before the ReLU; and by scale and shift.
inline void norm_backward(const Layer& layer, const float* theta, const float* normal, const float* deviation, float* d,
                          float* dtheta) {
  for (int g = 0; g < layer.groups; g++) {
    const int begin = layer.group[g], end = layer.group[g + 1];
    if (dtheta) {
      for (int r = begin; r < end; r++) {
        Vector by_scale[VECTORS];
        for (int j = 0; j < VECTORS; j++) by_scale[j] = at(d, r, j) * ((const Vector*)(normal + (size_t)r * LANES))[j];
        if (layer.scale[r] >= 0) dtheta[layer.scale[r]] += sum_of(by_scale);
        if (layer.shift[r] >= 0) dtheta[layer.shift[r]] += sum_of((const Vector*)(d + (size_t)r * LANES));
      }
    }
    for (int j = 0; j < VECTORS; j++) {
      auto normal_at = [&](int r) { return ((const Vector*)(normal + (size_t)r * LANES))[j]; };
      Vector sum = {}, with_normal = {};
      for (int r = begin; r < end; r++) {
        at(d, r, j) *= layer.scale[r] < 0 ? 0.0f : theta[layer.scale[r]];
        sum += at(d, r, j);
        with_normal += at(d, r, j) * normal_at(r);
      }
      const float count = end - begin;
      const Vector reciprocal = ((const Vector*)(deviation + (size_t)g * LANES))[j];
      for (int r = begin; r < end; r++)
        at(d, r, j) = reciprocal * (at(d, r, j) - sum / count - normal_at(r) * (with_normal / count));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Between examples and lanes

// Rows [start, start + LANES) of x (batch, features) to y (features, LANES); lanes beyond the batch are 0.
inline void to_lanes(const float* x, int batch, int features, int start, float* y) {
  const int rows = std::min(batch - start, LANES);
  if (rows < LANES) memset(y, 0, sizeof(float) * features * LANES);
  x += (size_t)start * features;
  int f = 0;
  for (; f + 4 <= features; f += 4) {
    int b = 0;
    for (; b + WIDTH <= rows; b += WIDTH) {
      Vector four[4];
      transpose(x + (size_t)b * features + f, features, four);
      for (int u = 0; u < 4; u++) *(Vector*)(y + (size_t)(f + u) * LANES + b) = four[u];
    }
    for (; b < rows; b++)
      for (int u = 0; u < 4; u++) y[(size_t)(f + u) * LANES + b] = x[(size_t)b * features + f + u];
  }
  for (; f < features; f++)
    for (int b = 0; b < rows; b++) y[(size_t)f * LANES + b] = x[(size_t)b * features + f];
}

// The inverse: y (features, LANES) to rows [start, start + LANES) of x (batch, features).
inline void from_lanes(const float* y, int batch, int features, int start, float* x) {
  const int rows = std::min(batch - start, LANES);
  for (int b = 0; b < rows; b++)
    for (int f = 0; f < features; f++) x[(size_t)(start + b) * features + f] = y[(size_t)f * LANES + b];
}

// x (features, LANES) to y (LANES, stride), with stride at least the number of features, rounded up to WIDTH; the rest is undefined.
inline void to_examples(const float* x, int features, size_t stride, float* y) {
  for (int f = 0; f < features; f += WIDTH)
    for (int b = 0; b < LANES; b += 4) {
      Vector four[4];
      if (f + WIDTH <= features) {
        transpose(x + (size_t)f * LANES + b, LANES, four);
      } else {
        for (int u = 0; u < 4; u++)
          for (int i = 0; i < WIDTH; i++) four[u][i] = f + i < features ? x[(size_t)(f + i) * LANES + b + u] : 0.0f;
      }
      for (int u = 0; u < 4; u++) *(Vector*)(y + (size_t)(b + u) * stride + f) = four[u];
    }
}

// Lanes beyond the batch are 0 in every row, because 0 times an infinite weight would be NaN.
inline void clear_lanes(float* rows, size_t count, int used) {
  if (used < LANES)
    for (size_t r = 0; r < count; r++) memset(rows + r * LANES + used, 0, sizeof(float) * (LANES - used));
}

// ---------------------------------------------------------------------------------------------------------------------
// All layers

// What is expanded from theta before a pass, for all threads: the matrices of dense blocks that are not full and, for a backward
// pass, the weights ordered by input.
struct Prepared {
  const float *theta, *expanded, *transposed;
};

inline Prepared prepare(const Network& net, const float* theta, bool backward, bool first_layer) {
  float* expanded = scratch<0>(net.expanded + (backward && net.sparse ? net.weights : 0));
  float* transposed = expanded + net.expanded;
  for (const Layer& layer : net.layers)
    for (const Block& block : layer.blocks) {
      if (!block.dense || block.full) continue;
      float* to = expanded + block.place;
      memset(to, 0, sizeof(float) * block.units() * block.inputs());
      for (int r = block.unit; r < block.unit_end; r++, to += block.inputs())
        for (int k = layer.first[r]; k < layer.first[r + 1]; k++) to[net.column[k] - block.input] = theta[k];
    }
  if (backward)
    for (size_t l = first_layer ? 0 : 1; l < net.layers.size(); l++) {
      const Layer& layer = net.layers[l];
      if (!layer.sparse) continue;
      for (int k = layer.into[0]; k < layer.into[layer.inputs]; k++) transposed[k] = theta[net.where[k]];
    }
  return {theta, expanded, transposed};
}

// The scratch of one thread for one block of examples.
struct Work {
  float *in, *out, *between[2], *values, *by_example, *rows;
  size_t stride;
};

inline Work work(const Network& net, bool values) {
  const size_t longest = (size_t)net.longest * LANES, ends = (size_t)(net.inputs() + net.outputs()) * LANES;
  const size_t stride = net.longest + 2 * WIDTH;
  const size_t dense = net.widest ? (LANES + UNITS) * stride : 0;
  float* at = scratch<1>(ends + 2 * longest + dense + (values ? net.kept_rows * LANES : 0));
  Work w;
  w.in = at;
  w.out = at + (size_t)net.inputs() * LANES;
  w.between[0] = at + ends;
  w.between[1] = w.between[0] + longest;
  w.by_example = w.between[1] + longest;
  w.rows = w.by_example + (dense ? LANES * stride : 0);
  w.values = w.by_example + dense;
  w.stride = stride;
  return w;
}

// From the rows `w.in` to the rows `w.out`; `used` lanes are examples. A normalized network needs `values`.
inline void block_forward(const Network& net, const Prepared& p, const Work& w, int used, float* values, Bits* signs) {
  const float* from = w.in;
  for (size_t l = 0; l < net.layers.size(); l++) {
    const Layer& layer = net.layers[l];
    const bool last = l + 1 == net.layers.size();
    const size_t rows = (size_t)layer.outputs * LANES;
    float* to = last ? w.out : values ? values : w.between[l % 2];
    if (layer.groups) {
      float* normal = values + rows;
      layer_forward(net, layer, p.theta, p.expanded, from, normal, false, nullptr);
      norm_forward(layer, p.theta, normal, to, normal + rows);
      clear_lanes(normal, layer.outputs, used);
    } else {
      layer_forward(net, layer, p.theta, p.expanded, from, to, !last, last ? nullptr : signs);
    }
    clear_lanes(to, layer.outputs, used);
    if (!last && values) values += rows * (net.normed ? 2 : 1) + (size_t)layer.groups * LANES;
    if (!last && signs) signs += (size_t)layer.outputs * VECTORS;
    from = to;
  }
}

// From the gradient by the outputs, `w.out`, to that by the inputs [begin, end), which is returned, and by theta, which is added to
// `dtheta`, if it is given.
inline const float* block_backward(const Network& net, const Prepared& p, const Work& w, int used, const float* values,
                                   const Bits* signs, int begin, int end, float* dtheta) {
  float* dz = w.out;
  size_t row = net.kept_rows;
  for (size_t l = net.layers.size(); l-- > 0;) {
    const Layer& layer = net.layers[l];
    const float* before = nullptr;  // the values of the layer before
    const Bits* signs_before = nullptr;
    if (l > 0) {
      row -= (size_t)layer.inputs * (net.normed ? 2 : 1) + net.layers[l - 1].groups;
      if (values) before = values + row * LANES;
      if (signs) signs_before = signs + row * VECTORS;
    }
    if (dtheta) {
      const float* x = l > 0 ? before : w.in;
      if (layer.dense) to_examples(x, layer.inputs, w.stride, w.by_example);
      layer_gradient(net, layer, dz, x, w.by_example, w.stride, w.rows, dtheta);
    }
    if (l > 0 || begin < end) {
      float* to = w.between[l % 2];
      layer_backward(net, layer, p.theta, p.expanded, p.transposed, dz, to, l > 0 ? 0 : begin, l > 0 ? layer.inputs : end,
                     signs_before, before);
      if (l > 0) clear_lanes(to, layer.inputs, used);
      if (l > 0 && net.layers[l - 1].groups) {
        const float* normal = before + (size_t)layer.inputs * LANES;
        norm_backward(net.layers[l - 1], p.theta, normal, normal + (size_t)layer.inputs * LANES, to, dtheta);
        clear_lanes(to, layer.inputs, used);
      }
      dz = to;
    }
  }
  return dz;
}

// Calls f(block, gradient) for each block of a batch, on the pool's threads. `gradient` is where that block's part of the
// gradient is added; the parts are added to `dtheta` in block order, for any number of threads.
template <typename F>
inline void sum_over_blocks(const Network& net, int batch, float* dtheta, const F& f) {
  const int blocks = blocks_of(batch), chunks = std::min(blocks, CHUNKS);
  const int threads = std::max(1, std::min(pool().threads(), chunks));
  if (!dtheta) {
    pool().run(threads, [&](int t) {
      for (int b = t * blocks / threads; b < (t + 1) * blocks / threads; b++) f(b, (float*)nullptr);
    });
    return;
  }
  const size_t count = net.parameters;
  if (chunks == 0) memset(dtheta, 0, sizeof(float) * count);
  // The first thread adds its chunks to the sum at once; those of other threads wait in buffers.
  const int first = chunks / threads;
  float* const places = scratch<2>(count * (chunks - first + 1));
  auto place = [&](int chunk) { return chunk == 0 ? dtheta : places + count * std::max(0, chunk - first + 1); };
  auto add = [&](float* to, const float* from, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) to[i] += from[i];
  };
  pool().run(threads, [&](int t) {
    for (int c = t * chunks / threads; c < (t + 1) * chunks / threads; c++) {
      // A chunk of one block is added to the sum directly, without a buffer: the additions are the same.
      const bool direct = t == 0 && c > 0 && blocks == chunks;
      float* to = direct ? dtheta : t == 0 && c > 0 ? places : place(c);
      if (!direct) memset(to, 0, sizeof(float) * count);
      for (int b = c * blocks / chunks; b < (c + 1) * blocks / chunks; b++) f(b, to);
      if (t == 0 && c > 0 && !direct) add(dtheta, places, 0, count);
    }
  });
  constexpr size_t PIECE = 2048;  // stays in the first cache from chunk to chunk
  if (threads > 1)
    pool().run(threads, [&](int t) {
      const size_t end = (t + 1) * count / threads;
      for (size_t i = t * count / threads; i < end; i += PIECE)
        for (int c = first; c < chunks; c++) add(dtheta, place(c), i, std::min(i + PIECE, end));
    });
}

inline int used_lanes(int batch, int block) { return std::min(batch - block * LANES, LANES); }

// y (batch, outputs) = network(x (batch, inputs)); `kept` has room for `kept_bytes_a_block` a block.
inline void forward(const Network& net, const float* theta, const float* x, int batch, Keep keep, float* y, void* kept) {
  const Prepared p = prepare(net, theta, false, false);
  const size_t bytes = kept_bytes_a_block(net, keep);
  sum_over_blocks(net, batch, nullptr, [&](int block, float*) {
    const Work w = work(net, net.normed);
    char* at = (char*)kept + block * bytes;
    to_lanes(x, batch, net.inputs(), block * LANES, w.in);
    block_forward(net, p, w, used_lanes(batch, block), keep == VALUES ? (float*)at : net.normed ? w.values : nullptr,
                  keep == SIGNS ? (Bits*)at : nullptr);
    from_lanes(w.out, batch, net.outputs(), block * LANES, y);
  });
}

// The gradients of sum(dy * network(x)) by the inputs [begin, end) of x, to dx (batch, end - begin), and by theta, if
// `dtheta` is given. The latter, and a normalized network, need VALUES.
inline void backward(const Network& net, const float* theta, const float* x, int batch, const float* dy, Keep keep,
                     const void* kept, int begin, int end, float* dx, float* dtheta) {
  const Prepared p = prepare(net, theta, true, begin < end);
  const size_t bytes = kept_bytes_a_block(net, keep);
  sum_over_blocks(net, batch, dtheta, [&](int block, float* gradient) {
    const Work w = work(net, false);
    const char* at = (const char*)kept + block * bytes;
    to_lanes(dy, batch, net.outputs(), block * LANES, w.out);
    if (gradient) to_lanes(x, batch, net.inputs(), block * LANES, w.in);
    const float* d =
        block_backward(net, p, w, used_lanes(batch, block), keep == VALUES ? (const float*)at : nullptr,
                       keep == SIGNS ? (const Bits*)at : nullptr, begin, end, gradient);
    if (begin < end) from_lanes(d + (size_t)begin * LANES, batch, end - begin, block * LANES, dx);
  });
}

// y (outputs) = network(x (inputs)) for one example, as acting needs it.
inline void forward_one(const Network& net, const float* theta, const float* x, float* y) {
  float* const between[2] = {scratch<1>(2 * (size_t)net.longest), scratch<1>(2 * (size_t)net.longest) + net.longest};
  const float* from = x;
  for (size_t l = 0; l < net.layers.size(); l++) {
    const Layer& layer = net.layers[l];
    const bool last = l + 1 == net.layers.size();
    float* to = last ? y : between[l % 2];
    for (const Block& block : layer.blocks)
      for (int r = block.unit; r < block.unit_end; r++) {
        const int begin = layer.first[r], end = layer.first[r + 1];
        float sum[4] = {layer.bias[r] < 0 ? 0.0f : theta[layer.bias[r]]};  // four independent sums hide the latency
        int k = begin;
        if (block.full) {
          const float* at = from + block.input - begin;
          Vector p[4] = {};
          for (; k + 4 * WIDTH <= end; k += 4 * WIDTH)
            for (int u = 0; u < 4; u++) p[u] += *(const Vector*)(theta + k + u * WIDTH) * *(const Vector*)(at + k + u * WIDTH);
          const Four four = sums(p[0], p[1], p[2], p[3]);
          for (int u = 0; u < 4; u++) sum[u] += four[u];
          for (; k < end; k++) sum[0] += theta[k] * at[k];
        }
        for (; k + 4 <= end; k += 4)
          for (int u = 0; u < 4; u++) sum[u] += theta[k + u] * from[net.column[k + u]];
        for (; k < end; k++) sum[0] += theta[k] * from[net.column[k]];
        const float whole = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        to[r] = last || layer.groups || !(whole <= 0) ? whole : 0.0f;
      }
    for (int g = 0; g < layer.groups; g++) {
      const int begin = layer.group[g], end = layer.group[g + 1];
      float mean = 0.0f, squares = 0.0f;
      for (int r = begin; r < end; r++) mean += to[r] / (end - begin);
      for (int r = begin; r < end; r++) squares += (to[r] - mean) * (to[r] - mean);
      const float reciprocal = 1.0f / __builtin_sqrtf(squares / (end - begin) + EPSILON);
      for (int r = begin; r < end; r++) {
        const float scale = layer.scale[r] < 0 ? 0.0f : theta[layer.scale[r]];
        const float out = (to[r] - mean) * reciprocal * scale + (layer.shift[r] < 0 ? 0.0f : theta[layer.shift[r]]);
        to[r] = out <= 0 ? 0.0f : out;
      }
    }
    from = to;
  }
}

}  // namespace lth
