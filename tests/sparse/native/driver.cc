// The kernel alone, without XLA, on the cases that tests/test_sparse.py writes: each is computed in every way that there is,
// with buffers that are exactly as long as they have to be, and compared with what NumPy computed in double precision.
//
// A file is cases one after the other: five int32 (batch, inputs, outputs, parameters, length of the table), the table, then
// float32: theta, x, dy, and as they should be y, dx and dtheta.
#include "../../../src/lth/sparse/kernel.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>

// On the heap and of its own, so that the sanitizer sees one step beyond either end.
template <typename T>
static std::unique_ptr<T[]> read(FILE* file, size_t count) {
  std::unique_ptr<T[]> data(new T[count]);
  if (fread(data.get(), sizeof(T), count, file) != count) {
    fprintf(stderr, "the file ends too early\n");
    exit(2);
  }
  return data;
}

static int failures = 0;

static void compare(const char* what, int number, const float* have, const float* want, size_t count) {
  float most = 0.0f, off = 0.0f;
  for (size_t i = 0; i < count; i++) {
    most = std::max(most, std::abs(want[i]));
    off = std::isfinite(have[i]) ? std::max(off, std::abs(have[i] - want[i])) : INFINITY;
  }
  if (off > 1e-5f * most) {
    fprintf(stderr, "case %d: %s is off by %g, of %g\n", number, what, off, most);
    failures++;
  }
}

static void check(FILE* file, int number, const int32_t* header) {
  const int batch = header[0], inputs = header[1], outputs = header[2], parameters = header[3];
  const auto table = read<int32_t>(file, header[4]);
  const auto theta = read<float>(file, parameters), x = read<float>(file, (size_t)batch * inputs);
  const auto dy = read<float>(file, (size_t)batch * outputs), y = read<float>(file, (size_t)batch * outputs);
  const auto dx = read<float>(file, (size_t)batch * inputs), dtheta = read<float>(file, parameters);
  const lth::Network net = lth::read_pattern(table.get());
  if (net.inputs() != inputs || net.outputs() != outputs || net.parameters != parameters ||
      (net.where + net.weights) - table.get() > header[4]) {
    fprintf(stderr, "case %d: the table is not the network's\n", number);
    failures++;
    return;
  }

  const auto have = std::unique_ptr<float[]>(new float[(size_t)batch * outputs]);
  const auto gradient = std::unique_ptr<float[]>(new float[parameters]);
  for (const lth::Keep keep : {lth::NOTHING, lth::SIGNS, lth::VALUES}) {
    const auto kept = std::unique_ptr<char[]>(new char[lth::kept_bytes_a_block(net, keep) * lth::blocks_of(batch)]);
    std::fill_n(have.get(), (size_t)batch * outputs, NAN);
    lth::forward(net, theta.get(), x.get(), batch, keep, have.get(), kept.get());
    compare("y", number, have.get(), y.get(), (size_t)batch * outputs);
    if (keep == lth::NOTHING || (net.normed && keep == lth::SIGNS)) continue;
    const int ranges[][2] = {{0, 0}, {0, inputs}, {0, inputs / 2}, {inputs / 2, inputs}, {inputs / 3, inputs / 2 + 1}};
    for (const auto& [begin, end] : ranges) {
      if (end > inputs) continue;
      const size_t width = end - begin;
      std::vector<float> wanted;
      for (int b = 0; b < batch; b++)
        wanted.insert(wanted.end(), &dx[(size_t)b * inputs] + begin, &dx[(size_t)b * inputs] + end);
      for (const bool by_theta : {false, true}) {
        if (by_theta && keep != lth::VALUES) continue;
        const auto part = std::unique_ptr<float[]>(new float[batch * width]);
        std::fill_n(part.get(), batch * width, NAN);
        std::fill_n(gradient.get(), parameters, NAN);
        lth::backward(net, theta.get(), x.get(), batch, dy.get(), keep, kept.get(), begin, end, part.get(),
                      by_theta ? gradient.get() : nullptr);
        compare("dx", number, part.get(), wanted.data(), batch * width);
        if (by_theta) compare("dtheta", number, gradient.get(), dtheta.get(), parameters);
      }
    }
  }
  for (int b = 0; b < batch; b++)
    lth::forward_one(net, theta.get(), &x[(size_t)b * inputs], have.get() + (size_t)b * outputs);
  compare("y of single examples", number, have.get(), y.get(), (size_t)batch * outputs);
}

int main(int count, char** arguments) {
  FILE* file = count == 3 ? fopen(arguments[1], "rb") : nullptr;
  if (!file) {
    fprintf(stderr, "usage: driver FILE THREADS\n");
    return 2;
  }
  lth::pool().resize(atoi(arguments[2]));
  int number = 0;
  for (int32_t header[5]; fread(header, sizeof(int32_t), 5, file) == 5; number++) {
    std::thread(check, file, number, header).join();  // each in a thread of its own, whose scratch memory is no longer than it needs
  }
  fclose(file);
  printf("%d cases, %d lanes, %d threads\n", number, lth::LANES, lth::pool().threads());
  lth::pool().resize(1);
  return failures ? 1 : 0;
}
