#include "server/library_logs.h"

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "server/log_limiter.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

// Clients can cause most of these lines. Errors have a limit of their own, so that other lines keep
// nobody from knowing why a library gave up. The libraries' handlers are functions without state.
void Log(spdlog::level::level_enum level, const char* library, std::string_view message) {
  if (!spdlog::should_log(level)) return;
  static LogLimiter errors;
  static LogLimiter others;
  const auto left_out = (level >= spdlog::level::err ? errors : others).Take();
  if (!left_out.has_value() && level < spdlog::level::critical) return;
  spdlog::log(level, "event=library library={} left_out={} message=\"{}\"", library,
              left_out.value_or(0), absl::CEscape({message.data(), message.size()}));
}

void LogOfGrpc(gpr_log_func_args* args) {
  auto level = spdlog::level::debug;
  if (args->severity == GPR_LOG_SEVERITY_INFO) level = spdlog::level::info;
  if (args->severity == GPR_LOG_SEVERITY_ERROR) level = spdlog::level::err;
  Log(level, "grpc", args->message);
}

void LogOfProtobuf(google::protobuf::LogLevel severity, const char* /*file*/, int /*line*/,
                   const std::string& message) {
  auto level = spdlog::level::info;
  if (severity == google::protobuf::LOGLEVEL_WARNING) level = spdlog::level::warn;
  if (severity == google::protobuf::LOGLEVEL_ERROR) level = spdlog::level::err;
  if (severity == google::protobuf::LOGLEVEL_FATAL) level = spdlog::level::critical;
  Log(level, "protobuf", message);
}

}  // namespace

void TakeLibraryLogs() {
  gpr_set_log_function(LogOfGrpc);
  google::protobuf::SetLogHandler(LogOfProtobuf);
}

}  // namespace sage::server
