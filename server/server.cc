#include "server/server.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/address.h"
#include "grpcpp/grpcpp.h"
#include "proto/wire/enums.h"
#include "proto/wire/random_id.h"
#include "server/attention_service.h"
#include "server/calibration.h"
#include "server/codec.h"
#include "server/connection_acceptor.h"
#include "server/device_watch.h"
#include "server/fronts.h"
#include "server/gpu_telemetry.h"
#include "server/tenant_name.h"
#include "server/tls_credentials.h"
#include "server/version.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr std::uint64_t kMaxUnaryBytes = 3 << 20;
constexpr std::uint64_t kMaxChunkBytes = 4 << 20;
constexpr std::uint64_t kOutputChunkBytes = 1 << 20;
// For last messages to leave once all requests have ended, and for calls to end with their
// connections.
constexpr std::chrono::milliseconds kFlushTime{500};

std::uint64_t MachineMemoryBytes() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// The options with what is 0 chosen: the size of host memory, the grace of connections.
ServerOptions Resolve(ServerOptions options) {
  if (options.host_memory_bytes == 0) options.host_memory_bytes = MachineMemoryBytes() / 8;
  if (options.max_connection_grace.count() == 0) {
    options.max_connection_grace = std::min<std::chrono::milliseconds>(
        options.default_deadline, std::chrono::milliseconds(std::numeric_limits<int>::max()));
  }
  return options;
}

std::uint64_t DeviceMemoryBytes(const ServerOptions& options, const BackendInfo& device) {
  if (options.device_memory_bytes != 0) return options.device_memory_bytes;
  return device.unified_memory ? MachineMemoryBytes() / 8
                               : static_cast<std::uint64_t>(device.device_memory_bytes);
}

EngineOptions ForDevice(const ServerOptions& options, const BackendInfo& device) {
  EngineOptions engine;
  engine.streams = options.streams;
  // A GPU copies one launch in, computes a second and copies a third out, while a fourth is being
  // issued or completed; on the CPU a second launch would only take cores from the first.
  if (engine.streams == 0) engine.streams = device.unified_memory ? 1 : 4;
  // A few ms of work: of a few CPU cores, or of a GPU.
  engine.launch_operations = device.unified_memory ? 3e9 : 1e12;
  return engine;
}

}  // namespace

struct Server::Parts {
  // In order of construction; destroyed in reverse, services before what they use.
  const ServerOptions options;
  const std::string server_id = RandomId();
  const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  const std::unique_ptr<Metrics> metrics;
  const std::vector<std::unique_ptr<Device>> devices;  // at least one, all of one kind
  const std::unique_ptr<GpuTelemetry> gpus;            // null where there is nothing to tell
  Admission admission;
  SlabPool host_pool;  // of the first device; every device copies from and to it
  Ingest ingest;
  StallWatch stalls;
  Tenants tenants;
  TensorStore store;
  std::unique_ptr<AttentionCore> core;
  std::unique_ptr<Authenticator> authenticator;
  std::unique_ptr<Fronts> fronts;
  ConnectionAcceptor acceptor;

  std::mutex drain_mutex;
  std::optional<bool> drained;  // whether in peace; guarded by drain_mutex

  std::mutex end_mutex;
  std::condition_variable ended;
  std::optional<absl::Status> end;  // why, once it is asked for; guarded by end_mutex

  std::unique_ptr<DeviceWatch> watch;

  // `counts` outlives the devices, which count their launches there.
  Parts(ServerOptions resolved, std::unique_ptr<Metrics> counts,
        std::vector<std::unique_ptr<Device>> created)
      : options(std::move(resolved)),
        metrics(std::move(counts)),
        devices(std::move(created)),
        gpus(devices.front()->backend().info().name == "cuda" ? GpuTelemetry::Open() : nullptr),
        admission(options.host_memory_bytes, options.max_requests),
        host_pool(devices.front()->backend(), MemoryKind::kHost, options.host_memory_bytes),
        stalls(options.stall_timeout),
        tenants(Limits(), OwnLimits()),
        store(StoreOptions(), tenants, admission, Devices()) {}

  std::vector<Device*> Devices() const {
    std::vector<Device*> all;
    for (const std::unique_ptr<Device>& device : devices) all.push_back(device.get());
    return all;
  }

  TensorStoreOptions StoreOptions() const {
    return {.unit_bytes = options.unit_bytes,
            .default_lease = options.tensor_lease,
            .max_lease = options.tensor_max_lease};
  }

  // As an operator gives them, 0 being the default.
  TenantLimits LimitsOf(std::uint64_t tensor_memory_bytes, std::uint64_t tensors,
                        std::uint64_t streams) const {
    const auto or_none = [](std::uint64_t limit) {
      return limit == 0 ? TenantLimits::kNone : limit;
    };
    const std::uint64_t half = Sum([](Device& d) { return d.memory().limit(); }) / 2;
    return {.tensor_bytes = tensor_memory_bytes == 0 ? half : tensor_memory_bytes,
            .tensors = or_none(tensors),
            .streams = or_none(streams)};
  }

  // Of a tenant that has no limits of its own.
  TenantLimits Limits() const {
    return LimitsOf(options.tensor_memory_bytes, options.tenant_tensors, options.tenant_streams);
  }

  std::map<std::string, TenantLimits> OwnLimits() const {
    std::map<std::string, TenantLimits> own;
    for (const auto& [name, tenant] : options.tenants) {
      own[name] = LimitsOf(tenant.tensor_memory_bytes.value_or(options.tensor_memory_bytes),
                           tenant.tensors.value_or(options.tenant_tensors),
                           tenant.streams.value_or(options.tenant_streams));
    }
    return own;
  }

  // The sum of a figure over all devices.
  template <typename Figure>
  std::uint64_t Sum(Figure figure) const {
    std::uint64_t sum = 0;
    for (const std::unique_ptr<Device>& device : devices) sum += figure(*device);
    return sum;
  }

  v1::ServerInfo Info() const;
  v1::Statistics Statistics() const;
  std::vector<Gauge> Gauges() const;
  absl::Status Open();
  absl::Status OpenFronts();
  absl::Status WritePortFile() const;
  void End(absl::Status why);
  void LoseDevice(const absl::Status& why);
  void GiveBackMemory();
  bool Drain();
};

v1::ServerInfo Server::Parts::Info() const {
  Backend& backend = devices.front()->backend();
  v1::ServerInfo info;
  info.set_server_id(server_id);
  info.set_version(kVersion);
  info.set_backend(backend.info().name);
  for (const std::unique_ptr<Device>& device : devices) {
    const BackendInfo& from = device->backend().info();
    v1::DeviceInfo& to = *info.add_devices();
    to.set_name(from.device_name);
    to.set_kernel_path(from.kernel_path);
    to.set_memory_bytes(static_cast<std::uint64_t>(from.device_memory_bytes));
  }
  AttentionProblem probe;
  probe.batch = probe.num_heads_q = probe.num_heads_kv = probe.seqlen_q = probe.seqlen_k = 1;
  probe.head_dim = kMaxHeadDim;
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    probe.precision = precision;
    if (backend.CheckSupported(probe).ok()) info.add_precisions(ToProto(precision));
  }
  info.add_dtypes(v1::DATA_TYPE_FLOAT16);
  info.add_dtypes(v1::DATA_TYPE_BFLOAT16);
  info.add_quantization_specs("sage1");
  v1::Limits& limits = *info.mutable_limits();
  limits.set_max_unary_message_bytes(kMaxUnaryBytes);
  limits.set_max_stream_message_bytes(kMaxMessageBytes);
  limits.set_host_memory_bytes(options.host_memory_bytes);
  limits.set_device_memory_bytes(Sum([](Device& d) { return d.memory().limit(); }));
  limits.set_max_mask_bytes(options.max_mask_bytes);
  limits.set_max_units(core->jobs.plan_limits.max_units);
  limits.set_max_concurrent_requests(options.max_requests);
  limits.set_max_connections(options.max_connections);
  limits.set_stall_timeout_ms(static_cast<std::uint64_t>(options.stall_timeout.count()));
  limits.set_max_head_dim(kMaxHeadDim);
  limits.set_max_tensor_lease_ms(static_cast<std::uint64_t>(options.tensor_max_lease.count()));
  limits.set_max_batch(core->jobs.plan_limits.max_units);
  return info;
}

v1::Statistics Server::Parts::Statistics() const {
  v1::Statistics statistics;
  statistics.set_uptime_ms(
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     std::chrono::steady_clock::now() - started)
                                     .count()));
  statistics.set_requests_ok(metrics->requests_ok());
  statistics.set_requests_failed(metrics->requests_failed());
  statistics.set_requests_rejected(metrics->requests_rejected());
  statistics.set_requests_cancelled(metrics->requests_cancelled());
  statistics.set_requests_active(admission.active_requests());
  statistics.set_units_computed(Sum([](Device& d) { return d.engine().units_computed(); }));
  statistics.set_payload_bytes_in(metrics->bytes_in());
  statistics.set_payload_bytes_out(metrics->bytes_out());
  statistics.set_payload_bytes_copied(metrics->bytes_copied());
  statistics.set_host_bytes_reserved(admission.host().reserved());
  statistics.set_device_bytes_reserved(Sum([](Device& d) { return d.memory().reserved(); }));
  statistics.set_slab_bytes_in_use(host_pool.in_use_bytes() +
                                   Sum([](Device& d) { return d.pool().in_use_bytes(); }));
  statistics.set_slab_bytes_cached(host_pool.cached_bytes() +
                                   Sum([](Device& d) { return d.pool().cached_bytes(); }));
  statistics.set_tensors(store.size());
  statistics.set_tensor_bytes(store.stored_bytes());
  statistics.set_tensor_leases_expired(store.leases_expired());
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
      gauge("queue_depth", "Units waiting for a stream.",
            [this] { return Sum([](Device& d) { return d.engine().queue_depth(); }); }),
      gauge("queue_estimated_seconds",
            "Device time of all units that wait or run, by estimate, where it is most.",
            [this] {
              double most = 0;
              for (const auto& device : devices) {
                most = std::max(most, device->engine().queued_seconds());
              }
              return most;
            }),
      gauge("receive_waiting", "Requests admitted whose client is not told to send yet.",
            [this] { return ingest.waiting(); }),
      gauge("transfer_estimated_seconds",
            "Until payload and answers of admitted requests have passed, by estimate, of the "
            "connection where it is most.",
            [this] { return ingest.estimated_seconds(); }),
      gauge("tensors", "Resident tensors that have a handle.", [this] { return store.size(); }),
      gauge("connections", "Open connections.", [this] { return acceptor.connections(); }),
      gauge("connections_refused", "Connections closed because of the limit.",
            [this] { return acceptor.refused(); }),
  };
  const char* const pinned = "Host memory for payload and results.";
  gauges.push_back(gauge(
      "pinned_bytes", pinned, [this] { return host_pool.in_use_bytes(); }, "in_use"));
  gauges.push_back(gauge(
      "pinned_bytes", pinned, [this] { return host_pool.cached_bytes(); }, "cached"));
  gauges.push_back(gauge(
      "pinned_bytes", pinned, [this] { return admission.host().reserved(); }, "reserved"));
  gauges.push_back(gauge(
      "pinned_bytes", pinned, [this] { return admission.host().limit(); }, "limit"));
  const auto add_device_bytes = [&](const char* state, auto figure) {
    gauges.push_back(gauge(
        "device_bytes", "Memory of all devices that kernels work on.",
        [this, figure] { return Sum(figure); }, state));
  };
  add_device_bytes("in_use", [](Device& d) { return d.pool().in_use_bytes(); });
  add_device_bytes("cached", [](Device& d) { return d.pool().cached_bytes(); });
  add_device_bytes("reserved", [](Device& d) { return d.memory().reserved(); });
  add_device_bytes("limit", [](Device& d) { return d.memory().limit(); });
  gauges.push_back(gauge(
      "device_bytes", "Memory of all devices that kernels work on.",
      [this] { return store.stored_bytes(); }, "tensors"));
  const auto counter = [&](const char* name, const char* help, auto read) {
    gauges.push_back({name, help, [read] { return static_cast<double>(read()); }});
    gauges.back().counts = true;
  };
  counter("lease_expired_total", "Resident tensors whose lease ended.",
          [this] { return store.leases_expired(); });
  counter("units_computed_total", "Units of requests that devices have computed.",
          [this] { return Sum([](Device& d) { return d.engine().units_computed(); }); });
  counter("launches_total", "Launches on devices, of one unit or several.",
          [this] { return Sum([](Device& d) { return d.engine().launches(); }); });
  counter("device_errors_total", "Launches that failed.",
          [this] { return Sum([](Device& d) { return d.engine().failed_launches(); }); });
  const std::chrono::duration<double> started = std::chrono::system_clock::now().time_since_epoch();
  gauges.push_back(gauge("start_time_seconds", "When the server started, in seconds since 1970.",
                         [started] { return started.count(); }));
  gauges.push_back(
      {"build_info", "Always 1; the version is a label.", [] { return 1.0; }, "version", kVersion});
  return gauges;
}

absl::Status Server::Parts::Open() {
  core.reset(new AttentionCore{
      .jobs = {admission,
               host_pool,
               ingest,
               {.unit_bytes = options.unit_bytes,
                .unit_operations =
                    ForDevice(options, devices.front()->backend().info()).launch_operations},
               options.max_queue},
      .devices = Devices(),
      .metrics = *metrics,
      .server_id = server_id,
      .window_bytes = options.window_bytes,
      .max_mask_bytes = options.max_mask_bytes,
      .max_unary_bytes = kMaxUnaryBytes,
      .chunk_bytes = kOutputChunkBytes,
      .max_chunk_bytes = kMaxChunkBytes,
      .stall_timeout = options.stall_timeout,
      .default_deadline = options.default_deadline,
      .tensors = store,
      .stalls = stalls});

  for (const std::string& address : options.listen) {
    if (absl::Status status = acceptor.Listen(address); !status.ok()) return status;
  }
  metrics->AddGauges(Gauges());
  if (gpus != nullptr) metrics->AddGauges(gpus->Gauges());
  if (!options.metrics_listen.empty()) {
    if (absl::Status status = metrics->Open(options.metrics_listen); !status.ok()) return status;
  }
  if (absl::Status status = OpenFronts(); !status.ok()) return status;
  acceptor.Start([this](int listener_fd, int fd) { fronts->HandleConnection(listener_fd, fd); },
                 options.max_connections);
  watch = std::make_unique<DeviceWatch>(Devices(),
                                        [this](const absl::Status& why) { LoseDevice(why); });
  return WritePortFile();
}

absl::Status Server::Parts::OpenFronts() {
  Authenticator::Options identities;
  if (!options.tokens.empty()) {
    absl::StatusOr<std::unique_ptr<TokenFile>> tokens = TokenFile::Open(options.tokens);
    if (!tokens.ok()) return tokens.status();
    identities.tokens = *std::move(tokens);
  }
  for (const auto& [name, tenant] : options.tenants) {
    for (const std::string& certificate : tenant.certificates) {
      identities.certificates[certificate] = name;
    }
  }
  authenticator = std::make_unique<Authenticator>(std::move(identities));

  std::shared_ptr<grpc::ServerCredentials> tcp_credentials = grpc::InsecureServerCredentials();
  if (!options.tls_certificate.empty()) {
    absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> tls =
        MakeTlsCredentials({.certificate = options.tls_certificate,
                            .key = options.tls_key,
                            .client_ca = options.tls_client_ca,
                            .client_optional = !options.tokens.empty()});
    if (!tls.ok()) return tls.status();
    tcp_credentials = *std::move(tls);
  }
  const bool asks = !options.tokens.empty() || !options.tls_client_ca.empty();
  const std::string tcp_tenant = asks ? "" : kDefaultTenant;

  std::set<std::string> admins(options.admins.begin(), options.admins.end());
  if (admins.empty()) {
    admins.insert(TenantOfUser(geteuid()));
    // Everybody on this machine, where nobody else can come.
    if (std::all_of(options.listen.begin(), options.listen.end(), IsLocal)) {
      admins.insert(kDefaultTenant);
    }
  }

  auto opened = std::make_unique<Fronts>([=, this](std::optional<uid_t> user) {
    return GrpcFront::Start(
        *core,
        Callers(*authenticator, tenants, user.has_value() ? TenantOfUser(*user) : tcp_tenant),
        {.credentials = user.has_value() ? grpc::InsecureServerCredentials() : tcp_credentials,
         .reflection = options.reflection,
         .max_requests = static_cast<int>(options.max_requests),
         .max_connection_age = options.max_connection_age,
         .max_connection_grace = options.max_connection_grace,
         .about = {
             .info = Info(), .statistics = [this] { return Statistics(); }, .admins = admins}});
  });
  if (absl::Status status = opened->Open(); !status.ok()) return status;
  fronts = std::move(opened);
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

void Server::Parts::End(absl::Status why) {
  {
    const std::lock_guard lock(end_mutex);
    // A device may be lost after the end was asked for; then that is why.
    if (!end.has_value() || end->ok()) end = std::move(why);
  }
  ended.notify_all();
}

void Server::Parts::LoseDevice(const absl::Status& why) {
  spdlog::critical("event=device_lost message=\"{}\"", std::string(why.message()));
  core->device_lost.store(true, std::memory_order_relaxed);
  fronts->SetHealthy(false);
  End(why);
}

void Server::Parts::GiveBackMemory() {
  host_pool.FreeUnwanted();
  for (const std::unique_ptr<Device>& device : devices) device->pool().FreeUnwanted();
  // Buffers of messages leave holes between small things that stay.
  malloc_trim(0);
}

bool Server::Parts::Drain() {
  if (fronts == nullptr) {  // It did not start; but its figures may be read already.
    metrics->Close();
    return true;
  }
  spdlog::info("event=drain_begin active={}", admission.active_requests());
  fronts->SetHealthy(false);
  // Those who route requests here need time to notice.
  std::this_thread::sleep_for(options.drain_delay);
  core->draining.store(true, std::memory_order_relaxed);
  acceptor.Stop();
  const bool peaceful =
      admission.AwaitIdle(std::chrono::steady_clock::now() + options.drain_timeout);
  // Health watchers, streams without a header and, past the timeout, requests that are left end
  // with their connections. So do calls that arrive from now on: gRPC's shutdown would tell their
  // clients CANCELLED, which nobody repeats.
  stalls.AwaitNone(std::chrono::steady_clock::now() + kFlushTime);
  acceptor.CutConnections();
  fronts->Shutdown(std::chrono::system_clock::now() + kFlushTime);
  metrics->Close();
  spdlog::info("event=drain_end peaceful={}", peaceful);
  return peaceful;
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() { Drain(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options, std::vector<std::unique_ptr<Backend>> backends) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto metrics = std::make_unique<Metrics>();
  std::vector<std::unique_ptr<Device>> devices;
  for (std::unique_ptr<Backend>& backend : backends) {
    const std::uint64_t memory_bytes = DeviceMemoryBytes(options, backend->info());
    EngineOptions engine = ForDevice(options, backend->info());
    engine.launched = [counts = metrics.get()](std::size_t units) { counts->RecordLaunch(units); };
    absl::StatusOr<std::unique_ptr<Device>> device =
        Device::Create(std::move(backend), memory_bytes, engine);
    if (!device.ok()) return device.status();
    // A small part of a launch, so that starting takes no time to speak of.
    const absl::StatusOr<CostModel::Rates> rates =
        MeasureRates((*device)->backend(), engine.launch_operations / 20);
    if (!rates.ok()) return rates.status();
    (*device)->engine().cost_model().Calibrate(*rates);
    devices.push_back(*std::move(device));
  }
  std::unique_ptr<Server> server(new Server(
      std::make_unique<Parts>(Resolve(options), std::move(metrics), std::move(devices))));
  if (absl::Status status = server->parts_->Open(); !status.ok()) return status;
  return server;
}

bool Server::Drain() {
  const std::lock_guard lock(parts_->drain_mutex);
  if (!parts_->drained.has_value()) parts_->drained = parts_->Drain();
  return *parts_->drained;
}

absl::Status Server::AwaitEnd() {
  std::unique_lock lock(parts_->end_mutex);
  parts_->ended.wait(lock, [this] { return parts_->end.has_value(); });
  return *parts_->end;
}

std::optional<absl::Status> Server::AwaitEndFor(std::chrono::milliseconds duration) {
  std::unique_lock lock(parts_->end_mutex);
  parts_->ended.wait_for(lock, duration, [this] { return parts_->end.has_value(); });
  return parts_->end;
}

void Server::GiveBackMemory() { parts_->GiveBackMemory(); }

void Server::End() { parts_->End(absl::OkStatus()); }

int Server::port() const { return parts_->acceptor.port(); }
int Server::metrics_port() const { return parts_->metrics->port(); }

Server::Held Server::held() const {
  const v1::Statistics statistics = parts_->Statistics();
  return {statistics.requests_active(), statistics.host_bytes_reserved(),
          statistics.device_bytes_reserved(), statistics.slab_bytes_in_use(), statistics.tensors()};
}

}  // namespace sage::server
