// One thing at a time: a message is read, its data is copied to the device, the next one is read.
//
//   OnReadDone -> spec: reserve memory, zero what the client does not send -> read on
//              -> chunk: copy it in                                       -> read on
//              -> half-close: publish, answer
//
// At its end the call waits for a copy in flight.
#include "server/put_call.h"

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

namespace sage::server {
namespace {

class PutCall final : public StreamingCall<grpc::ServerReadReactor<grpc::ByteBuffer>> {
 public:
  PutCall(AttentionCore& core, Caller caller, grpc::CallbackServerContext& context,
          grpc::ByteBuffer& response)
      : StreamingCall(core, std::move(caller), context, "Put"), response_(response) {
    Watch();
    Step([] {});  // begins to read
  }

  void OnReadDone(bool ok) override {
    Step([&] {
      reading_ = false;
      if (!ok) {
        reads_closed_ = true;
        Decide(context_.IsCancelled() ? record_.ClientLeft() : Complete());
      } else if (tensor_ == nullptr) {
        Fail(Begin());
      } else {
        Fail(ReceiveChunk());
      }
      in_.Clear();
    });
  }

  void CheckStall(Clock::time_point now) override {
    Step([&] {
      if (reading_) Stall(read_started_, now, "sent nothing");
    });
  }

 private:
  void GoOn() override { Read(); }
  bool Busy() const override { return copying_; }
  void Release() override {
    tensor_.reset();
    staging_.Reset();
    ticket_.reset();
  }

  void Read() {
    if (reading_ || reads_closed_ || copying_) return;
    reading_ = true;
    read_started_ = Clock::now();
    StartRead(&in_);
  }

  // What the transfer is told to do next; Read() goes on when it is over.
  template <typename Copy>
  absl::Status StartCopy(Copy copy) {
    copying_ = true;
    absl::Status status = copy([this](absl::Status copied) {
      Step([&] {
        copying_ = false;
        Fail(std::move(copied));
      });
    });
    if (!status.ok()) copying_ = false;
    return status;
  }

  bool unified() const { return tensor_->device().backend().info().unified_memory; }

  absl::Status Begin() {
    v1::PutRequest request;
    FrameData data;
    if (absl::Status status = ParseFrame(in_, &request, {&data, 1}); !status.ok()) return status;
    if (!request.has_spec()) return InvalidField("spec", "missing from the first message");
    if (request.has_chunk() || data.size > 0) {
      return InvalidField("chunk", "not allowed in the first message");
    }
    if (absl::Status open = core_.CheckOpen(); !open.ok()) return open;
    absl::StatusOr<PutSpec> spec = DecodePut(request, core_.max_mask_bytes);
    if (!spec.ok()) return spec.status();
    spec_ = *std::move(spec);
    if (!spec_.idempotency_key.empty()) {
      auto known = core_.tensors.FindByKey(caller_.tenant.name(), spec_);
      if (!known.ok()) return known.status();
      if (known->has_value()) {
        Answer(**known);
        Decide(absl::OkStatus());
        return absl::OkStatus();
      }
    }

    absl::StatusOr<std::shared_ptr<ResidentTensor>> tensor =
        core_.tensors.Reserve(caller_.tenant.name(), spec_);
    if (!tensor.ok()) return tensor.status();
    tensor_ = *std::move(tensor);
    const bool staged = !unified() && spec_.tensor.has_payload();
    const std::uint64_t staging_bytes =
        staged ? std::min(core_.max_chunk_bytes, spec_.tensor.bytes()) : 0;
    absl::StatusOr<Admission::Ticket> ticket =
        core_.jobs.admission.Admit(SlabPool::RoundUp(staging_bytes), tensor_->device().memory(), 0);
    if (!ticket.ok()) return ticket.status();
    ticket_ = *std::move(ticket);
    // A drain that began meanwhile may have found nothing admitted, and then waits for nobody.
    if (absl::Status open = core_.CheckOpen(); !open.ok()) return open;
    absl::StatusOr<Slab> staging = core_.jobs.host_pool.Acquire(staging_bytes);
    if (!staging.ok()) return staging.status();
    staging_ = *std::move(staging);

    // Nothing that another tenant left shows through: what is not sent is zeros.
    const std::uint64_t begin = spec_.tensor.has_payload() ? spec_.tensor.bytes() : 0;
    const std::uint64_t end = SlabPool::RoundUp(spec_.tensor.bytes());
    if (begin == end) return absl::OkStatus();
    return StartCopy([&](Transfer::Done done) {
      return tensor_->device().transfer().Zero(tensor_->data() + begin, end - begin,
                                               std::move(done));
    });
  }

  absl::Status ReceiveChunk() {
    v1::PutRequest request;
    FrameData data;
    if (absl::Status status = ParseFrame(in_, &request, {&data, 1}); !status.ok()) return status;
    if (request.has_spec()) return InvalidField("spec", "got a second one");
    if (!request.has_chunk()) return InvalidField("chunk", "missing");
    const v1::Chunk& chunk = request.chunk();
    const TensorSpec& spec = spec_.tensor;
    if (chunk.tensor() != ToProto(spec.role)) {
      return InvalidField("chunk.tensor", absl::StrCat("got ", static_cast<int>(chunk.tensor()),
                                                       ", allowed ", ToProto(spec.role)));
    }
    if (!spec.has_payload()) {
      return InvalidField("chunk", absl::StrCat("not allowed with role ", Name(spec.role)));
    }
    if (chunk.unit() != 0) {
      return InvalidField("chunk.unit", absl::StrCat("got ", chunk.unit(), ", allowed 0"));
    }
    if (chunk.offset() != received_bytes_) {
      return InvalidField("chunk.offset",
                          absl::StrCat("got ", chunk.offset(), ", allowed ", received_bytes_));
    }
    if (data.size == 0) return InvalidField("data", "got 0 bytes, allowed at least 1");
    if (data.size > core_.max_chunk_bytes) {
      return LimitReached(
          "server.max_chunk_bytes",
          absl::StrCat("got ", data.size, " bytes, the limit is ", core_.max_chunk_bytes));
    }
    if (data.size > spec.bytes() - received_bytes_) {
      return InvalidField("data",
                          absl::StrCat("got ", data.size, " bytes at offset ", received_bytes_,
                                       ", allowed at most ", spec.bytes() - received_bytes_));
    }
    std::byte* const target = tensor_->data() + received_bytes_;
    std::byte* const destination = unified() ? target : staging_.data();
    const std::uint32_t crc =
        FrameReader(in_, data).CopyTo({destination, data.size}, chunk.has_crc32c());
    if (chunk.has_crc32c() && crc != chunk.crc32c()) {
      return absl::DataLossError(absl::StrCat("chunk.crc32c: got ", chunk.crc32c(), " at offset ",
                                              chunk.offset(), ", but the data has ", crc));
    }
    record_.PayloadReceived(data.size);
    record_.PayloadCopied(data.size);
    received_bytes_ += data.size;
    if (destination == target) return absl::OkStatus();
    return StartCopy([&](Transfer::Done done) {
      return tensor_->device().transfer().ToDevice(target, destination, data.size, std::move(done));
    });
  }

  absl::Status Complete() {
    if (tensor_ == nullptr) return InvalidField("spec", "the stream ended before it");
    if (spec_.tensor.has_payload() && received_bytes_ < spec_.tensor.bytes()) {
      return InvalidField("data", absl::StrCat("the stream ended after ", received_bytes_, " of ",
                                               spec_.tensor.bytes(), " bytes"));
    }
    absl::StatusOr<TensorStore::Handle> handle =
        core_.tensors.Publish(caller_.tenant.name(), spec_, std::move(tensor_));
    if (!handle.ok()) return handle.status();
    Answer(*handle);
    return absl::OkStatus();
  }

  void Answer(const TensorStore::Handle& handle) {
    v1::PutResponse response;
    response.mutable_handle()->set_id(handle.id);
    response.mutable_handle()->set_server_id(core_.server_id);
    sage::server::ToProto(handle.lease, response.mutable_lease());
    response.set_stored_bytes(handle.tensor->stored_bytes());
    bool own_buffer = false;
    grpc::SerializationTraits<v1::PutResponse>::Serialize(response, &response_, &own_buffer);
  }

  grpc::ByteBuffer& response_;

  // All guarded by the lock of steps.
  PutSpec spec_;
  std::shared_ptr<ResidentTensor> tensor_;  // null until the spec was accepted, and after the end
  std::optional<Admission::Ticket> ticket_;
  Slab staging_;  // where the device cannot be written to by the host
  std::uint64_t received_bytes_ = 0;

  grpc::ByteBuffer in_;
  bool reading_ = false;       // a read is in flight
  bool reads_closed_ = false;  // the client has half-closed
  Clock::time_point read_started_;
  bool copying_ = false;  // the transfer works for this call
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartPutCall(AttentionCore& core, Caller caller,
                                                        grpc::CallbackServerContext& context,
                                                        grpc::ByteBuffer& response) {
  return new PutCall(core, std::move(caller), context, response);  // deletes itself in OnDone()
}

}  // namespace sage::server
