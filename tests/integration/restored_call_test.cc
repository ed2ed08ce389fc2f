// Requests on resident tensors that their server forgets: how long the client tries, and how it
// ends.
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/remote_tensor.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "sage/v1/attention.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"

namespace sage::testing {
namespace {

// Knows no tensor that it was given, and takes as long as a test says for each that is put again.
class ForgetfulServer final : public v1::Attention::Service, public v1::Tensors::Service {
 public:
  grpc::Status Attend(grpc::ServerContext* /*context*/, const v1::AttendRequest* /*request*/,
                      v1::AttendResponse* /*response*/) override {
    const std::lock_guard lock(mutex_);
    ++attends_;
    return {grpc::StatusCode::NOT_FOUND, "no such tensor"};
  }

  grpc::Status Put(grpc::ServerContext* /*context*/, grpc::ServerReader<v1::PutRequest>* reader,
                   v1::PutResponse* response) override {
    v1::PutRequest request;
    while (reader->Read(&request)) {
    }
    std::unique_lock lock(mutex_);
    response->mutable_handle()->set_id(std::to_string(++puts_));
    response->mutable_lease()->set_seconds(600);
    if (puts_ <= 2) return grpc::Status::OK;  // k and v for the first time
    changed_.notify_all();
    changed_.wait_for(lock, again_takes_, [this] { return finished_; });
    return again_;
  }

  grpc::Status Stat(grpc::ServerContext* /*context*/, const v1::StatRequest* /*request*/,
                    v1::StatResponse* /*response*/) override {
    return {grpc::StatusCode::NOT_FOUND, "no such tensor"};
  }

  grpc::Status Release(grpc::ServerContext* /*context*/, const v1::ReleaseRequest* /*request*/,
                       v1::ReleaseResponse* /*response*/) override {
    return grpc::Status::OK;
  }

  // What becomes of a tensor that is put again.
  void PutAgain(std::chrono::milliseconds takes, const grpc::Status& status = grpc::Status::OK) {
    const std::lock_guard lock(mutex_);
    again_takes_ = takes;
    again_ = status;
  }
  void AwaitPutAgain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return puts_ > 2; });
  }
  // No put takes any longer.
  void Finish() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  int attends() {
    const std::lock_guard lock(mutex_);
    return attends_;
  }
  int puts() {
    const std::lock_guard lock(mutex_);
    return puts_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  int attends_ = 0;
  int puts_ = 0;
  std::chrono::milliseconds again_takes_{0};
  grpc::Status again_;
  bool finished_ = false;
};

constexpr std::chrono::hours kForever{1};

class RestoredCallTest : public ::testing::Test {
 protected:
  RestoredCallTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::Attention::Service*>(&service_));
    builder.RegisterService(static_cast<v1::Tensors::Service*>(&service_));
    server_ = builder.BuildAndStart();
    auto client = Client::Connect({.target = "127.0.0.1:" + std::to_string(port)});
    EXPECT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    problem_.batch = problem_.num_heads_q = problem_.num_heads_kv = 1;
    problem_.seqlen_q = problem_.seqlen_k = 64;
    problem_.head_dim = 64;
    data_.resize(problem_.q_elements() * 2);
    out_.resize(data_.size());
    for (auto& [role, tensor] : {std::pair{TensorRole::kK, &k_}, std::pair{TensorRole::kV, &v_}}) {
      auto put = client_->Put(role, problem_, data_.data());
      EXPECT_TRUE(put.ok()) << put.status();
      *tensor = std::make_unique<RemoteTensor>(*std::move(put));
    }
    request_.problem = problem_;
    request_.q = data_.data();
    request_.resident.k = k_.get();
    request_.resident.v = v_.get();
    request_.out = out_.data();
  }

  ~RestoredCallTest() override {
    service_.Finish();
    k_.reset();
    v_.reset();
    client_.reset();
    server_->Shutdown();
  }

  ForgetfulServer service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
  AttentionProblem problem_;
  std::vector<std::byte> data_, out_;
  std::unique_ptr<RemoteTensor> k_, v_;
  AttendRequest request_;
};

TEST_F(RestoredCallTest, IsSentOnceMore) {
  const absl::Status status = client_->Attend(request_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_EQ(service_.attends(), 2);
  EXPECT_EQ(service_.puts(), 4);
}

// Each tensor alone would be there in time.
TEST_F(RestoredCallTest, TakesItsTimeoutOnce) {
  constexpr std::chrono::milliseconds kTimeout{2000};
  service_.PutAgain(kTimeout * 6 / 10);
  request_.timeout = absl::FromChrono(kTimeout);
  const absl::Status status = client_->Attend(request_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_GT(service_.puts(), 2);
  k_.reset();  // nothing of them is under way any more
  v_.reset();
  EXPECT_EQ(service_.attends(), 1);
}

TEST_F(RestoredCallTest, CancelEndsTheWaitForTensors) {
  service_.PutAgain(kForever);
  // Shared, since the library may still be leaving set_value() when the answer is here.
  const auto ended = std::make_shared<std::promise<absl::Status>>();
  const AttendCall call = client_->AttendAsync(
      request_,
      [ended](const absl::StatusOr<AttendReport>& report) { ended->set_value(report.status()); });
  service_.AwaitPutAgain();
  call.Cancel();
  const absl::Status status = ended->get_future().get();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
  // A put that nobody wants any more ends, too.
  k_.reset();
  v_.reset();
  EXPECT_EQ(service_.attends(), 1);
}

TEST_F(RestoredCallTest, EndsAsThePutDoesWhereThatFails) {
  service_.PutAgain(std::chrono::milliseconds(0),
                    {grpc::StatusCode::RESOURCE_EXHAUSTED, "no room for it"});
  const absl::Status status = client_->Attend(request_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(service_.attends(), 1);
}

TEST_F(RestoredCallTest, ATensorAloneCanBeWaitedFor) {
  service_.PutAgain(kForever);
  EXPECT_EQ(k_->Restore(absl::Milliseconds(1)).code(), absl::StatusCode::kDeadlineExceeded);
  service_.Finish();
  const std::string first = k_->handle().id();
  EXPECT_TRUE(k_->Restore().ok());
  EXPECT_NE(k_->handle().id(), first);
}

}  // namespace
}  // namespace sage::testing
