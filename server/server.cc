#include "server/server.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "sage/v1/sessions.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "server/attention_service.h"
#include "server/codec.h"
#include "server/connection_acceptor.h"
#include "server/random_id.h"
#include "server/server_service.h"
#include "server/version.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr std::uint64_t kMaxUnaryBytes = 3 << 20;
constexpr std::uint64_t kMaxMessageBytes = 8 << 20;
constexpr std::uint64_t kMaxChunkBytes = 4 << 20;
constexpr std::uint64_t kOutputChunkBytes = 1 << 20;
constexpr int kMaxConcurrentStreams = 64;
// For last messages to leave once all requests have ended.
constexpr std::chrono::milliseconds kFlushTime{500};

std::uint64_t MachineMemoryBytes() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// The options with every 0 that means "choose" replaced.
ServerOptions Resolve(ServerOptions options, const BackendInfo& device) {
  if (options.host_memory_bytes == 0) options.host_memory_bytes = MachineMemoryBytes() / 8;
  if (options.device_memory_bytes == 0) {
    options.device_memory_bytes = device.unified_memory
                                      ? MachineMemoryBytes() / 8
                                      : static_cast<std::uint64_t>(device.device_memory_bytes);
  }
  return options;
}

EngineOptions ForDevice(const ServerOptions& options, const BackendInfo& device) {
  EngineOptions engine;
  engine.streams = options.streams;
  // A GPU copies for one launch while it computes another; on the CPU a second launch would only
  // take cores from the first.
  if (engine.streams == 0) engine.streams = device.unified_memory ? 1 : 2;
  // A few ms of work: of a few CPU cores, or of a GPU.
  engine.launch_operations = device.unified_memory ? 3e9 : 1e12;
  return engine;
}

// Linking gRPC's reflection is enough to serve it; this takes it out again.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

}  // namespace

struct Server::Parts {
  // In order of construction; destroyed in reverse, services before what they use.
  const ServerOptions options;
  const std::unique_ptr<Backend> backend;
  const std::string server_id = RandomId();
  const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  Metrics metrics;
  Admission admission;
  SlabPool host_pool;
  SlabPool device_pool;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<AttentionCore> core;
  std::unique_ptr<AttentionService> attention;
  v1::Tensors::CallbackService tensors;    // every method answers UNIMPLEMENTED
  v1::Sessions::CallbackService sessions;  // likewise
  std::unique_ptr<ServerService> about;
  std::unique_ptr<grpc::Server> grpc;
  ConnectionAcceptor acceptor;

  std::mutex drain_mutex;
  std::optional<bool> drained;  // whether in peace; guarded by drain_mutex

  Parts(ServerOptions resolved, std::unique_ptr<Backend> device)
      : options(std::move(resolved)),
        backend(std::move(device)),
        admission(options.host_memory_bytes, options.device_memory_bytes, options.max_requests),
        host_pool(*backend, MemoryKind::kHost, options.host_memory_bytes),
        device_pool(*backend, MemoryKind::kDevice, options.device_memory_bytes) {}

  v1::ServerInfo Info() const;
  v1::Statistics Statistics() const;
  std::vector<Gauge> Gauges() const;
  absl::Status Open();
  absl::Status OpenGrpc();
  absl::Status WritePortFile() const;
  bool Drain();
};

v1::ServerInfo Server::Parts::Info() const {
  const BackendInfo& device = backend->info();
  v1::ServerInfo info;
  info.set_server_id(server_id);
  info.set_version(kVersion);
  info.set_backend(device.name);
  v1::DeviceInfo& device_info = *info.add_devices();
  device_info.set_name(device.device_name);
  device_info.set_kernel_path(device.kernel_path);
  device_info.set_memory_bytes(static_cast<std::uint64_t>(device.device_memory_bytes));
  AttentionProblem probe;
  probe.batch = probe.num_heads_q = probe.num_heads_kv = probe.seqlen_q = probe.seqlen_k = 1;
  probe.head_dim = kMaxHeadDim;
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    probe.precision = precision;
    if (backend->CheckSupported(probe).ok()) info.add_precisions(ToProto(precision));
  }
  info.add_dtypes(v1::DATA_TYPE_FLOAT16);
  info.add_dtypes(v1::DATA_TYPE_BFLOAT16);
  info.add_quantization_specs("sage1");
  v1::Limits& limits = *info.mutable_limits();
  limits.set_max_unary_message_bytes(kMaxUnaryBytes);
  limits.set_max_stream_message_bytes(kMaxMessageBytes);
  limits.set_host_memory_bytes(options.host_memory_bytes);
  limits.set_device_memory_bytes(options.device_memory_bytes);
  limits.set_max_mask_bytes(options.max_mask_bytes);
  limits.set_max_units(core->jobs.plan_limits.max_units);
  limits.set_max_concurrent_requests(options.max_requests);
  limits.set_max_connections(options.max_connections);
  limits.set_stall_timeout_ms(static_cast<std::uint64_t>(options.stall_timeout.count()));
  limits.set_max_head_dim(kMaxHeadDim);
  limits.set_max_batch(core->jobs.plan_limits.max_units);
  return info;
}

v1::Statistics Server::Parts::Statistics() const {
  v1::Statistics statistics;
  statistics.set_uptime_ms(
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     std::chrono::steady_clock::now() - started)
                                     .count()));
  statistics.set_requests_ok(metrics.requests_ok());
  statistics.set_requests_failed(metrics.requests_failed());
  statistics.set_requests_rejected(metrics.requests_rejected());
  statistics.set_requests_cancelled(metrics.requests_cancelled());
  statistics.set_requests_active(admission.active_requests());
  statistics.set_units_computed(engine->units_computed());
  statistics.set_payload_bytes_in(metrics.bytes_in());
  statistics.set_payload_bytes_out(metrics.bytes_out());
  statistics.set_host_bytes_reserved(admission.host().reserved());
  statistics.set_device_bytes_reserved(admission.device().reserved());
  statistics.set_slab_bytes_in_use(host_pool.in_use_bytes() + device_pool.in_use_bytes());
  statistics.set_slab_bytes_cached(host_pool.cached_bytes() + device_pool.cached_bytes());
  statistics.set_connections(acceptor.connections());
  statistics.set_connections_refused(acceptor.refused());
  return statistics;
}

std::vector<Gauge> Server::Parts::Gauges() const {
  const auto gauge = [](const char* name, const char* help, auto read, const char* state = "") {
    return Gauge{name, help, [read] { return static_cast<double>(read()); },
                 state[0] == '\0' ? "" : "state", state};
  };
  std::vector<Gauge> gauges = {
      gauge("inflight", "Requests admitted and not ended.",
            [this] { return admission.active_requests(); }),
      gauge("queue_depth", "Units waiting for a stream.", [this] { return engine->queue_depth(); }),
      gauge("connections", "Open connections.", [this] { return acceptor.connections(); }),
      gauge("connections_refused", "Connections closed because of the limit.",
            [this] { return acceptor.refused(); }),
  };
  const auto add_memory = [&](const char* name, const char* help, const SlabPool& pool,
                              const Account& account) {
    gauges.push_back(gauge(
        name, help, [&pool] { return pool.in_use_bytes(); }, "in_use"));
    gauges.push_back(gauge(
        name, help, [&pool] { return pool.cached_bytes(); }, "cached"));
    gauges.push_back(gauge(
        name, help, [&account] { return account.reserved(); }, "reserved"));
    gauges.push_back(gauge(
        name, help, [&account] { return account.limit(); }, "limit"));
  };
  add_memory("pinned_bytes", "Host memory for payload and results.", host_pool, admission.host());
  add_memory("device_bytes", "Device memory that kernels work on.", device_pool,
             admission.device());
  gauges.push_back(
      {"build_info", "Always 1; the version is a label.", [] { return 1.0; }, "version", kVersion});
  return gauges;
}

absl::Status Server::Parts::Open() {
  absl::StatusOr<std::unique_ptr<Engine>> created =
      Engine::Create(*backend, device_pool, ForDevice(options, backend->info()));
  if (!created.ok()) return created.status();
  engine = *std::move(created);
  core.reset(new AttentionCore{
      .jobs = {*backend, admission, host_pool, {.unit_bytes = options.unit_bytes}},
      .engine = *engine,
      .metrics = metrics,
      .server_id = server_id,
      .window_bytes = options.window_bytes,
      .max_mask_bytes = options.max_mask_bytes,
      .max_unary_bytes = kMaxUnaryBytes,
      .chunk_bytes = kOutputChunkBytes,
      .max_chunk_bytes = kMaxChunkBytes,
      .stall_timeout = options.stall_timeout});
  attention = std::make_unique<AttentionService>(*core);
  about = std::make_unique<ServerService>(Info(), [this] { return Statistics(); });

  for (const std::string& address : options.listen) {
    if (absl::Status status = acceptor.Listen(address); !status.ok()) return status;
  }
  metrics.AddGauges(Gauges());
  if (!options.metrics_listen.empty()) {
    if (absl::Status status = metrics.Open(options.metrics_listen); !status.ok()) return status;
  }
  if (absl::Status status = OpenGrpc(); !status.ok()) return status;
  return WritePortFile();
}

absl::Status Server::Parts::OpenGrpc() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  builder.RegisterService(attention.get());
  builder.RegisterService(&tensors);
  builder.RegisterService(&sessions);
  builder.RegisterService(about.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A small compressed message can expand to a very large one; tensors do not compress anyway.
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> sink =
      builder.experimental().AddExternalConnectionAcceptor(
          grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
          grpc::InsecureServerCredentials());
  grpc = builder.BuildAndStart();
  if (grpc == nullptr) return absl::InternalError("the gRPC server did not start");
  acceptor.Start(std::move(sink), options.max_connections);
  grpc->GetHealthCheckService()->SetServingStatus(true);
  return absl::OkStatus();
}

absl::Status Server::Parts::WritePortFile() const {
  if (options.port_file.empty()) return absl::OkStatus();
  // Written beside and renamed, so that a reader never sees half a number.
  const std::string partial = absl::StrCat(options.port_file, ".partial");
  std::ofstream(partial) << acceptor.port() << '\n';
  if (std::rename(partial.c_str(), options.port_file.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("port-file: cannot write ", options.port_file));
  }
  return absl::OkStatus();
}

bool Server::Parts::Drain() {
  if (grpc == nullptr) return true;
  spdlog::info("event=drain_begin active={}", admission.active_requests());
  grpc->GetHealthCheckService()->SetServingStatus(false);
  // Those who route requests here need time to notice.
  std::this_thread::sleep_for(options.drain_delay);
  core->draining.store(true, std::memory_order_relaxed);
  acceptor.Stop();
  const bool peaceful =
      admission.AwaitIdle(std::chrono::steady_clock::now() + options.drain_timeout);
  // Ends health watchers, streams without a header and, past the timeout, the requests that are
  // left.
  grpc->Shutdown(std::chrono::system_clock::now() + kFlushTime);
  metrics.Close();
  spdlog::info("event=drain_end peaceful={}", peaceful);
  return peaceful;
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() { Drain(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::unique_ptr<Backend> backend) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  ServerOptions resolved = Resolve(options, backend->info());
  std::unique_ptr<Server> server(
      new Server(std::make_unique<Parts>(std::move(resolved), std::move(backend))));
  if (absl::Status status = server->parts_->Open(); !status.ok()) return status;
  return server;
}

bool Server::Drain() {
  const std::lock_guard lock(parts_->drain_mutex);
  if (!parts_->drained.has_value()) parts_->drained = parts_->Drain();
  return *parts_->drained;
}

int Server::port() const { return parts_->acceptor.port(); }
int Server::metrics_port() const { return parts_->metrics.port(); }

Server::Held Server::held() const {
  const v1::Statistics statistics = parts_->Statistics();
  return {statistics.requests_active(), statistics.host_bytes_reserved(),
          statistics.device_bytes_reserved(), statistics.slab_bytes_in_use()};
}

}  // namespace sage::server
