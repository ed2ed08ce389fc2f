// The one operation that Highway 1.0 lacks: products of bytes, summed by fours into int32 lanes.
//
// A file that calls Dot4 wraps its per-target code in SAGE_BEFORE_DOT_NAMESPACE and
// HWY_AFTER_NAMESPACE, which allow the instructions that Highway's target does not name.
#if defined(SAGE_KERNELS_CPU_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAGE_KERNELS_CPU_DOT_INL_H_
#undef SAGE_KERNELS_CPU_DOT_INL_H_
#else
#define SAGE_KERNELS_CPU_DOT_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/vector-inl.h"

// Highway checks for AVX512-VNNI before it chooses AVX3_DL, but does not tell the compiler.
#undef SAGE_BEFORE_DOT_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
#define SAGE_BEFORE_DOT_NAMESPACE()                 \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni") \
  static_assert(true,                               \
                "For requiring trailing "           \
                ";")
#else
#define SAGE_BEFORE_DOT_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

SAGE_BEFORE_DOT_NAMESPACE();
namespace sage {
namespace HWY_NAMESPACE {

// sums[i] + sum over c of k[i][c] * q[i][c]: k unsigned bytes, q signed, c = 0..3. Exact.
HWY_INLINE VI32 Dot4(VI32 sums, VI32 k, VI32 q) {
#if HWY_TARGET == HWY_AVX3_DL
  return VI32{_mm512_dpbusd_epi32(sums.raw, k.raw, q.raw)};
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
  // As 16-bit lanes: VPMADDUBSW would saturate.
  const hn::Repartition<std::int16_t, DI32> di16;
  const auto k_even = hn::And(hn::BitCast(di16, k), hn::Set(di16, 0xff));
  const auto k_odd =
      hn::BitCast(di16, hn::ShiftRight<8>(hn::BitCast(hn::RebindToUnsigned<decltype(di16)>(), k)));
  const auto q_even = hn::ShiftRight<8>(hn::ShiftLeft<8>(hn::BitCast(di16, q)));
  const auto q_odd = hn::ShiftRight<8>(hn::BitCast(di16, q));
#if HWY_TARGET == HWY_AVX3
  const VI32 even{_mm512_madd_epi16(k_even.raw, q_even.raw)};
  const VI32 odd{_mm512_madd_epi16(k_odd.raw, q_odd.raw)};
#elif HWY_TARGET == HWY_AVX2
  const VI32 even{_mm256_madd_epi16(k_even.raw, q_even.raw)};
  const VI32 odd{_mm256_madd_epi16(k_odd.raw, q_odd.raw)};
#else
  const VI32 even{_mm_madd_epi16(k_even.raw, q_even.raw)};
  const VI32 odd{_mm_madd_epi16(k_odd.raw, q_odd.raw)};
#endif
  return hn::Add(sums, hn::Add(even, odd));
#else
  const DI32 d;
  const VI32 mask = hn::Set(d, 0xff);
  const auto signed_byte = [](VI32 x) { return hn::ShiftRight<24>(x); };
  const VI32 p0 = hn::Mul(hn::And(k, mask), signed_byte(hn::ShiftLeft<24>(q)));
  const VI32 p1 = hn::Mul(hn::And(hn::ShiftRight<8>(k), mask), signed_byte(hn::ShiftLeft<16>(q)));
  const VI32 p2 = hn::Mul(hn::And(hn::ShiftRight<16>(k), mask), signed_byte(hn::ShiftLeft<8>(q)));
  const VI32 p3 = hn::Mul(hn::And(hn::ShiftRight<24>(k), mask), signed_byte(q));
  return hn::Add(sums, hn::Add(hn::Add(p0, p1), hn::Add(p2, p3)));
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace sage
HWY_AFTER_NAMESPACE();

#endif  // SAGE_KERNELS_CPU_DOT_INL_H_
