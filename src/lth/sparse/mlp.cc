// The functions that XLA and Python call.
#include "kernel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;

static ffi::Error Forward(Floats x, Floats theta, ffi::Buffer<ffi::S32> pattern, ffi::ResultBuffer<ffi::F32> y,
                          ffi::ResultBuffer<ffi::U8> kept, int64_t keep) {
  const lth::Network net = lth::read_pattern(pattern.typed_data());
  lth::forward(net, theta.typed_data(), x.typed_data(), (int)x.dimensions()[0], (lth::Keep)keep, y->typed_data(),
               kept->typed_data());
  return ffi::Error::Success();
}

static ffi::Error Backward(Floats dy, Floats x, Floats theta, ffi::Buffer<ffi::S32> pattern, ffi::Buffer<ffi::U8> kept,
                           ffi::ResultBuffer<ffi::F32> dx, ffi::ResultBuffer<ffi::F32> dtheta, int64_t keep,
                           int64_t begin) {
  const lth::Network net = lth::read_pattern(pattern.typed_data());
  lth::backward(net, theta.typed_data(), x.typed_data(), (int)x.dimensions()[0], dy.typed_data(), (lth::Keep)keep,
                kept.typed_data(), (int)begin, (int)(begin + dx->dimensions()[1]), dx->typed_data(),
                dtheta->element_count() ? dtheta->typed_data() : nullptr);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_sparse_mlp_forward, Forward,
                              ffi::Ffi::Bind()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<Floats>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Attr<int64_t>("keep"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_sparse_mlp_backward, Backward,
                              ffi::Ffi::Bind()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Attr<int64_t>("keep")
                                  .Attr<int64_t>("begin"));

extern "C" void lth_sparse_threads(int threads) { lth::pool().resize(threads); }

extern "C" void lth_sparse_mlp_one(const int32_t* pattern, const float* theta, const float* x, float* y) {
  lth::forward_one(lth::read_pattern(pattern), theta, x, y);
}
