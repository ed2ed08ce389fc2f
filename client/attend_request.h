// What the client library asks and what it gets back.
#ifndef SAGE_CLIENT_ATTEND_REQUEST_H_
#define SAGE_CLIENT_ATTEND_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <variant>

#include "absl/time/time.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"

namespace sage {

class RemoteTensor;

// Tensors of a request that are at the server already: see Client::Put(). Borrowed until
// completion.
struct ResidentTensors {
  const RemoteTensor* q = nullptr;
  const RemoteTensor* k = nullptr;
  const RemoteTensor* v = nullptr;
  const RemoteTensor* mask = nullptr;
  const RemoteTensor* out = nullptr;

  bool any() const {
    return q != nullptr || k != nullptr || v != nullptr || mask != nullptr || out != nullptr;
  }
};

// None (every block), a mask made for the request's problem and borrowed until completion, or a
// formula that the server evaluates.
using RequestMask = std::variant<std::monostate, const BlockMask*, MaskPattern>;

// What makes int8 elements of spec `sage1` whole: those of kernels/quantize_tensor.h, or of anyone
// who keeps to the spec. Borrowed until completion.
struct Sage1Scales {
  const float* scales = nullptr;         // q: [B, Hq, Sq]; k: [B, Hkv, ceil(Sk/64)]
  const float* smoothing = nullptr;      // k: c, [B, Hkv, D]
  const float* dot_smoothing = nullptr;  // q, where lse is wanted: q . c of every row, [B, Hq, Sq]
};

// One attention. Tensors are whole, packed, in the problem's layout, and borrowed until completion.
struct AttendRequest {
  AttentionProblem problem;

  // Elements of problem.dtype, or fp32 where `float32_inputs` is set: those are converted on their
  // way, rounded to nearest even; a finite value that fp16 cannot hold is refused
  // (INVALID_ARGUMENT) when problem.dtype is fp16.
  const void* q = nullptr;  // [B, Hq, Sq, D] in HND, [B, Sq, Hq, D] in NHD
  const void* k = nullptr;  // the same with Hkv and Sk
  const void* v = nullptr;
  bool float32_inputs = false;
  // Quantises q and k here, by spec `sage1`, and sends int8: half of their bytes, and scales in the
  // header, which takes up to 2^21 query rows, all heads counted, or half as many with lse, of each
  // stripe. The answer's bits stay the same. Takes memory for the int8 copies, and time before the
  // first byte is sent, in the call itself also of AttendAsync. Not with Precision::kFp16, nor with
  // a resident q or k (INVALID_ARGUMENT).
  bool prequantize = false;
  // With `scales` set, q or k holds int8 that was quantised elsewhere. Limits are those of
  // `prequantize`, with which this does not go.
  Sage1Scales q_scales, k_scales;

  RequestMask mask;

  void* out = nullptr;   // q's shape and layout, elements of problem.output_dtype
  float* lse = nullptr;  // [B, Hq, Sq]; not null exactly where problem.return_lse is set

  // Each in place of q, k, v, mask or out, which then is null or none.
  ResidentTensors resident;

  // Chosen by the caller, up to 64 printable ASCII characters; empty: the server makes one.
  std::string request_id;
  int priority = 0;  // -10 to 10, larger first between requests of one tenant
  absl::Duration timeout = absl::ZeroDuration();  // zero: ClientOptions::default_timeout
  bool checksums = false;                         // send crc32c with each streamed chunk

  // Called on threads of the library, never at the same time as each other; must not block.
  // Units that came back wholly, of how many. An inline request is one unit.
  std::function<void(std::int64_t done, std::int64_t total)> on_unit_done;
  // Bytes [data, data + size) hold tensor elements that were sent from, or written to, and will
  // hardly be touched soon: an owner of mapped files may drop their pages. Pieces spread thinly
  // over a tensor, as some heads of an NHD one are, are not reported, since the next ones share
  // their pages.
  std::function<void(const void* data, std::size_t size)> on_range_done;
};

// Seconds that each stage took at the server. Stages of different units overlap.
struct StageSeconds {
  double recv = 0;
  double queue = 0;
  double h2d = 0;
  double prepare = 0;
  double kernel = 0;
  double d2h = 0;
  double send = 0;
  double total = 0;
};

struct AttendReport {
  std::string request_id;
  std::string server_id;  // empty for inline requests
  StageSeconds stages;
  double effective_tops = 0;    // over stages.kernel; skipped blocks count as done
  double block_density = 0;     // listed blocks over existing blocks
  std::uint64_t bytes_in = 0;   // payload to the server
  std::uint64_t bytes_out = 0;  // payload from the server
  double wall_seconds = 0;      // at the client, from call to completion
};

}  // namespace sage

#endif  // SAGE_CLIENT_ATTEND_REQUEST_H_
