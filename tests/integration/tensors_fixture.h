// What tests of resident tensors have in common: a server on devices with or without memory of
// their own, and the ordinary stubs that put, ask and attend.
#ifndef SAGE_TESTS_INTEGRATION_TENSORS_FIXTURE_H_
#define SAGE_TESTS_INTEGRATION_TENSORS_FIXTURE_H_

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "tests/support/discrete_backend.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {

inline constexpr char kHandleText[] = "handle: no such tensor";

enum class DeviceMemory : std::uint8_t { kUnified, kDiscrete };

inline std::string Bytes(const std::vector<std::byte>& data) {
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
    EXPECT_TRUE(IsError(Stat(handle), grpc::StatusCode::NOT_FOUND, kHandleText, Details::kNone));
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

// Tests that take DeviceMemory as their parameter are named by it.
inline std::string NameOf(const ::testing::TestParamInfo<DeviceMemory>& instance) {
  return instance.param == DeviceMemory::kUnified ? "Unified" : "Discrete";
}

}  // namespace sage::testing

#endif  // SAGE_TESTS_INTEGRATION_TENSORS_FIXTURE_H_
