// A request as it travels: its tensors in the form that is sent, and its header.
#ifndef SAGE_CLIENT_INTERNAL_OUTGOING_REQUEST_H_
#define SAGE_CLIENT_INTERNAL_OUTGOING_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/attend_request.h"
#include "kernels/used_blocks.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {

// Where a part of a request begins in its whole tensors.
struct PartBegin {
  std::int64_t batch = 0;
  std::int64_t q_head = 0;
  std::int64_t kv_head = 0;
};

// A whole tensor to be sent.
struct OutgoingTensor {
  const std::byte* data = nullptr;
  std::int64_t element_bytes = 0;  // on the wire
  bool from_float32 = false;       // `data` holds fp32, to be converted on its way
  bool borrowed = true;            // the caller's memory
};

// Move-only; borrows the request's tensors, and holds what is made of them.
class OutgoingRequest {
 public:
  // Quantises q and k where the request, which has passed CheckRequest(), asks for it; leaves out
  // what no query reads where it is `streamed` and that pays. INVALID_ARGUMENT for a finite fp32
  // value that fp16 cannot hold.
  // `begin`: where the request is about a part of its resident tensors.
  static absl::StatusOr<OutgoingRequest> Make(AttendRequest request, bool streamed,
                                              const std::optional<PartBegin>& begin);
  OutgoingRequest(OutgoingRequest&&) = default;

  const AttendRequest& request() const { return request_; }
  const v1::AttendHeader& header() const { return header_; }
  OutgoingTensor tensor(v1::TensorRole role) const;  // Q, K or V
  // The blocks of keys that travel where the request is streamed and the server agrees; null: all.
  const UsedBlocks* used_blocks() const { return used_.get(); }

 private:
  explicit OutgoingRequest(AttendRequest request);
  absl::Status Quantize();
  void TakeScales();
  void LeaveOutUnused();

  AttendRequest request_;
  v1::AttendHeader header_;
  std::vector<std::int8_t> q8_, k8_;  // empty unless the request asks for them
  std::unique_ptr<const UsedBlocks> used_;
};

// Which of q and k travel as int8.
struct Int8Operands {
  bool q = false;
  bool k = false;
};
Int8Operands Int8Of(const AttendRequest& request);

// Bytes of scales in the header.
std::size_t ScaleBytes(const AttendRequest& request);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_OUTGOING_REQUEST_H_
