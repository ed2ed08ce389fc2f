// One chunk at a time: sent as it lies where the host can read the device's memory and nobody
// writes there, else from a slab that it has been copied to. So the transport, which lets go of
// slices when it likes, never keeps a request from writing.
//
// At its end the call waits for a copy or write in flight.
#include "server/get_call.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/frame.h"
#include "sage/v1/tensors.pb.h"
#include "server/errors.h"
#include "server/streaming_call.h"
#include "server/tensor_codec.h"
#include "server/tensor_lookup.h"

namespace sage::server {
namespace {

// Soon enough to find the request that writes ended.
constexpr std::chrono::milliseconds kRetryDelay{10};
// Slabs of a call that the transport may hold at a time: one on its way, one that it lets go late.
constexpr std::uint64_t kStagingSlabs = 2;

// What slices on their way to the transport may point into, beside the tensor itself. The transport
// lets go of them when it likes, long after the call where nothing else happens on the connection.
struct Staged {
  std::shared_ptr<const Account::Reservation> reservation;
  Slab slab;
};

// A slice of memory that lives as long as `owner`.
template <typename Owner>
grpc::Slice SliceOf(std::shared_ptr<Owner> owner, const std::byte* data, std::uint64_t size) {
  auto held = std::make_unique<std::shared_ptr<Owner>>(std::move(owner));
  return {const_cast<std::byte*>(data), size,
          [](void* raw) { delete static_cast<std::shared_ptr<Owner>*>(raw); }, held.release()};
}

class GetCall final : public StreamingCall<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  GetCall(AttentionCore& core, Caller caller, grpc::CallbackServerContext& context,
          const grpc::ByteBuffer& request)
      : StreamingCall(core, std::move(caller), context, "Get") {
    Step([&] { Fail(Begin(request)); });
    Watch();
  }

  void OnWriteDone(bool ok) override {
    Step([&] {
      writing_ = false;
      out_.Clear();
      if (!ok) Fail(record_.ClientLeft());
    });
  }

  void CheckStall(Clock::time_point now) override {
    Step([&] {
      if (!writing_ || !Stall(write_started_, now, "did not read")) return;
      context_.TryCancel();  // or the write would never end
    });
  }

 private:
  void GoOn() override {
    if (!Busy()) Fail(Continue());
  }
  bool Busy() const override { return writing_ || copying_; }
  void Release() override {
    tensor_.reset();
    access_.reset();  // others may write
    ticket_.reset();
  }

  const std::byte* data() const {
    if (tensor_->mask() == nullptr) return tensor_->data();
    return reinterpret_cast<const std::byte*>(tensor_->mask()->mask.bits().data());
  }
  std::uint64_t bytes() const {
    if (tensor_->mask() == nullptr) return tensor_->spec().bytes();
    return tensor_->mask()->mask.bits().size();
  }

  absl::Status Begin(const grpc::ByteBuffer& message) {
    v1::GetRequest request;
    grpc::ByteBuffer view(message);  // shares the slices; a parser wants a mutable buffer
    if (!grpc::SerializationTraits<v1::GetRequest>::Deserialize(&view, &request).ok()) {
      return absl::InvalidArgumentError("message: not a protobuf message of the expected type");
    }
    if (absl::Status open = core_.CheckOpen(); !open.ok()) return open;
    const TensorLookup tensors{core_.tensors, caller_.tenant.name(), core_.server_id};
    absl::StatusOr<TensorStore::Handle> found = tensors.Find(request.handle(), "handle");
    if (!found.ok()) return found.status();
    std::optional<ResidentTensor::Access> access = ResidentTensor::TryRead(found->tensor);
    if (!access.has_value()) {
      return WithRetryDelay(LimitReached("handle", "a request writes to this tensor"), kRetryDelay);
    }
    access_.emplace(*std::move(access));
    const TensorRole role = found->tensor->spec().role;
    const bool unified = found->tensor->device().backend().info().unified_memory;
    staged_ = role != TensorRole::kMask && (role == TensorRole::kOutput || !unified);
    absl::StatusOr<Admission::Ticket> ticket = core_.jobs.admission.Admit(
        staged_ ? kStagingSlabs * SlabPool::RoundUp(core_.chunk_bytes) : 0,
        found->tensor->device().memory(), 0);
    if (!ticket.ok()) return ticket.status();
    ticket_ = *std::move(ticket);
    // A drain that began meanwhile may have found nothing admitted, and then waits for nobody.
    if (absl::Status open = core_.CheckOpen(); !open.ok()) return open;
    tensor_ = std::move(found->tensor);

    v1::GetResponse response;
    ToProto(*tensor_, response.mutable_spec());
    Write(MakeFrame(response));
    return absl::OkStatus();
  }

  // The next chunk, or the end.
  absl::Status Continue() {
    if (sent_bytes_ == bytes()) {
      Decide(absl::OkStatus());
      return absl::OkStatus();
    }
    const std::byte* const from = data() + sent_bytes_;
    const std::uint64_t size = std::min(core_.chunk_bytes, bytes() - sent_bytes_);
    if (!staged_) {
      WriteChunk(SliceOf(tensor_, from, size));
      return absl::OkStatus();
    }
    absl::StatusOr<Slab> slab = core_.jobs.host_pool.Acquire(size);
    if (!slab.ok()) return slab.status();
    auto staged = std::make_shared<Staged>(Staged{ticket_->host, *std::move(slab)});
    std::byte* const to = staged->slab.data();
    copying_ = true;
    absl::Status status = tensor_->device().transfer().ToHost(
        to, from, size, [this, staged = std::move(staged), size](absl::Status copied) {
          Step([&] {
            copying_ = false;
            Fail(std::move(copied));
            if (!decided()) WriteChunk(SliceOf(staged, staged->slab.data(), size));
          });
        });
    if (!status.ok()) copying_ = false;
    return status;
  }

  void WriteChunk(grpc::Slice data) {
    v1::GetResponse response;
    response.mutable_chunk()->set_tensor(ToProto(tensor_->spec().role));
    response.mutable_chunk()->set_offset(sent_bytes_);
    sent_bytes_ += data.size();
    record_.OutputSent(data.size());
    Write(MakeFrame(response, std::move(data)));
  }

  void Write(grpc::ByteBuffer frame) {
    out_.Swap(&frame);
    writing_ = true;
    write_started_ = Clock::now();
    StartWrite(&out_);
  }

  // All guarded by the lock of steps.
  std::optional<ResidentTensor::Access> access_;
  std::optional<Admission::Ticket> ticket_;
  std::shared_ptr<ResidentTensor> tensor_;
  bool staged_ = false;  // sent from slabs
  std::uint64_t sent_bytes_ = 0;
  grpc::ByteBuffer out_;
  bool writing_ = false;  // a write is in flight
  Clock::time_point write_started_;
  bool copying_ = false;  // the transfer works for this call
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGetCall(AttentionCore& core, Caller caller,
                                                         grpc::CallbackServerContext& context,
                                                         const grpc::ByteBuffer& request) {
  return new GetCall(core, std::move(caller), context, request);  // deletes itself in OnDone()
}

}  // namespace sage::server
