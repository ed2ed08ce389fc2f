// What PrepareKv leaves for the attention kernels: K packed in the order in which the score loops
// read it, and V as e4m3 where the precision asks for it.
#ifndef SAGE_KERNELS_CPU_PREPARED_KV_H_
#define SAGE_KERNELS_CPU_PREPARED_KV_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/backend.h"

namespace sage {

// Rows of channels that kernels work on are padded with zeros to whole vectors of up to 16 floats.
inline constexpr std::int64_t kChannelAlignment = 16;
constexpr std::int64_t PaddedHeadDim(std::int64_t head_dim) {
  return CeilDiv(head_dim, kChannelAlignment) * kChannelAlignment;
}

// K is stored as unsigned bytes x8 + 128, the operand that VPDPBUSD takes.
inline constexpr int kKeyBias = 128;
// Marks an element of V that was not finite.
inline constexpr std::uint8_t kE4m3NaN = 0x7f;
inline constexpr float kE4m3Max = 448.0F;

// One KV head. Blocks are 64 keys, of which those past the end are zero; Dp is PaddedHeadDim.
template <typename Byte>
struct PreparedHead {
  template <typename T>
  using Pointer = std::conditional_t<std::is_const_v<Byte>, const T*, T*>;

  Pointer<std::uint8_t> v_nonfinite;  // [blocks], 1 where the block of V has a non-finite element

  // INT8 precisions.
  Pointer<std::uint8_t> k8;  // [blocks, head_dim / 4, 64 keys, 4 channels], biased by kKeyBias
  Pointer<float> k_scales;   // [blocks], NaN where the block of K has a non-finite element
  Pointer<float> smoothing;  // [Dp], c of `sage1`

  // qk_int8_pv_fp8.
  Pointer<std::uint8_t> v8;  // [blocks, 64, Dp], e4m3 codes of (v - mean) / scale
  Pointer<float> v_scales;   // [Dp]
  Pointer<float> v_means;    // [Dp]

  // fp16.
  Pointer<std::uint16_t> k16;  // [blocks, head_dim, 64 keys], as given
};

// Where each array lies in the memory that PrepareKv writes, which is 64-byte aligned.
class PreparedKvLayout {
 public:
  explicit PreparedKvLayout(const KvTask& task);

  std::size_t bytes() const { return head_bytes_ * num_heads_; }

  template <typename Byte>
  PreparedHead<Byte> Head(Byte* prepared, std::int64_t head) const {
    Byte* const base = prepared + head * head_bytes_;
    const auto at = [base]<typename T>(T* /*type*/, std::size_t offset) {
      return reinterpret_cast<typename PreparedHead<Byte>::template Pointer<T>>(base + offset);
    };
    std::uint8_t* const u8 = nullptr;
    std::uint16_t* const u16 = nullptr;
    float* const f32 = nullptr;
    return {at(u8, v_nonfinite_), at(u8, k8_),        at(f32, k_scales_), at(f32, smoothing_),
            at(u8, v8_),          at(f32, v_scales_), at(f32, v_means_),  at(u16, k16_)};
  }

 private:
  std::size_t num_heads_;
  std::size_t head_bytes_ = 0;
  std::size_t v_nonfinite_ = 0, k8_ = 0, k_scales_ = 0, smoothing_ = 0;
  std::size_t v8_ = 0, v_scales_ = 0, v_means_ = 0, k16_ = 0;
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_PREPARED_KV_H_
