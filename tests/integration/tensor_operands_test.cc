// Resident tensors as operands and as output of requests, through ordinary stubs.
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/block_lists.h"
#include "server/slab_pool.h"
#include "tests/integration/tensors_fixture.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

class TensorOperands : public TensorsFixture, public ::testing::WithParamInterface<DeviceMemory> {};
INSTANTIATE_TEST_SUITE_P(Devices, TensorOperands,
                         ::testing::Values(DeviceMemory::kUnified, DeviceMemory::kDiscrete),
                         NameOf);

// K and V stay, Q travels: by either method the same bits as when all of it travels, again and
// again, for a third of the bytes.
TEST_P(TensorOperands, ServeAsKeysAndValues) {
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
TEST_P(TensorOperands, ServeAsEveryOperandAndAsOutput) {
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

TEST_P(TensorOperands, ServeAsMask) {
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
TEST_P(TensorOperands, AreRightInEveryCompany) {
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

TEST_P(TensorOperands, StayWhileARequestUsesThem) {
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
TEST_P(TensorOperands, ServePartsOfWhatTheyAre) {
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

}  // namespace
}  // namespace sage::testing
