#include "tests/support/plain_client.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "grpcpp/generic/generic_stub.h"
#include "proto/wire/enums.h"

namespace sage::testing {
namespace {

// Which elements of a whole tensor a unit's piece holds: heads and rows of one batch entry.
struct Piece {
  Layout layout = Layout::kHnd;
  std::int64_t heads_in_all = 0, rows_in_all = 0;
  std::int64_t batch = 0, head_begin = 0, heads = 0, row_begin = 0, rows = 0;
  std::size_t row_bytes = 0;

  std::size_t bytes() const { return heads * rows * row_bytes; }
  // Where byte `offset` of the packed piece lies in the whole tensor.
  std::size_t InWhole(std::size_t offset) const {
    const auto index = static_cast<std::int64_t>(offset / row_bytes);
    const bool hnd = layout == Layout::kHnd;
    const std::int64_t head = head_begin + (hnd ? index / rows : index % heads);
    const std::int64_t row = row_begin + (hnd ? index % rows : index / heads);
    const std::int64_t place = hnd ? (batch * heads_in_all + head) * rows_in_all + row
                                   : (batch * rows_in_all + row) * heads_in_all + head;
    return place * row_bytes + offset % row_bytes;
  }
  // Calls visit(offset in the piece, offset in the whole, size) for bytes [begin, end) in order.
  template <typename Visit>
  void ForEachRow(std::size_t begin, std::size_t end, Visit visit) const {
    while (begin < end) {
      const std::size_t size = std::min(end - begin, row_bytes - begin % row_bytes);
      visit(begin, InWhole(begin), size);
      begin += size;
    }
  }
};

Piece PieceOf(const AttentionProblem& p, const v1::Unit& unit, v1::TensorRole role) {
  const bool kv = role == v1::TENSOR_ROLE_K || role == v1::TENSOR_ROLE_V;
  const std::int64_t group = kv ? 1 : p.num_heads_q / p.num_heads_kv;
  Piece piece;
  piece.layout = role == v1::TENSOR_ROLE_LSE ? Layout::kHnd : p.layout;
  piece.heads_in_all = kv ? p.num_heads_kv : p.num_heads_q;
  piece.rows_in_all = kv ? p.seqlen_k : p.seqlen_q;
  piece.batch = unit.batch();
  piece.head_begin = unit.kv_head_begin() * group;
  piece.heads = unit.kv_head_count() * group;
  piece.row_begin = kv ? 0 : unit.q_begin();
  piece.rows = kv ? p.seqlen_k : unit.q_count();
  piece.row_bytes = p.head_dim * SizeOf(role == v1::TENSOR_ROLE_OUTPUT ? p.output_dtype : p.dtype);
  if (role == v1::TENSOR_ROLE_LSE) piece.row_bytes = sizeof(float);
  return piece;
}

std::string Bytes(const std::vector<std::byte>& data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

}  // namespace

Sample MakeSample(const AttentionProblem& problem, std::uint64_t seed) {
  Sample sample{problem, MakeData(problem, DataKind::kNormal, seed), {}};
  sample.reference = Reference(problem, sample.data);
  return sample;
}

AttentionProblem SmallProblem() {
  AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 129;
  problem.seqlen_k = 65;
  problem.head_dim = 64;
  problem.return_lse = true;
  return problem;
}

v1::AttendHeader HeaderFor(const AttentionProblem& problem) {
  v1::AttendHeader header;
  v1::AttentionShape& shape = *header.mutable_shape();
  shape.set_batch(problem.batch);
  shape.set_num_heads_q(problem.num_heads_q);
  shape.set_num_heads_kv(problem.num_heads_kv);
  shape.set_seqlen_q(problem.seqlen_q);
  shape.set_seqlen_k(problem.seqlen_k);
  shape.set_head_dim(problem.head_dim);
  header.set_dtype(ToProto(problem.dtype));
  header.set_output_dtype(ToProto(problem.output_dtype));
  header.set_layout(problem.layout == Layout::kHnd ? v1::LAYOUT_HND : v1::LAYOUT_NHD);
  header.set_precision(ToProto(problem.precision));
  header.set_is_causal(problem.is_causal);
  header.set_return_lse(problem.return_lse);
  return header;
}

::testing::AssertionResult IsRight(const Sample& sample, const PoisonedOutput& output) {
  const AttentionProblem& problem = sample.problem;
  const Comparison comparison = Compare(problem, output, sample.reference);
  const double limit = RelativeL2Limit(problem.precision, problem.dtype);
  // Written so that NaN fails.
  if (!(comparison.out.relative_l2 <= limit)) {
    return ::testing::AssertionFailure()
           << "relative L2 " << comparison.out.relative_l2 << ", limit " << limit;
  }
  if (problem.return_lse && !(comparison.lse_error <= LseLimit(problem.precision))) {
    return ::testing::AssertionFailure() << "lse is off by " << comparison.lse_error;
  }
  return EmptyRowsAreExact(problem, output, sample.reference);
}

v1::AttendRequest UnaryRequest(const Sample& sample) {
  v1::AttendRequest request;
  *request.mutable_header() = HeaderFor(sample.problem);
  request.set_q(Bytes(sample.data.q));
  request.set_k(Bytes(sample.data.k));
  request.set_v(Bytes(sample.data.v));
  return request;
}

::testing::AssertionResult AttendsRightly(v1::Attention::Stub& stub, const Sample& sample) {
  grpc::ClientContext context;
  v1::AttendResponse response;
  const grpc::Status status = stub.Attend(&context, UnaryRequest(sample), &response);
  if (!status.ok()) {
    return ::testing::AssertionFailure() << status.error_code() << ": " << status.error_message();
  }
  PoisonedOutput output(sample.problem);
  const std::size_t lse_bytes =
      sample.problem.return_lse ? output.lse.size() * sizeof(float) : std::size_t{0};
  if (response.out().size() != output.out.size() || response.lse().size() != lse_bytes) {
    return ::testing::AssertionFailure() << "got " << response.out().size() << " bytes of output, "
                                         << response.lse().size() << " of lse";
  }
  std::memcpy(output.out.data(), response.out().data(), response.out().size());
  std::memcpy(output.lse.data(), response.lse().data(), lse_bytes);
  return IsRight(sample, output);
}

std::vector<v1::AttendStreamRequest> PayloadMessages(const Sample& sample,
                                                     const v1::Accepted& accepted,
                                                     std::size_t chunk_bytes) {
  struct Tensor {
    v1::TensorRole role;
    const std::vector<std::byte>& whole;
  };
  const Tensor tensors[] = {{v1::TENSOR_ROLE_Q, sample.data.q},
                            {v1::TENSOR_ROLE_K, sample.data.k},
                            {v1::TENSOR_ROLE_V, sample.data.v}};
  std::vector<v1::AttendStreamRequest> messages;
  for (int index = 0; index < accepted.units_size(); ++index) {
    const v1::Unit& unit = accepted.units(index);
    for (const Tensor& tensor : tensors) {
      const bool kv = tensor.role != v1::TENSOR_ROLE_Q;
      if (kv && static_cast<int>(unit.kv_unit()) != index) continue;
      const Piece piece = PieceOf(sample.problem, unit, tensor.role);
      for (std::size_t begin = 0; begin < piece.bytes(); begin += chunk_bytes) {
        v1::AttendStreamRequest message;
        message.mutable_chunk()->set_tensor(tensor.role);
        message.mutable_chunk()->set_unit(index);
        message.mutable_chunk()->set_offset(begin);
        std::string* const data = message.mutable_data();
        piece.ForEachRow(begin, std::min(begin + chunk_bytes, piece.bytes()),
                         [&](std::size_t, std::size_t in_whole, std::size_t size) {
                           data->append(
                               reinterpret_cast<const char*>(tensor.whole.data()) + in_whole, size);
                         });
        messages.push_back(std::move(message));
      }
    }
  }
  return messages;
}

PlainStream::PlainStream(v1::Attention::Stub& stub, const Sample& sample)
    : PlainStream(stub, sample, std::chrono::system_clock::now() + std::chrono::seconds(60)) {}

PlainStream::PlainStream(v1::Attention::Stub& stub, const Sample& sample,
                         std::chrono::system_clock::time_point deadline)
    : sample_(sample),
      stream_((context_.set_deadline(deadline), stub.AttendStream(&context_))),
      output_(sample.problem) {}

bool PlainStream::Open() { return Open(HeaderFor(sample_.problem)); }

bool PlainStream::Open(const v1::AttendHeader& header) {
  v1::AttendStreamRequest first;
  *first.mutable_header() = header;
  v1::AttendStreamResponse response;
  if (!stream_->Write(first) || !stream_->Read(&response) || !response.has_accepted()) return false;
  accepted_ = response.accepted();
  for (const v1::Unit& unit : accepted_.units()) {
    missing_bytes_.push_back(PieceOf(sample_.problem, unit, v1::TENSOR_ROLE_OUTPUT).bytes() +
                             (sample_.problem.return_lse
                                  ? PieceOf(sample_.problem, unit, v1::TENSOR_ROLE_LSE).bytes()
                                  : 0));
  }
  return true;
}

bool PlainStream::Receive() {
  v1::AttendStreamResponse response;
  if (!stream_->Read(&response)) return false;
  if (fault_.empty()) {
    const ::testing::AssertionResult placed = Place(response);
    if (!placed) fault_ = placed.message();
  }
  return true;
}

::testing::AssertionResult PlainStream::Place(const v1::AttendStreamResponse& response) {
  if (trailer_.has_value()) return ::testing::AssertionFailure() << "a message after the trailer";
  if (response.has_trailer()) {
    trailer_ = response.trailer();
    return ::testing::AssertionSuccess();
  }
  const v1::Chunk& chunk = response.chunk();
  if (!response.has_chunk() || chunk.unit() >= missing_bytes_.size()) {
    return ::testing::AssertionFailure() << "unexpected message " << response.ShortDebugString();
  }
  const bool lse = chunk.tensor() == v1::TENSOR_ROLE_LSE;
  const Piece piece =
      PieceOf(sample_.problem, accepted_.units(static_cast<int>(chunk.unit())), chunk.tensor());
  const std::string& data = response.data();
  const std::size_t end = chunk.offset() + data.size();
  if (data.empty() || end > piece.bytes() || data.size() > missing_bytes_[chunk.unit()]) {
    return ::testing::AssertionFailure() << "output out of range: " << chunk.ShortDebugString();
  }
  auto* const whole = lse ? reinterpret_cast<std::byte*>(output_.lse.data()) : output_.out.data();
  piece.ForEachRow(chunk.offset(), end,
                   [&](std::size_t in_piece, std::size_t in_whole, std::size_t size) {
                     std::memcpy(whole + in_whole, data.data() + (in_piece - chunk.offset()), size);
                   });
  missing_bytes_[chunk.unit()] -= data.size();
  return ::testing::AssertionSuccess();
}

bool PlainStream::UnitIsComplete(std::uint32_t unit) const { return missing_bytes_[unit] == 0; }

grpc::Status PlainStream::Finish() {
  while (Receive()) {
  }
  return stream_->Finish();
}

::testing::AssertionResult PlainStream::FinishesRightly() {
  const grpc::Status status = Finish();
  if (!status.ok()) {
    return ::testing::AssertionFailure() << status.error_code() << ": " << status.error_message();
  }
  if (!fault_.empty()) return ::testing::AssertionFailure() << fault_;
  if (!trailer_.has_value()) return ::testing::AssertionFailure() << "no trailer";
  return IsRight(sample_, output_);
}

::testing::AssertionResult StreamsRightly(v1::Attention::Stub& stub, const Sample& sample,
                                          std::size_t chunk_bytes) {
  PlainStream stream(stub, sample);
  if (!stream.Open()) {
    const grpc::Status status = stream.Finish();
    return ::testing::AssertionFailure() << status.error_code() << ": " << status.error_message();
  }
  std::thread writer([&] {
    for (const auto& message : PayloadMessages(sample, stream.accepted(), chunk_bytes)) {
      if (!stream.Send(message)) return;
    }
    stream.HalfClose();
  });
  ::testing::AssertionResult result = stream.FinishesRightly();
  writer.join();
  return result;
}

RawAnswer RawExchange(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::vector<std::string>& messages) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const auto call = stub.PrepareCall(&context, method, &queue);
  const auto completed = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  RawAnswer answer;
  call->StartCall(nullptr);
  bool open = completed();
  for (const std::string& message : messages) {
    if (!open) break;
    const grpc::Slice slice(message);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    open = completed();
  }
  if (open) {
    call->WritesDone(nullptr);
    completed();
  }
  grpc::ByteBuffer received;
  for (call->Read(&received, nullptr); completed(); call->Read(&received, nullptr)) {
    std::vector<grpc::Slice> slices;
    received.Dump(&slices);
    std::string& text = answer.messages.emplace_back();
    for (const grpc::Slice& slice : slices) {
      text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  call->Finish(&answer.status, nullptr);
  completed();
  queue.Shutdown();
  return answer;
}

}  // namespace sage::testing
