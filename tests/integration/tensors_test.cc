// Resident tensors, through ordinary stubs: what is put comes back until it is released or its
// lease ends, within a tenant's quota, and not a byte of it stays afterwards.
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/tensors_fixture.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;

class Tensors : public TensorsFixture, public ::testing::WithParamInterface<DeviceMemory> {};
INSTANTIATE_TEST_SUITE_P(Devices, Tensors,
                         ::testing::Values(DeviceMemory::kUnified, DeviceMemory::kDiscrete),
                         NameOf);

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

}  // namespace
}  // namespace sage::testing
