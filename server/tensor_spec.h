// What a resident tensor is: the checked form of a TensorSpec message.
#ifndef SAGE_SERVER_TENSOR_SPEC_H_
#define SAGE_SERVER_TENSOR_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace sage::server {

// Some heads of some batch entries of a tensor.
struct TensorRegion {
  std::int64_t batch_begin = 0;
  std::int64_t batch_count = 0;
  std::int64_t head_begin = 0;
  std::int64_t head_count = 0;

  bool Overlaps(const TensorRegion& other) const {
    return batch_begin < other.batch_begin + other.batch_count &&
           other.batch_begin < batch_begin + batch_count &&
           head_begin < other.head_begin + other.head_count &&
           other.head_begin < head_begin + head_count;
  }
  friend bool operator==(const TensorRegion&, const TensorRegion&) = default;
};

enum class TensorRole : std::uint8_t { kQ, kK, kV, kOutput, kMask };
const char* Name(TensorRole role);  // "q", "k", "v", "output", "mask"

// Shape of the problem that a mask is for.
struct MaskShape {
  std::int64_t batch = 1;
  std::int64_t num_heads_q = 1;
  std::int64_t num_heads_kv = 1;
  std::int64_t seqlen_q = 1;
  std::int64_t seqlen_k = 1;
  std::int64_t head_dim = 8;

  friend bool operator==(const MaskShape&, const MaskShape&) = default;
};

struct TensorSpec {
  TensorRole role = TensorRole::kQ;

  // All roles but masks: a packed tensor, [batch, num_heads, seqlen, head_dim] in HND.
  DType dtype = DType::kFloat16;
  Layout layout = Layout::kHnd;
  std::int64_t batch = 1;
  std::int64_t num_heads = 1;
  std::int64_t seqlen = 1;
  std::int64_t head_dim = 8;
  std::vector<Precision> precisions;  // those that k is kept prepared for; without repetition

  MaskShape mask_shape;  // masks only

  std::string placement_group;  // see Placements

  // Bytes of the elements, 0 for a mask.
  std::uint64_t bytes() const {
    return role == TensorRole::kMask ? 0 : head_bytes() * batch * num_heads;
  }
  std::uint64_t head_bytes() const { return seqlen * head_dim * SizeOf(dtype); }
  // Whether the elements come from the client; otherwise the server makes them.
  bool has_payload() const { return role != TensorRole::kOutput && role != TensorRole::kMask; }

  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSOR_SPEC_H_
