// Puts that are wrong, damaged or given up: what they are told, and that nothing of them stays.
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/tensors_fixture.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

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
