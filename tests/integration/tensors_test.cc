// Resident tensors, through ordinary stubs: what is put comes back and is attended to, until it is
// released or its lease ends, and not a byte of it stays afterwards.
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/block_lists.h"
#include "sage/v1/server.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "server/slab_pool.h"
#include "tests/support/discrete_backend.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

constexpr char kHandleText[] = "handle: no such tensor";

enum class DeviceMemory : std::uint8_t { kUnified, kDiscrete };

std::string Bytes(const std::vector<std::byte>& data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

class TensorsFixture : public FaultyServerFixture {
 protected:
  void Start(DeviceMemory memory = DeviceMemory::kUnified,
             const server::ServerOptions& options = TestServerOptions(), int devices = 1) {
    std::vector<std::unique_ptr<Backend>> backends;
    for (int i = 0; i < devices; ++i) {
      std::unique_ptr<Backend> backend = MakeFaultyBackend(TestBackend(), faults);
      if (memory == DeviceMemory::kDiscrete) {
        backend = std::make_unique<DiscreteBackend>(std::move(backend));
      }
      backends.push_back(std::move(backend));
    }
    StartServer(options, std::move(backends));
    const std::shared_ptr<grpc::Channel> channel = NewChannel();
    tensors_ = v1::Tensors::NewStub(channel);
    attention_ = v1::Attention::NewStub(channel);
    about_ = v1::Server::NewStub(channel);
  }

  // Nothing that is put outlives its test.
  void TearDown() override {
    v1::ReleaseRequest request;
    for (const v1::TensorHandle& handle : put_) *request.add_handles() = handle;
    Release(request);
    FaultyServerFixture::TearDown();
  }

  static v1::TensorSpec Spec(v1::TensorRole role, const AttentionProblem& problem) {
    const bool kv = role == v1::TENSOR_ROLE_K || role == v1::TENSOR_ROLE_V;
    const v1::AttendHeader header = HeaderFor(problem);
    v1::TensorSpec spec;
    spec.set_role(role);
    spec.set_dtype(header.dtype());
    spec.set_layout(header.layout());
    spec.set_batch(problem.batch);
    spec.set_num_heads(kv ? problem.num_heads_kv : problem.num_heads_q);
    spec.set_seqlen(kv ? problem.seqlen_k : problem.seqlen_q);
    spec.set_head_dim(problem.head_dim);
    return spec;
  }

  static v1::TensorSpec MaskSpec(const AttentionProblem& problem, const BlockMask& mask) {
    v1::TensorSpec spec;
    spec.set_role(v1::TENSOR_ROLE_MASK);
    *spec.mutable_mask_shape() = HeaderFor(problem).shape();
    v1::PackedBlockMask& packed = *spec.mutable_mask()->mutable_packed();
    packed.set_batch(mask.batch());
    packed.set_num_heads(mask.heads());
    packed.set_bits(mask.bits().data(), mask.bits().size());
    return spec;
  }

  struct PutAnswer {
    grpc::Status status;
    v1::PutResponse response;
  };

  PutAnswer Put(const v1::TensorSpec& spec, const std::string& data = {},
                const std::string& key = {}, std::size_t chunk_bytes = 1 << 20) {
    PutAnswer answer;
    grpc::ClientContext context;
    const auto writer = tensors_->Put(&context, &answer.response);
    v1::PutRequest first;
    *first.mutable_spec() = spec;
    first.set_idempotency_key(key);
    writer->Write(first);
    for (std::size_t at = 0; at < data.size(); at += chunk_bytes) {
      v1::PutRequest request;
      request.mutable_chunk()->set_tensor(spec.role());
      request.mutable_chunk()->set_offset(at);
      request.set_data(data.substr(at, chunk_bytes));
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    answer.status = writer->Finish();
    if (answer.status.ok()) put_.push_back(answer.response.handle());
    return answer;
  }

  v1::TensorHandle MustPut(const v1::TensorSpec& spec, const std::string& data = {},
                           std::size_t chunk_bytes = 1 << 20) {
    const PutAnswer answer = Put(spec, data, {}, chunk_bytes);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    return answer.response.handle();
  }

  // q, k and v of a sample.
  struct Operands {
    v1::TensorHandle q, k, v;
  };
  Operands MustPutAll(const Sample& sample) {
    return {MustPut(Spec(v1::TENSOR_ROLE_Q, sample.problem), Bytes(sample.data.q)),
            MustPut(Spec(v1::TENSOR_ROLE_K, sample.problem), Bytes(sample.data.k)),
            MustPut(Spec(v1::TENSOR_ROLE_V, sample.problem), Bytes(sample.data.v))};
  }

  struct GetAnswer {
    grpc::Status status;
    v1::TensorSpec spec;
    std::string data;
  };
  GetAnswer Get(const v1::TensorHandle& handle) {
    GetAnswer answer;
    grpc::ClientContext context;
    v1::GetRequest request;
    *request.mutable_handle() = handle;
    const auto reader = tensors_->Get(&context, request);
    v1::GetResponse response;
    while (reader->Read(&response)) {
      if (response.has_spec()) answer.spec = response.spec();
      if (response.has_chunk()) {
        EXPECT_EQ(response.chunk().offset(), answer.data.size());
      }
      answer.data += response.data();
    }
    answer.status = reader->Finish();
    return answer;
  }

  grpc::Status Stat(const v1::TensorHandle& handle, v1::StatResponse* response) {
    grpc::ClientContext context;
    v1::StatRequest request;
    *request.mutable_handle() = handle;
    return tensors_->Stat(&context, request, response);
  }
  grpc::Status Stat(const v1::TensorHandle& handle) {
    v1::StatResponse response;
    return Stat(handle, &response);
  }
  v1::StatResponse MustStat(const v1::TensorHandle& handle) {
    v1::StatResponse response;
    const grpc::Status status = Stat(handle, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  grpc::Status Renew(const std::vector<v1::TensorHandle>& handles, std::int64_t seconds,
                     v1::RenewResponse* response) {
    grpc::ClientContext context;
    v1::RenewRequest request;
    for (const v1::TensorHandle& handle : handles) *request.add_handles() = handle;
    request.mutable_lease()->set_seconds(seconds);
    return tensors_->Renew(&context, request, response);
  }

  v1::ReleaseResponse Release(const v1::ReleaseRequest& request) {
    grpc::ClientContext context;
    v1::ReleaseResponse response;
    const grpc::Status status = tensors_->Release(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  std::uint64_t Release(const v1::TensorHandle& handle) {
    v1::ReleaseRequest request;
    *request.add_handles() = handle;
    return Release(request).freed_bytes();
  }

  v1::Statistics Statistics() {
    grpc::ClientContext context;
    v1::Statistics statistics;
    EXPECT_TRUE(about_->GetStatistics(&context, {}, &statistics).ok());
    return statistics;
  }

  // The unary method on `request`, held against the oracle unless the output is resident.
  struct Answer {
    grpc::Status status;
    v1::AttendResponse response;
  };
  Answer Attend(const v1::AttendRequest& request) {
    Answer answer;
    grpc::ClientContext context;
    answer.status = attention_->Attend(&context, request, &answer.response);
    return answer;
  }

  static ::testing::AssertionResult Right(const Sample& sample, const std::string& out,
                                          const std::string& lse) {
    PoisonedOutput output(sample.problem);
    if (out.size() != output.out.size()) {
      return ::testing::AssertionFailure() << "output of " << out.size() << " bytes";
    }
    std::memcpy(output.out.data(), out.data(), out.size());
    if (lse.size() != output.lse.size() * sizeof(float)) {
      return ::testing::AssertionFailure() << "lse of " << lse.size() << " bytes";
    }
    std::memcpy(output.lse.data(), lse.data(), lse.size());
    return IsRight(sample, output);
  }

  // Waits for the lease of `handle` to end.
  void AwaitExpiry(const v1::TensorHandle& handle) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (Stat(handle).ok() && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::yield();
    }
    EXPECT_TRUE(IsError(Stat(handle), StatusCode::NOT_FOUND, kHandleText, Details::kNone));
  }

  const std::uint64_t seed_ = std::random_device()();
  const ::testing::ScopedTrace trace_{__FILE__, __LINE__, Describe(SmallProblem(), seed_)};
  const Sample sample_ = MakeSample(SmallProblem(), seed_);
  std::unique_ptr<v1::Tensors::Stub> tensors_;
  std::unique_ptr<v1::Attention::Stub> attention_;
  std::unique_ptr<v1::Server::Stub> about_;

 private:
  std::vector<v1::TensorHandle> put_;
};

class Tensors : public TensorsFixture, public ::testing::WithParamInterface<DeviceMemory> {};
INSTANTIATE_TEST_SUITE_P(Devices, Tensors,
                         ::testing::Values(DeviceMemory::kUnified, DeviceMemory::kDiscrete),
                         [](const auto& instance) {
                           return instance.param == DeviceMemory::kUnified ? "Unified" : "Discrete";
                         });

TEST_P(Tensors, ComeBackAsTheyWerePut) {
  Start(GetParam());
  for (const std::size_t chunk_bytes : {std::size_t{1000}, std::size_t{1} << 20}) {
    for (const auto& [role, data] : {std::pair(v1::TENSOR_ROLE_Q, Bytes(sample_.data.q)),
                                     std::pair(v1::TENSOR_ROLE_K, Bytes(sample_.data.k)),
                                     std::pair(v1::TENSOR_ROLE_V, Bytes(sample_.data.v))}) {
      v1::TensorSpec spec = Spec(role, sample_.problem);
      if (role == v1::TENSOR_ROLE_K) spec.add_precisions(v1::PRECISION_FP16);
      const v1::TensorHandle handle = MustPut(spec, data, chunk_bytes);
      EXPECT_EQ(handle.id().size(), 16u);
      const GetAnswer got = Get(handle);
      EXPECT_TRUE(got.status.ok()) << got.status.error_message();
      EXPECT_EQ(got.spec.SerializeAsString(), spec.SerializeAsString());
      EXPECT_TRUE(got.data == data);
      const v1::StatResponse stat = MustStat(handle);
      EXPECT_EQ(stat.spec().SerializeAsString(), spec.SerializeAsString());
      EXPECT_GE(stat.stored_bytes(), data.size());
      EXPECT_EQ(stat.generation(), 0u);
      EXPECT_GT(stat.lease_remaining().seconds(), 500);
      EXPECT_EQ(Release(handle), stat.stored_bytes());
      EXPECT_EQ(Release(handle), 0u);  // twice is not an error
    }
  }
}

TEST_P(Tensors, LargeOnesTravelInSeveralChunks) {
  Start(GetParam());
  AttentionProblem problem = SmallProblem();
  problem.seqlen_k = 20000;  // 5 MB
  const ProblemData data = MakeData(problem, DataKind::kNormal, seed_);
  const GetAnswer got =
      Get(MustPut(Spec(v1::TENSOR_ROLE_K, problem), Bytes(data.k), std::size_t{3} << 20));
  EXPECT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_TRUE(got.data == Bytes(data.k));
}

TEST_P(Tensors, MasksComeBackAsBits) {
  Start(GetParam());
  const BlockMask mask = *BlockMask::FromDense(sample_.problem, 1, 4,
                                               RandomDenseMask(sample_.problem, 1, 4, 0.5, seed_));
  const v1::TensorSpec spec = MaskSpec(sample_.problem, mask);
  const GetAnswer got = Get(MustPut(spec));
  ASSERT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_EQ(got.data, spec.mask().packed().bits());
  EXPECT_EQ(got.spec.mask().packed().num_heads(), 4);
  EXPECT_TRUE(got.spec.mask().packed().bits().empty());
  EXPECT_EQ(got.spec.mask_shape().SerializeAsString(), spec.mask_shape().SerializeAsString());
}

// K and V stay, Q travels: by either method the same bits as when all of it travels, again and
// again, for a third of the bytes.
TEST_P(Tensors, ServeAsKeysAndValues) {
  Start(GetParam());
  const v1::AttendRequest whole = UnaryRequest(sample_);
  const Answer want = Attend(whole);
  ASSERT_TRUE(want.status.ok()) << want.status.error_message();
  const Operands handles = MustPutAll(sample_);
  v1::AttendRequest request = whole;
  request.clear_k();
  request.clear_v();
  *request.mutable_header()->mutable_k()->mutable_handle() = handles.k;
  *request.mutable_header()->mutable_v()->mutable_handle() = handles.v;
  for (int round = 0; round < 3; ++round) {
    const Answer got = Attend(request);
    ASSERT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_TRUE(got.response.out() == want.response.out());
    EXPECT_TRUE(got.response.lse() == want.response.lse());
    EXPECT_EQ(got.response.trailer().bytes_in(), sample_.data.q.size());
    faults.prepares = 1000;  // the keys are kept as the first request prepared them
  }
  faults.prepares = 0;
  PlainStream stream(*attention_, sample_);
  ASSERT_TRUE(stream.Open(request.header()));
  for (const auto& message : PayloadMessages(sample_, stream.accepted(), 1 << 12)) {
    if (message.chunk().tensor() == v1::TENSOR_ROLE_Q) {
      ASSERT_TRUE(stream.Send(message));
    }
  }
  EXPECT_TRUE(stream.FinishesRightly());
  EXPECT_EQ(stream.trailer()->bytes_in(), sample_.data.q.size());
}

// Nothing but a header travels up; nothing but lse and the trailer comes back.
TEST_P(Tensors, ServeAsEveryOperandAndAsOutput) {
  Start(GetParam());
  const Operands handles = MustPutAll(sample_);
  const v1::TensorHandle out = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  const GetAnswer empty = Get(out);
  EXPECT_EQ(empty.data, std::string(sample_.data.q.size(), '\0'));

  v1::AttendRequest request;
  *request.mutable_header() = HeaderFor(sample_.problem);
  *request.mutable_header()->mutable_q()->mutable_handle() = handles.q;
  *request.mutable_header()->mutable_k()->mutable_handle() = handles.k;
  *request.mutable_header()->mutable_v()->mutable_handle() = handles.v;
  const Answer back = Attend(request);
  ASSERT_TRUE(back.status.ok()) << back.status.error_message();
  EXPECT_TRUE(Right(sample_, back.response.out(), back.response.lse()));
  EXPECT_EQ(back.response.trailer().bytes_in(), 0u);

  *request.mutable_header()->mutable_output()->mutable_handle() = out;
  const Answer unary = Attend(request);
  ASSERT_TRUE(unary.status.ok()) << unary.status.error_message();
  EXPECT_TRUE(unary.response.out().empty());
  EXPECT_TRUE(Right(sample_, Get(out).data, unary.response.lse()));
  EXPECT_EQ(MustStat(out).generation(), 1u);

  grpc::ClientContext context;
  const auto stream = attention_->AttendStream(&context);
  v1::AttendStreamRequest first;
  *first.mutable_header() = request.header();
  ASSERT_TRUE(stream->Write(first));
  v1::AttendStreamResponse response;
  std::string lse;
  while (stream->Read(&response)) {
    EXPECT_NE(response.chunk().tensor(), v1::TENSOR_ROLE_OUTPUT);
    lse += response.data();
  }
  EXPECT_TRUE(response.has_trailer());
  EXPECT_EQ(lse.size(), unary.response.lse().size());
  EXPECT_EQ(response.trailer().bytes_in(), 0u);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(Get(out).data == back.response.out());
  EXPECT_EQ(MustStat(out).generation(), 2u);
}

// Rows of a few bytes, which are gathered instead of being a slice of the answer each.
TEST_F(TensorsFixture, TinyInterleavedHeadsComeBackInOrder) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;  // a head each
  Start(DeviceMemory::kUnified, options);
  AttentionProblem problem = SmallProblem();
  problem.num_heads_q = 6;
  problem.num_heads_kv = 3;
  problem.head_dim = 8;
  problem.layout = Layout::kNhd;
  const Sample sample = MakeSample(problem, seed_);
  const Operands handles = MustPutAll(sample);
  v1::AttendRequest request;
  *request.mutable_header() = HeaderFor(problem);
  *request.mutable_header()->mutable_q()->mutable_handle() = handles.q;
  *request.mutable_header()->mutable_k()->mutable_handle() = handles.k;
  *request.mutable_header()->mutable_v()->mutable_handle() = handles.v;
  const std::uint64_t before = Statistics().payload_bytes_copied();
  const Answer answer = Attend(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(Right(sample, answer.response.out(), answer.response.lse()));
  EXPECT_EQ(Statistics().payload_bytes_copied() - before,
            answer.response.out().size() + answer.response.lse().size());
}

TEST_P(Tensors, ServeAsMask) {
  Start(GetParam());
  const BlockMask mask = *BlockMask::FromDense(sample_.problem, 1, 4,
                                               RandomDenseMask(sample_.problem, 1, 4, 0.5, seed_));
  const v1::TensorSpec spec = MaskSpec(sample_.problem, mask);
  v1::AttendRequest request = UnaryRequest(sample_);
  *request.mutable_header()->mutable_mask() = spec.mask();
  const Answer want = Attend(request);
  ASSERT_TRUE(want.status.ok()) << want.status.error_message();
  // An answer may be here before its request has given everything back.
  while (Statistics().host_bytes_reserved() != 0) std::this_thread::yield();
  *request.mutable_header()->mutable_mask()->mutable_handle() = MustPut(spec);
  // It counts with its lists, or with the copy of a device that has memory of its own.
  const bool discrete = GetParam() == DeviceMemory::kDiscrete;
  const std::uint64_t bytes = mask.bits().size() + (discrete ? 0 : BlockLists::Bytes(mask));
  EXPECT_EQ(Statistics().host_bytes_reserved(), bytes);
  EXPECT_EQ(Statistics().tensor_bytes(), server::SlabPool::RoundUp(bytes) * (discrete ? 2 : 1));
  for (int round = 0; round < 2; ++round) {
    const Answer got = Attend(request);
    ASSERT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_TRUE(got.response.out() == want.response.out());
    EXPECT_EQ(got.response.trailer().block_density(), want.response.trailer().block_density());
  }
}

// Prepared again for what is not kept: another v, another precision, lengths per entry.
TEST_P(Tensors, AreRightInEveryCompany) {
  Start(GetParam());
  const Operands handles = MustPutAll(sample_);
  Sample other = sample_;
  other.data.v = MakeData(sample_.problem, DataKind::kNormal, seed_ + 1).v;
  const v1::TensorHandle other_v =
      MustPut(Spec(v1::TENSOR_ROLE_V, sample_.problem), Bytes(other.data.v));
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kFp16, Precision::kQkInt8PvFp8}) {
    for (const bool lengths : {false, true}) {
      for (Sample* const sample : {&other, const_cast<Sample*>(&sample_)}) {
        Sample now{sample->problem, sample->data, {}};
        now.problem.precision = precision;
        if (lengths) now.problem.seqlens_k = {40};
        now.reference = Reference(now.problem, now.data);
        v1::AttendRequest request = UnaryRequest(now);
        if (lengths) request.mutable_header()->add_seqlens_k(40);
        request.clear_k();
        request.clear_v();
        *request.mutable_header()->mutable_k()->mutable_handle() = handles.k;
        *request.mutable_header()->mutable_v()->mutable_handle() =
            sample == &other ? other_v : handles.v;
        const Answer answer = Attend(request);
        ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_TRUE(Right(now, answer.response.out(), answer.response.lse()));
      }
    }
  }
}

TEST_P(Tensors, StayWhileARequestUsesThem) {
  Start(GetParam());
  for (const bool expire : {false, true}) {
    const Operands handles = MustPutAll(sample_);
    v1::AttendRequest request;
    *request.mutable_header() = HeaderFor(sample_.problem);
    *request.mutable_header()->mutable_q()->mutable_handle() = handles.q;
    *request.mutable_header()->mutable_k()->mutable_handle() = handles.k;
    *request.mutable_header()->mutable_v()->mutable_handle() = handles.v;
    HoldAttends();
    Answer answer;
    std::thread attend([&] { answer = Attend(request); });
    while (Statistics().requests_active() == 0) std::this_thread::yield();
    for (const v1::TensorHandle& handle : {handles.q, handles.k, handles.v}) {
      if (expire) {
        grpc::ClientContext context;
        v1::RenewRequest renew;
        *renew.add_handles() = handle;
        renew.mutable_lease()->set_nanos(1);
        v1::RenewResponse renewed;
        EXPECT_TRUE(tensors_->Renew(&context, renew, &renewed).ok());
        AwaitExpiry(handle);
      } else {
        EXPECT_GT(Release(handle), 0u);
      }
    }
    EXPECT_TRUE(IsError(Attend(request).status, StatusCode::NOT_FOUND,
                        "header.q.handle: no such tensor", Details::kNone));
    // What another tensor is given is not theirs.
    const v1::TensorHandle next = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
    ReleaseAttends();
    attend.join();
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_TRUE(Right(sample_, answer.response.out(), answer.response.lse()));
    EXPECT_EQ(Get(next).data, std::string(sample_.data.q.size(), '\0'));
    Release(next);
    EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  }
}

TEST_P(Tensors, EndWithTheirLease) {
  Start(GetParam());
  v1::TensorSpec spec = Spec(v1::TENSOR_ROLE_K, sample_.problem);
  spec.mutable_lease()->set_nanos(1);
  AwaitExpiry(MustPut(spec, Bytes(sample_.data.k)));
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  EXPECT_EQ(Statistics().tensor_leases_expired(), 1u);
}

// What a released tensor left in memory is not to be seen in the next one.
TEST_P(Tensors, BeginEmpty) {
  Start(GetParam());
  const v1::TensorSpec spec = Spec(v1::TENSOR_ROLE_Q, sample_.problem);
  for (int round = 0; round < 3; ++round) {
    Release(MustPut(spec, std::string(sample_.data.q.size(), '\x5a')));
    EXPECT_EQ(AwaitIdle(), server::Server::Held{});
    const v1::TensorHandle out = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
    EXPECT_EQ(Get(out).data, std::string(sample_.data.q.size(), '\0'));
    Release(out);
  }
}

TEST_F(TensorsFixture, RenewalsAreGrantedUpToTheLimit) {
  server::ServerOptions options = TestServerOptions();
  options.tensor_lease = std::chrono::seconds(20);
  options.tensor_max_lease = std::chrono::seconds(40);
  Start(DeviceMemory::kUnified, options);
  const PutAnswer put = Put(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  ASSERT_TRUE(put.status.ok());
  EXPECT_LE(put.response.lease().seconds(), 20);
  EXPECT_GE(put.response.lease().seconds(), 19);
  const v1::TensorHandle gone = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  Release(gone);
  v1::RenewResponse response;
  EXPECT_TRUE(IsError(Renew({gone, put.response.handle()}, 30, &response), StatusCode::NOT_FOUND,
                      "handles[0]: no such tensor", Details::kNone));
  EXPECT_GE(MustStat(put.response.handle()).lease_remaining().seconds(), 25);  // all the same
  EXPECT_TRUE(Renew({put.response.handle()}, 1000, &response).ok());
  EXPECT_EQ(response.lease().seconds(), 40);
  EXPECT_TRUE(IsError(Renew({put.response.handle()}, -1, &response), StatusCode::INVALID_ARGUMENT,
                      "lease: got -1 s and 0 ns, allowed a positive duration",
                      Details::kBadRequest));
  EXPECT_TRUE(IsError(Renew(std::vector<v1::TensorHandle>(1025, gone), 1, &response),
                      StatusCode::INVALID_ARGUMENT, "handles: got 1025, allowed at most 1024",
                      Details::kBadRequest));
}

TEST_F(TensorsFixture, APutWithTheSameKeyStoresNothing) {
  Start();
  const v1::TensorSpec spec = Spec(v1::TENSOR_ROLE_K, sample_.problem);
  const PutAnswer first = Put(spec, Bytes(sample_.data.k), "key");
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  const std::uint64_t stored = Statistics().tensor_bytes();
  for (const std::string& data : {Bytes(sample_.data.k), std::string()}) {
    const PutAnswer again = Put(spec, data, "key");
    ASSERT_TRUE(again.status.ok()) << again.status.error_message();
    EXPECT_EQ(again.response.handle().id(), first.response.handle().id());
    EXPECT_EQ(Statistics().tensor_bytes(), stored);
    EXPECT_EQ(Statistics().tensors(), 1u);
  }
  EXPECT_TRUE(IsError(Put(Spec(v1::TENSOR_ROLE_V, sample_.problem), {}, "key").status,
                      StatusCode::INVALID_ARGUMENT,
                      "idempotency_key: seen before with another spec", Details::kBadRequest));
  Release(first.response.handle());
  // The key went with its tensor.
  const PutAnswer anew = Put(spec, Bytes(sample_.data.k), "key");
  ASSERT_TRUE(anew.status.ok());
  EXPECT_NE(anew.response.handle().id(), first.response.handle().id());

  const auto mask = [&](double density) {
    return *BlockMask::FromDense(sample_.problem, 1, 4,
                                 RandomDenseMask(sample_.problem, 1, 4, density, seed_));
  };
  const PutAnswer masked = Put(MaskSpec(sample_.problem, mask(0)), {}, "mask");
  const PutAnswer masked_again = Put(MaskSpec(sample_.problem, mask(0)), {}, "mask");
  EXPECT_EQ(masked.response.handle().id(), masked_again.response.handle().id());
  EXPECT_EQ(Put(MaskSpec(sample_.problem, mask(1)), {}, "mask").status.error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST_F(TensorsFixture, AQuotaBoundsATenant) {
  server::ServerOptions options = TestServerOptions();
  options.tensor_memory_bytes = 80 << 10;
  Start(DeviceMemory::kUnified, options);
  const v1::TensorSpec spec = Spec(v1::TENSOR_ROLE_V, sample_.problem);  // 16640 bytes
  std::vector<v1::TensorHandle> handles;
  PutAnswer answer = Put(spec, Bytes(sample_.data.v));
  while (answer.status.ok()) {
    handles.push_back(answer.response.handle());
    answer = Put(spec, Bytes(sample_.data.v));
  }
  EXPECT_EQ(handles.size(), 4u);  // slabs of 20 KiB
  EXPECT_TRUE(IsError(answer.status, StatusCode::RESOURCE_EXHAUSTED,
                      "tenant.tensor_bytes: the request needs 20480, 81920 of 81920 are in use",
                      Details::kQuota));
  Release(handles.front());
  EXPECT_TRUE(Put(spec, Bytes(sample_.data.v)).status.ok());
  AttentionProblem large = sample_.problem;
  large.seqlen_q = 10000;
  EXPECT_TRUE(IsError(Put(Spec(v1::TENSOR_ROLE_OUTPUT, large)).status,
                      StatusCode::FAILED_PRECONDITION,
                      ::testing::MatchesRegex("tenant.tensor_bytes: the request needs .*, the "
                                              "limit is 81920"),
                      Details::kQuota));
}

// A reason never shows: who guesses learns nothing.
TEST_F(TensorsFixture, EveryUnknownHandleGetsTheSameAnswer) {
  Start();
  const v1::TensorHandle known = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  const v1::TensorHandle released = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  Release(released);
  v1::TensorHandle invented;
  invented.set_id(std::string(16, 'x'));
  v1::TensorHandle elsewhere = known;
  elsewhere.set_server_id("another");
  for (const v1::TensorHandle& handle : {released, invented, elsewhere}) {
    EXPECT_TRUE(IsError(Stat(handle), StatusCode::NOT_FOUND, kHandleText, Details::kNone));
    EXPECT_TRUE(IsError(Get(handle).status, StatusCode::NOT_FOUND, kHandleText, Details::kNone));
    EXPECT_EQ(Release(handle), 0u);
  }
  v1::TensorHandle malformed;
  malformed.set_id("abc");
  EXPECT_TRUE(IsError(Stat(malformed), StatusCode::INVALID_ARGUMENT,
                      "handle.id: got 3 bytes, allowed 16", Details::kBadRequest));
  EXPECT_TRUE(Stat(known).ok());
}

// Who comes over a Unix socket is the user that the kernel names, whatever the client says.
TEST_F(TensorsFixture, AUserOnAUnixSocketIsATenant) {
  server::ServerOptions options = TestServerOptions();
  const std::string socket =
      "unix:" + ::testing::TempDir() + "/sage_tenants_" + std::to_string(seed_) + ".sock";
  options.listen.push_back(socket);
  Start(DeviceMemory::kUnified, options);
  const v1::TensorSpec spec = Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem);
  const PutAnswer by_tcp = Put(spec, {}, "key");
  ASSERT_TRUE(by_tcp.status.ok());
  const v1::TensorHandle handle = by_tcp.response.handle();

  tensors_ = v1::Tensors::NewStub(grpc::CreateChannel(socket, grpc::InsecureChannelCredentials()));
  EXPECT_TRUE(IsError(Stat(handle), StatusCode::NOT_FOUND, kHandleText, Details::kNone));
  EXPECT_EQ(Release(handle), 0u);
  const PutAnswer by_socket = Put(spec, {}, "key");
  ASSERT_TRUE(by_socket.status.ok()) << by_socket.status.error_message();
  EXPECT_NE(by_socket.response.handle().id(), handle.id());
  EXPECT_GT(Release(by_socket.response.handle()), 0u);
  tensors_ = v1::Tensors::NewStub(NewChannel());
  EXPECT_TRUE(Stat(handle).ok());
}

TEST_F(TensorsFixture, OperandsMustBeWhatTheRequestSays) {
  Start();
  const Operands handles = MustPutAll(sample_);
  const auto refused = [&](auto set, const ::testing::Matcher<std::string>& message) {
    v1::AttendRequest request = UnaryRequest(sample_);
    set(request);
    EXPECT_TRUE(IsError(Attend(request).status, StatusCode::INVALID_ARGUMENT, message,
                        Details::kBadRequest));
  };
  refused(
      [&](v1::AttendRequest& r) { *r.mutable_header()->mutable_k()->mutable_handle() = handles.v; },
      "header.k.handle: got a tensor of role v, allowed k");
  refused(
      [&](v1::AttendRequest& r) {
        *r.mutable_header()->mutable_k()->mutable_handle() = handles.k;
        r.mutable_header()->mutable_shape()->set_seqlen_k(64);
      },
      "header.k.handle: got a tensor of batch 1, 2 heads, 65 tokens, head_dim 64, fp16, HND, "
      "allowed batch 1, 2 heads, 64 tokens, head_dim 64, fp16, HND");
  refused(
      [&](v1::AttendRequest& r) { *r.mutable_header()->mutable_k()->mutable_handle() = handles.k; },
      HasSubstr("k: got 16640 bytes, allowed 0"));  // not both
  refused(
      [&](v1::AttendRequest& r) {
        *r.mutable_header()->mutable_output()->mutable_handle() = handles.q;
      },
      "header.output.handle: got a tensor of role q, allowed output");
  AttentionProblem longer = sample_.problem;
  longer.seqlen_k = 640;
  const BlockMask mask =
      *BlockMask::FromDense(longer, 1, 4, RandomDenseMask(longer, 1, 4, 0.5, seed_));
  const v1::TensorHandle mask_handle = MustPut(MaskSpec(longer, mask));
  refused(
      [&](v1::AttendRequest& r) {
        *r.mutable_header()->mutable_mask()->mutable_handle() = mask_handle;
      },
      "header.mask.handle: got a mask of batch 1, 4 heads, seqlen_q 129, seqlen_k 640, allowed "
      "batch 1 or 1, 1 or 4 heads, seqlen_q 129, seqlen_k 65");
}

// Each head by a request of its own, on all of the tensors: together the whole answer.
TEST_P(Tensors, ServePartsOfWhatTheyAre) {
  Start(GetParam());
  v1::AttendRequest request = UnaryRequest(sample_);
  const Answer whole = Attend(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  const Operands handles = MustPutAll(sample_);
  v1::AttendHeader& header = *request.mutable_header();
  request.clear_q();
  request.clear_k();
  request.clear_v();
  *header.mutable_q()->mutable_handle() = handles.q;
  *header.mutable_k()->mutable_handle() = handles.k;
  *header.mutable_v()->mutable_handle() = handles.v;
  const AttentionProblem& problem = sample_.problem;
  ASSERT_EQ(problem.layout, Layout::kHnd);
  header.mutable_shape()->set_num_heads_q(1);
  header.mutable_shape()->set_num_heads_kv(1);
  std::string out;
  for (std::int64_t head = 0; head < problem.num_heads_q; ++head) {
    header.mutable_resident_part()->set_q_head_begin(head);
    header.mutable_resident_part()->set_kv_head_begin(head / problem.group_size());
    const Answer part = Attend(request);
    ASSERT_TRUE(part.status.ok()) << part.status.error_message();
    out += part.response.out();
  }
  EXPECT_TRUE(out == whole.response.out());
  const auto refused = [&](auto set, const std::string& message) {
    v1::AttendRequest bad = request;
    set(*bad.mutable_header()->mutable_resident_part());
    EXPECT_TRUE(IsError(Attend(bad).status, StatusCode::INVALID_ARGUMENT,
                        "header.resident_part" + message, Details::kBadRequest));
  };
  refused([](v1::ResidentPart& part) { part.set_q_head_begin(4); },
          ": got batch entries from 0, 1, and heads from 4, 1, of header.q.handle, which is a "
          "tensor of "
          "batch 1, 4 heads, 129 tokens, head_dim 64, fp16, HND");
  refused([](v1::ResidentPart& part) { part.set_kv_head_begin(-1); },
          ".kv_head_begin: got -1, allowed 0 to 2147483648");
  constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
  request = UnaryRequest(sample_);  // nor where no operand is resident
  refused([](v1::ResidentPart& part) { part.set_batch_begin(kFar); },
          ".batch_begin: got 9223372036854775807, allowed 0 to 2147483648");
}

TEST_F(TensorsFixture, OneRequestAtATimeWritesAnOutput) {
  Start();
  const v1::TensorHandle out = MustPut(Spec(v1::TENSOR_ROLE_OUTPUT, sample_.problem));
  v1::AttendRequest request = UnaryRequest(sample_);
  *request.mutable_header()->mutable_output()->mutable_handle() = out;
  HoldAttends();
  Answer first;
  std::thread attend([&] { first = Attend(request); });
  while (Statistics().requests_active() == 0) std::this_thread::yield();
  EXPECT_TRUE(
      IsError(Attend(request).status, StatusCode::RESOURCE_EXHAUSTED,
              "header.output.handle: another request writes this part of the tensor, or reads it",
              Details::kQuotaAndRetry));
  EXPECT_TRUE(IsError(Get(out).status, StatusCode::RESOURCE_EXHAUSTED,
                      "handle: a request writes to this tensor", Details::kQuotaAndRetry));
  ReleaseAttends();
  attend.join();
  EXPECT_TRUE(first.status.ok()) << first.status.error_message();
  EXPECT_TRUE(Right(sample_, Get(out).data, first.response.lse()));
}

TEST_F(TensorsFixture, EachGroupHasADevice) {
  Start(DeviceMemory::kUnified, TestServerOptions(), 2);
  const auto put = [&](v1::TensorRole role, const std::vector<std::byte>& data,
                       const std::string& group) {
    v1::TensorSpec spec = Spec(role, sample_.problem);
    spec.set_placement_group(group);
    return MustPut(spec, Bytes(data));
  };
  v1::AttendRequest request = UnaryRequest(sample_);
  request.clear_k();
  request.clear_v();
  v1::AttendHeader& header = *request.mutable_header();
  *header.mutable_k()->mutable_handle() = put(v1::TENSOR_ROLE_K, sample_.data.k, "a");
  *header.mutable_v()->mutable_handle() = put(v1::TENSOR_ROLE_V, sample_.data.v, "b");
  EXPECT_TRUE(IsError(Attend(request).status, StatusCode::INVALID_ARGUMENT,
                      "header.v.handle: kept on another device than the tensors before it; put "
                      "tensors that are used together in one placement_group",
                      Details::kBadRequest));
  *header.mutable_v()->mutable_handle() = put(v1::TENSOR_ROLE_V, sample_.data.v, "a");
  const Answer answer = Attend(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(Right(sample_, answer.response.out(), answer.response.lse()));
}

struct BadPut {
  const char* name;
  std::function<void(v1::PutRequest& first, v1::PutRequest& second)> spoil;
  StatusCode code;
  const char* message;
  Details details = Details::kBadRequest;
};

class PutErrors : public TensorsFixture, public ::testing::WithParamInterface<BadPut> {};

TEST_P(PutErrors, AreToldAndLeaveNothing) {
  Start();
  v1::PutRequest first;
  *first.mutable_spec() = Spec(v1::TENSOR_ROLE_K, sample_.problem);
  v1::PutRequest second;
  second.mutable_chunk()->set_tensor(v1::TENSOR_ROLE_K);
  second.set_data(Bytes(sample_.data.k));
  GetParam().spoil(first, second);
  grpc::ClientContext context;
  v1::PutResponse response;
  const auto writer = tensors_->Put(&context, &response);
  writer->Write(first);
  writer->Write(second);
  writer->WritesDone();
  EXPECT_TRUE(IsError(writer->Finish(), GetParam().code, HasSubstr(GetParam().message),
                      GetParam().details));
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
}

using First = v1::PutRequest&;
using Second = v1::PutRequest&;
constexpr StatusCode kInvalid = StatusCode::INVALID_ARGUMENT;
const BadPut kBadPuts[] = {
    {"NoSpec", [](First f, Second) { f.clear_spec(); }, kInvalid,
     "spec: missing from the first message"},
    {"DataWithSpec", [](First f, Second) { f.set_data("x"); }, kInvalid,
     "chunk: not allowed in the first message"},
    {"Role", [](First f, Second) { f.mutable_spec()->set_role(v1::TENSOR_ROLE_LSE); }, kInvalid,
     "spec.role: got 5, allowed Q (1), K (2), V (3), OUTPUT (4), MASK (6)"},
    {"DType", [](First f, Second) { f.mutable_spec()->set_dtype(v1::DATA_TYPE_FLOAT32); }, kInvalid,
     "spec.dtype: got FLOAT32, allowed FLOAT16, BFLOAT16"},
    {"Layout", [](First f, Second) { f.mutable_spec()->clear_layout(); }, kInvalid,
     "spec.layout: got 0, allowed HND (1), NHD (2)"},
    {"Batch", [](First f, Second) { f.mutable_spec()->set_batch(0); }, kInvalid,
     "spec.batch: got 0, allowed 1 to 2147483648"},
    {"Overflow",
     [](First f, Second) {
       f.mutable_spec()->set_batch(std::int64_t{1} << 31);
       f.mutable_spec()->set_num_heads(std::int64_t{1} << 31);
     },
     kInvalid, "spec: a tensor of 2^60 elements or more"},
    {"HeadDim", [](First f, Second) { f.mutable_spec()->set_head_dim(12); }, kInvalid,
     "spec.head_dim: got 12, allowed multiples of 8 up to 128"},
    {"NeverFits", [](First f, Second) { f.mutable_spec()->set_batch(1 << 30); },
     StatusCode::FAILED_PRECONDITION, "tenant.tensor_bytes: the request needs", Details::kQuota},
    {"NeverFitsInUnitsWithoutNumber",
     [](First f, Second) {
       f.mutable_spec()->set_num_heads(std::int64_t{1} << 31);
       f.mutable_spec()->set_seqlen(65537);
       f.mutable_spec()->set_head_dim(8);
     },
     StatusCode::FAILED_PRECONDITION, "tenant.tensor_bytes: the request needs", Details::kQuota},
    {"LeastLease",
     [](First f, Second) {
       f.mutable_spec()->mutable_lease()->set_seconds(std::numeric_limits<std::int64_t>::min());
     },
     kInvalid, "spec.lease: got -9223372036854775808 s"},
    {"Precision", [](First f, Second) { f.mutable_spec()->add_precisions(v1::Precision(9)); },
     kInvalid, "spec.precisions: got 9, allowed 0 to 3"},
    {"Mask", [](First f, Second) { f.mutable_spec()->mutable_mask(); }, kInvalid,
     "spec.mask: not allowed with role k"},
    {"Group", [](First f, Second) { f.mutable_spec()->set_placement_group(std::string(65, 'x')); },
     kInvalid, "spec.placement_group: got 65 bytes, allowed at most 64"},
    {"Lease", [](First f, Second) { f.mutable_spec()->mutable_lease(); }, kInvalid,
     "spec.lease: got 0 s and 0 ns, allowed a positive duration"},
    {"Key", [](First f, Second) { f.set_idempotency_key(std::string(65, 'x')); }, kInvalid,
     "idempotency_key: got 65 bytes, allowed at most 64"},
    {"SecondSpec", [](First f, Second s) { *s.mutable_spec() = f.spec(); }, kInvalid,
     "spec: got a second one"},
    {"NoChunk", [](First, Second s) { s.clear_chunk(); }, kInvalid, "chunk: missing"},
    {"ChunkRole", [](First, Second s) { s.mutable_chunk()->set_tensor(v1::TENSOR_ROLE_V); },
     kInvalid, "chunk.tensor: got 3, allowed 2"},
    {"ChunkUnit", [](First, Second s) { s.mutable_chunk()->set_unit(1); }, kInvalid,
     "chunk.unit: got 1, allowed 0"},
    {"ChunkOffset", [](First, Second s) { s.mutable_chunk()->set_offset(2); }, kInvalid,
     "chunk.offset: got 2, allowed 0"},
    {"NoData", [](First, Second s) { s.clear_data(); }, kInvalid,
     "data: got 0 bytes, allowed at least 1"},
    {"TooMuch", [](First, Second s) { s.mutable_data()->append("x"); }, kInvalid,
     "data: got 16641 bytes at offset 0, allowed at most 16640"},
    {"TooLittle", [](First, Second s) { s.mutable_data()->pop_back(); }, kInvalid,
     "data: the stream ended after 16639 of 16640 bytes"},
    {"DataOfAnOutput",
     [](First f, Second s) {
       f.mutable_spec()->set_role(v1::TENSOR_ROLE_OUTPUT);
       s.mutable_chunk()->set_tensor(v1::TENSOR_ROLE_OUTPUT);
     },
     kInvalid, "chunk: not allowed with role output"},
    {"MaskWithoutShape",
     [](First f, Second) {
       f.clear_spec();
       f.mutable_spec()->set_role(v1::TENSOR_ROLE_MASK);
     },
     kInvalid, "spec.mask_shape.batch: "},
    {"MaskByHandle",
     [](First f, Second) {
       f.clear_spec();
       f.mutable_spec()->set_role(v1::TENSOR_ROLE_MASK);
       *f.mutable_spec()->mutable_mask_shape() = HeaderFor(SmallProblem()).shape();
       f.mutable_spec()->mutable_mask()->mutable_handle();
     },
     kInvalid, "spec.mask.handle: not allowed here"},
    {"MaskSize",
     [](First f, Second) {
       f.clear_spec();
       f.mutable_spec()->set_role(v1::TENSOR_ROLE_MASK);
       *f.mutable_spec()->mutable_mask_shape() = HeaderFor(SmallProblem()).shape();
       f.mutable_spec()->mutable_mask()->mutable_packed()->set_batch(1);
       f.mutable_spec()->mutable_mask()->mutable_packed()->set_num_heads(3);
     },
     kInvalid, "spec.mask.packed.num_heads: "},
};
INSTANTIATE_TEST_SUITE_P(Tensors, PutErrors, ::testing::ValuesIn(kBadPuts),
                         [](const auto& instance) { return instance.param.name; });

TEST_F(TensorsFixture, ADamagedChunkIsRefused) {
  Start();
  grpc::ClientContext context;
  v1::PutResponse response;
  const auto writer = tensors_->Put(&context, &response);
  v1::PutRequest request;
  *request.mutable_spec() = Spec(v1::TENSOR_ROLE_K, sample_.problem);
  writer->Write(request);
  request.clear_spec();
  request.mutable_chunk()->set_tensor(v1::TENSOR_ROLE_K);
  request.mutable_chunk()->set_crc32c(1);
  request.set_data(Bytes(sample_.data.k));
  writer->Write(request);
  writer->WritesDone();
  EXPECT_TRUE(IsError(writer->Finish(), StatusCode::DATA_LOSS, HasSubstr("chunk.crc32c: got 1"),
                      Details::kNone));
}

TEST_F(TensorsFixture, APutThatIsGivenUpLeavesNothing) {
  server::ServerOptions options = TestServerOptions();
  options.stall_timeout = std::chrono::milliseconds(50);
  Start(DeviceMemory::kUnified, options);
  v1::PutRequest request;
  *request.mutable_spec() = Spec(v1::TENSOR_ROLE_K, sample_.problem);
  v1::PutResponse response;
  {
    grpc::ClientContext context;
    const auto writer = tensors_->Put(&context, &response);
    ASSERT_TRUE(writer->Write(request));
    while (Statistics().requests_active() == 0) std::this_thread::yield();
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), StatusCode::CANCELLED);
  }
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  grpc::ClientContext context;
  const auto writer = tensors_->Put(&context, &response);
  ASSERT_TRUE(writer->Write(request));
  EXPECT_TRUE(IsError(writer->Finish(), StatusCode::DEADLINE_EXCEEDED,
                      "stalled: the client sent nothing for 50 ms", Details::kNone));
}

}  // namespace
}  // namespace sage::testing
