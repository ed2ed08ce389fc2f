// Vector operations that the CPU kernels share, compiled once for every target of Highway.
//
// Everything here is one IEEE operation at a time: the files that include this are compiled without
// contraction, and multiply-add is written where it is wanted.
#if defined(SAGE_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAGE_KERNELS_CPU_VECTOR_INL_H_
#undef SAGE_KERNELS_CPU_VECTOR_INL_H_
#else
#define SAGE_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/float16.h"

HWY_BEFORE_NAMESPACE();
namespace sage {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Whole rows are multiples of 16 floats, the widest vector used.
using DF32 = hn::CappedTag<float, 16>;
using VF32 = hn::Vec<DF32>;
using DI32 = hn::RebindToSigned<DF32>;
using VI32 = hn::Vec<DI32>;

inline constexpr std::int32_t kInfinityBits = 0x7f800000;

// Bits of |x|: their order is that of the magnitudes, with infinity and NaN on top.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> MagnitudeBits(D /*d*/, V x) {
  const hn::RebindToSigned<D> di;
  return hn::And(hn::BitCast(di, x), hn::Set(di, 0x7fffffff));
}

// 16-bit elements to float, exactly, as ToFloat() of float16.h does.
template <DType kDType, class D>
HWY_INLINE hn::Vec<D> Widen(D d, const std::uint16_t* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> du16;
  if constexpr (kDType == DType::kBFloat16) {
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(du16, from))));
  } else {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    const hn::Rebind<hwy::float16_t, D> df16;
    return hn::PromoteTo(d, hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(from)));
#else
    const auto bits = hn::PromoteTo(du, hn::LoadU(du16, from));
    const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000U)));
    const auto fraction = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fffU)));
    // Shifting into place scales the value by 2^-112; subnormals come out right as well.
    const auto value = hn::Mul(hn::BitCast(d, fraction), hn::Set(d, 0x1p112F));
    const auto special = hn::BitCast(d, hn::Or(fraction, hn::Set(du, 0x7f800000U)));
    const auto is_special = hn::Ge(value, hn::Set(d, 65536.0F));
    return hn::Or(hn::IfThenElse(is_special, special, value), hn::BitCast(d, sign));
#endif
  }
}

// Widens `count` elements, a multiple of 8, and pads with zeros to `padded`, a multiple of 16.
template <DType kDType>
HWY_INLINE void WidenRowOf(const std::uint16_t* from, std::int64_t count, std::int64_t padded,
                           float* to) {
  const DF32 d;
  const hn::CappedTag<float, 8> d8;
  constexpr std::int64_t kLanes = hn::MaxLanes(d);
  constexpr std::int64_t kLanes8 = hn::MaxLanes(d8);
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(Widen<kDType>(d, from + i), d, to + i);
  for (; i < count; i += kLanes8) hn::StoreU(Widen<kDType>(d8, from + i), d8, to + i);
  for (; i < padded; i += kLanes8) hn::StoreU(hn::Zero(d8), d8, to + i);
}

HWY_INLINE void WidenRow(DType dtype, const std::uint16_t* from, std::int64_t count,
                         std::int64_t padded, float* to) {
  if (dtype == DType::kFloat16) {
    WidenRowOf<DType::kFloat16>(from, count, padded, to);
  } else {
    WidenRowOf<DType::kBFloat16>(from, count, padded, to);
  }
}

// Float to 16 bits, round to nearest even, NaN kept, as float16.h does.
template <DType kDType, class D>
HWY_INLINE void Narrow(D d, hn::Vec<D> x, std::uint16_t* to) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<std::uint16_t, D> du16;
  if constexpr (kDType == DType::kBFloat16) {
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::BitCast(du, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffU)));
    const auto quiet = hn::Or(bits, hn::Set(du, 0x400000U));
    const auto is_nan = hn::RebindMask(du, hn::Gt(MagnitudeBits(d, x), hn::Set(di, kInfinityBits)));
    const auto upper = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
    hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di, upper)), du16, to);
  } else {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    const hn::Rebind<hwy::float16_t, D> df16;
    hn::StoreU(hn::DemoteTo(df16, x), df16, reinterpret_cast<hwy::float16_t*>(to));
#else
    alignas(64) float lanes[hn::MaxLanes(d)];
    hn::Store(x, d, lanes);
    for (std::size_t i = 0; i < hn::MaxLanes(d); ++i) to[i] = ToFloat16(lanes[i]).bits;
#endif
  }
}

// 2^x for x <= 0 with a relative error below 1.7e-7; 0 below 2^-126; NaN for NaN. A little above 0,
// where rounding may leave x, it is right as well.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  const V magic = hn::Set(d, 12582912.0F);
  const V shifted = hn::Add(x, magic);
  const V f = hn::Sub(x, hn::Sub(shifted, magic));  // in [-0.5, 0.5]
  // Minimax polynomial with p(0) = 1.
  V p = hn::MulAdd(hn::Set(d, 1.32647238e-3F), f, hn::Set(d, 9.67151299e-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55073358e-2F));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40222424e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147004e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const V result = hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0F)), result);
}

// The e4m3 value nearest to x, ties to even, saturated to +-448, as a float. x is finite.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V RoundToE4m3(D d, V x) {
  const hn::RebindToUnsigned<D> du;
  const V clamped = hn::Min(hn::Max(x, hn::Set(d, -448.0F)), hn::Set(d, 448.0F));
  // From 2^-6 on, three fraction bits stay; the carry of rounding moves into the exponent.
  const auto bits = hn::BitCast(du, clamped);
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(du, 1U));
  const auto rounded =
      hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7ffffU))), hn::Set(du, 0xfff00000U));
  // Below, values are multiples of 2^-9: the unit in the last place of 1.5 * 2^14.
  const V magic = hn::Set(d, 24576.0F);
  const V subnormal = hn::Sub(hn::Add(clamped, magic), magic);
  return hn::IfThenElse(hn::Lt(hn::Abs(clamped), hn::Set(d, 0x1p-6F)), subnormal,
                        hn::BitCast(d, rounded));
}

// Codes of values that RoundToE4m3 gives, and back. Scaling by 2^-120 makes the exponent field of a
// float that of e4m3; subnormals of one are subnormals of the other.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void StoreE4m3(D d, V x, std::uint8_t* to) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto bits = hn::BitCast(di, hn::Mul(x, hn::Set(d, 0x1p-120F)));
  const auto magnitude = hn::ShiftRight<20>(hn::And(bits, hn::Set(di, 0x7fffffff)));
  const auto sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(di, 0x80));
  hn::StoreU(hn::DemoteTo(du8, hn::Or(magnitude, sign)), du8, to);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadE4m3(D d, const std::uint8_t* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto code = hn::PromoteTo(du, hn::LoadU(du8, from));
  const auto magnitude = hn::ShiftLeft<20>(hn::And(code, hn::Set(du, 0x7fU)));
  const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(du, 0x80U)));
  return hn::Or(hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p120F)), hn::BitCast(d, sign));
}

// One row of `count` floats, a multiple of 16, to int8: rint(x * r), clamped to +-127.
HWY_INLINE void QuantizeRow(const float* x, std::int64_t count, float r, std::int8_t* x8) {
  const DF32 d;
  const DI32 di;
  const hn::Rebind<std::int8_t, DF32> di8;
  for (std::int64_t i = 0; i < count; i += hn::MaxLanes(d)) {
    const VI32 rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, r)));
    const VI32 clamped = hn::Min(hn::Max(rounded, hn::Set(di, -127)), hn::Set(di, 127));
    hn::StoreU(hn::DemoteTo(di8, clamped), di8, x8 + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sage
HWY_AFTER_NAMESPACE();

#endif  // SAGE_KERNELS_CPU_VECTOR_INL_H_
