// What a server says of itself: GetInfo, GetStatistics, the Prometheus endpoint, and the services
// that it does not serve yet.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "sage/v1/sessions.pb.h"
#include "server/gpu_telemetry.h"
#include "tests/support/plain_client.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::MatchesRegex;

// The answer to an HTTP request, headers included.
std::string Scrape(int port, const std::string& what = "GET /metrics") {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0) {
    const std::string request = what + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char piece[4096];
    for (ssize_t size = 0; (size = read(fd, piece, sizeof(piece))) > 0;) answer.append(piece, size);
  }
  close(fd);
  return answer;
}

// Samples of the text format, "name{labels}" to value.
std::map<std::string, double> Parse(const std::string& text) {
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.rfind(' ');
    if (line.rfind("sage_", 0) != 0 || space == std::string::npos) continue;
    samples[line.substr(0, space)] = std::strtod(line.c_str() + space, nullptr);
  }
  return samples;
}

class AboutServer : public ServerFixture {
 protected:
  void Start(const std::string& metrics_listen = "") {
    server::ServerOptions options = TestServerOptions();
    options.metrics_listen = metrics_listen;
    options.host_memory_bytes = 64 << 20;
    options.device_memory_bytes = 32 << 20;
    options.max_requests = 3;
    options.max_connections = 5;
    options.max_mask_bytes = 1000;
    options.stall_timeout = std::chrono::milliseconds(20000);
    StartServer(options);
    channel_ = NewChannel();
    attention_ = v1::Attention::NewStub(channel_);
    about_ = v1::Server::NewStub(channel_);
  }

  v1::ServerInfo Info() {
    v1::ServerInfo info;
    grpc::ClientContext context;
    EXPECT_TRUE(about_->GetInfo(&context, {}, &info).ok());
    return info;
  }
  v1::Statistics Statistics() {
    v1::Statistics statistics;
    grpc::ClientContext context;
    EXPECT_TRUE(about_->GetStatistics(&context, {}, &statistics).ok());
    return statistics;
  }

  // One answered request by each method, a bad one, one too large, and one cancelled.
  void ServeSome() {
    EXPECT_TRUE(AttendsRightly(*attention_, sample_));
    EXPECT_TRUE(StreamsRightly(*attention_, sample_));
    v1::AttendResponse response;
    v1::AttendRequest bad = UnaryRequest(sample_);
    bad.mutable_header()->mutable_shape()->set_head_dim(7);
    grpc::ClientContext bad_context;
    EXPECT_EQ(attention_->Attend(&bad_context, bad, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    v1::AttendRequest large = UnaryRequest(sample_);
    large.mutable_header()->mutable_shape()->set_seqlen_k(1 << 30);
    grpc::ClientContext large_context;
    EXPECT_EQ(attention_->Attend(&large_context, large, &response).error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
    PlainStream cancelled(*attention_, sample_);
    EXPECT_TRUE(cancelled.Open());
    cancelled.Cancel();
    cancelled.Finish();
    EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  const double bytes_in_ = 2.0 * static_cast<double>(sample_.payload_bytes());
  const double bytes_out_ = 2.0 * (66048 + 4 * 129 * 4);  // output and lse, twice
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Attention::Stub> attention_;
  std::unique_ptr<v1::Server::Stub> about_;
};

TEST_F(AboutServer, InfoTellsLimitsAndAbilities) {
  Start();
  const v1::ServerInfo info = Info();
  EXPECT_THAT(info.server_id(), MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(info.server_id().size(), 32U);
  EXPECT_THAT(info.version(), MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_EQ(info.backend(), "cpu");
  ASSERT_EQ(info.devices_size(), 1);
  EXPECT_NE(info.devices(0).name(), "");
  EXPECT_NE(info.devices(0).kernel_path(), "");
  EXPECT_GT(info.devices(0).memory_bytes(), 0U);
  EXPECT_THAT(info.precisions(), ElementsAre(v1::PRECISION_QK_INT8_PV_FP16,
                                             v1::PRECISION_QK_INT8_PV_FP8, v1::PRECISION_FP16));
  EXPECT_THAT(info.dtypes(), ElementsAre(v1::DATA_TYPE_FLOAT16, v1::DATA_TYPE_BFLOAT16));
  EXPECT_THAT(info.quantization_specs(), ElementsAre("sage1"));
  const v1::Limits& limits = info.limits();
  EXPECT_EQ(limits.max_unary_message_bytes(), 3U << 20);
  EXPECT_EQ(limits.max_stream_message_bytes(), 8U << 20);
  EXPECT_EQ(limits.host_memory_bytes(), 64U << 20);
  EXPECT_EQ(limits.device_memory_bytes(), 32U << 20);
  EXPECT_EQ(limits.max_mask_bytes(), 1000U);
  EXPECT_EQ(limits.max_units(), 65536U);
  EXPECT_EQ(limits.max_concurrent_requests(), 3U);
  EXPECT_EQ(limits.max_connections(), 5U);
  EXPECT_EQ(limits.stall_timeout_ms(), 20000U);
  EXPECT_EQ(limits.max_head_dim(), 128);
  EXPECT_EQ(limits.max_batch(), 65536U);
  EXPECT_EQ(Info().server_id(), info.server_id());
}

TEST_F(AboutServer, EveryServerHasItsOwnId) {
  Start();
  auto other = server::Server::Start(TestServerOptions(), TestBackends());
  ASSERT_TRUE(other.ok());
  v1::ServerInfo info;
  grpc::ClientContext context;
  const auto stub = v1::Server::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string((*other)->port()), grpc::InsecureChannelCredentials()));
  ASSERT_TRUE(stub->GetInfo(&context, {}, &info).ok());
  EXPECT_NE(info.server_id(), Info().server_id());
}

TEST_F(AboutServer, StatisticsCount) {
  Start();
  ServeSome();
  {
    PlainStream open(*attention_, sample_);
    ASSERT_TRUE(open.Open());
    const v1::Statistics during = Statistics();
    EXPECT_EQ(during.requests_active(), 1U);
    EXPECT_GT(during.host_bytes_reserved(), sample_.payload_bytes());
    EXPECT_GT(during.device_bytes_reserved(), 0U);
    open.Cancel();
    open.Finish();
  }
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  const v1::Statistics after = Statistics();
  EXPECT_EQ(after.requests_ok(), 2U);
  EXPECT_EQ(after.requests_failed(), 4U);
  EXPECT_EQ(after.requests_rejected(), 1U);
  EXPECT_EQ(after.requests_cancelled(), 2U);
  EXPECT_EQ(after.requests_active(), 0U);
  EXPECT_EQ(after.units_computed(), 2U);
  EXPECT_EQ(static_cast<double>(after.payload_bytes_in()), bytes_in_);
  EXPECT_EQ(static_cast<double>(after.payload_bytes_out()), bytes_out_);
  // Every byte once on its way in, none on its way out, unary and streamed.
  EXPECT_EQ(after.payload_bytes_copied(), after.payload_bytes_in());
  EXPECT_EQ(after.host_bytes_reserved(), 0U);
  EXPECT_EQ(after.device_bytes_reserved(), 0U);
  EXPECT_EQ(after.slab_bytes_in_use(), 0U);
  EXPECT_GT(after.slab_bytes_cached(), 0U);
  EXPECT_EQ(after.connections(), 1U);
  EXPECT_EQ(after.connections_refused(), 0U);
}

TEST_F(AboutServer, PrometheusEndpointCounts) {
  Start("127.0.0.1:0");
  ServeSome();
  const std::string text = Scrape(server().metrics_port());
  EXPECT_THAT(text, HasSubstr("200 OK"));
  const std::map<std::string, double> samples = Parse(text);
  const std::map<std::string, double> want = {
      {R"(sage_requests_total{code="OK",rpc="Attend"})", 1},
      {R"(sage_requests_total{code="OK",rpc="AttendStream"})", 1},
      {R"(sage_requests_total{code="INVALID_ARGUMENT",rpc="Attend"})", 1},
      {R"(sage_requests_total{code="FAILED_PRECONDITION",rpc="Attend"})", 1},
      {R"(sage_requests_total{code="CANCELLED",rpc="AttendStream"})", 1},
      {"sage_requests_ok_total", 2},
      {"sage_requests_failed_total", 3},
      {R"(sage_rejected_total{reason="server.host_bytes"})", 1},
      {R"(sage_cancelled_total{stage="receive"})", 1},
      {"sage_stalled_total", 0},
      {"sage_deadline_missed_total", 0},
      {"sage_bytes_in_total", bytes_in_},
      {"sage_bytes_copied_total", bytes_in_},
      {"sage_bytes_out_total", bytes_out_},
      {"sage_inflight", 0},
      {"sage_queue_depth", 0},
      {"sage_queue_estimated_seconds", 0},
      {"sage_receive_waiting", 0},
      {"sage_transfer_estimated_seconds", 0},
      {"sage_units_computed_total", 2},
      {"sage_launches_total", 2},
      {"sage_batch_size_count", 2},
      {"sage_batch_size_sum", 2},
      {"sage_lease_expired_total", 0},
      {"sage_tensors", 0},
      {"sage_device_errors_total", 0},
      {"sage_connections", 1},
      {"sage_connections_refused", 0},
      {R"(sage_pinned_bytes{state="in_use"})", 0},
      {R"(sage_pinned_bytes{state="reserved"})", 0},
      {R"(sage_pinned_bytes{state="limit"})", 64 << 20},
      {R"(sage_device_bytes{state="in_use"})", 0},
      {R"(sage_device_bytes{state="reserved"})", 0},
      {R"(sage_device_bytes{state="limit"})", 32 << 20},
      {"sage_kernel_effective_tops_count", 2},
      {"sage_block_density_count", 2},
      {"sage_block_density_sum", 2},  // no masks
      {"sage_build_info{version=\"" + Info().version() + "\"}", 1},
  };
  for (const auto& [name, value] : want) {
    EXPECT_THAT(samples, Contains(::testing::Pair(name, value))) << text;
  }
  for (const char* stage : {"recv", "queue", "h2d", "prepare", "kernel", "d2h", "send", "total"}) {
    EXPECT_THAT(samples,
                Contains(::testing::Pair("sage_" + std::string(stage) + "_seconds_count", 2.0)));
  }
  EXPECT_THAT(samples, Contains(Key(R"(sage_pinned_bytes{state="cached"})")));
  EXPECT_THAT(samples, Contains(Key(R"(sage_device_bytes{state="cached"})")));
}

TEST_F(AboutServer, PrometheusEndpointTellsSinceWhenItServes) {
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  const double before = now();
  Start("127.0.0.1:0");
  const double after = now();
  std::map<std::string, double> samples = Parse(Scrape(server().metrics_port()));
  const double started = samples["sage_start_time_seconds"];
  EXPECT_GE(started, before);
  EXPECT_LE(started, after);
  // However late it is asked.
  samples = Parse(Scrape(server().metrics_port()));
  EXPECT_EQ(samples["sage_start_time_seconds"], started);
}

TEST(GpuTelemetry, TellsWhatTheDriverTells) {
  EXPECT_EQ(server::GpuTelemetry::Open("libno-such-library.so.1"), nullptr);
  const auto gpus = server::GpuTelemetry::Open(FAKE_NVML_LIBRARY);
  ASSERT_NE(gpus, nullptr);
  server::Metrics metrics;
  metrics.AddGauges(gpus->Gauges());
  ASSERT_TRUE(metrics.Open("127.0.0.1:0").ok());
  const std::string text = Scrape(metrics.port());
  std::map<std::string, double> samples = Parse(text);
  std::erase_if(samples, [](const auto& sample) { return sample.first.find("gpu=") > 100; });
  EXPECT_TRUE(std::isnan(samples[R"(sage_gpu_temperature_celsius{gpu="GPU-2"})"])) << text;
  samples.erase(R"(sage_gpu_temperature_celsius{gpu="GPU-2"})");
  const std::map<std::string, double> want = {
      {R"(sage_gpu_utilization_ratio{gpu="GPU-1"})", 0.37},
      {R"(sage_gpu_utilization_ratio{gpu="GPU-2"})", 0.37},
      {R"(sage_gpu_memory_used_bytes{gpu="GPU-1"})", 1 << 30},
      {R"(sage_gpu_memory_used_bytes{gpu="GPU-2"})", 1 << 30},
      {R"(sage_gpu_temperature_celsius{gpu="GPU-1"})", 41},
      {R"(sage_gpu_power_watts{gpu="GPU-1"})", 123.456},
  };
  EXPECT_EQ(samples, want) << text;
}

TEST_F(AboutServer, TheMetricsEndpointServesNothingElse) {
  Start("127.0.0.1:0");
  EXPECT_THAT(Scrape(server().metrics_port(), "GET /secrets"), HasSubstr("404 Not Found"));
  EXPECT_THAT(Scrape(server().metrics_port(), "POST /metrics"),
              HasSubstr("405 Method Not Allowed"));
  EXPECT_THAT(Scrape(server().metrics_port(), "GET /metrics?name=x"), HasSubstr("200 OK"));
}

TEST_F(AboutServer, TrailersTellHowItWent) {
  Start();
  PlainStream stream(*attention_, sample_);
  v1::AttendHeader header = HeaderFor(sample_.problem);
  header.set_request_id("mine-1");
  ASSERT_TRUE(stream.Open(header));
  EXPECT_EQ(stream.accepted().request_id(), "mine-1");
  EXPECT_EQ(stream.accepted().server_id(), Info().server_id());
  EXPECT_EQ(stream.accepted().max_chunk_bytes(), 4U << 20);
  for (const auto& message : PayloadMessages(sample_, stream.accepted(), 1 << 18)) {
    ASSERT_TRUE(stream.Send(message));
  }
  EXPECT_TRUE(stream.FinishesRightly());
  const v1::AttendTrailer& trailer = *stream.trailer();
  EXPECT_EQ(trailer.request_id(), "mine-1");
  EXPECT_EQ(static_cast<double>(trailer.bytes_in()), bytes_in_ / 2);
  EXPECT_EQ(static_cast<double>(trailer.bytes_out()), bytes_out_ / 2);
  EXPECT_EQ(trailer.block_density(), 1);
  EXPECT_GT(trailer.timings().kernel(), 0);
  EXPECT_GT(trailer.timings().prepare(), 0);
  EXPECT_GE(trailer.timings().total(), trailer.timings().recv());
  const double operations = 4.0 * 4 * 129 * 65 * 64;
  EXPECT_NEAR(trailer.effective_tops(), operations / trailer.timings().kernel() / 1e12,
              1e-9 * trailer.effective_tops());
}

TEST_F(AboutServer, SessionsAreUnimplemented) {
  Start();
  const google::protobuf::ServiceDescriptor* const service =
      v1::OpenRequest::descriptor()->file()->service(0);
  for (int i = 0; i < service->method_count(); ++i) {
    const std::string method = "/" + service->full_name() + "/" + service->method(i)->name();
    EXPECT_EQ(RawExchange(channel_, method, {""}).status.error_code(),
              grpc::StatusCode::UNIMPLEMENTED)
        << method;
  }
  EXPECT_TRUE(AttendsRightly(*attention_, sample_));
}

}  // namespace
}  // namespace sage::testing
