// sagectl info: what a server is and how it is doing.

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/server_options.h"
#include "client/cli/table.h"
#include "google/protobuf/util/json_util.h"

namespace sage::cli {
namespace {

struct InfoOptions {
  ServerOptions server;
  bool json = false;
};

// "PRECISION_QK_INT8_PV_FP16" -> "qk_int8_pv_fp16"
std::string EnumText(const std::string& name, const char* prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

std::string LimitText(std::uint64_t bytes) {
  return bytes == 0 ? "none" : ByteText(static_cast<double>(bytes));
}

// Statistics are null where they are not for the caller.
void PrintText(const std::string& target, const v1::ServerInfo& info,
               const v1::Statistics* statistics) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](const std::string& name, const std::string& value) {
    rows.push_back({absl::StrCat(name, ":  ", value)});
  };
  add("server", absl::StrCat(target, ", version ", info.version(), ", id ", info.server_id()));
  add("backend", info.backend());
  for (const v1::DeviceInfo& device : info.devices()) {
    add("device", absl::StrCat(device.name(), ", ", device.kernel_path(), ", ",
                               ByteText(static_cast<double>(device.memory_bytes()))));
  }
  std::string precisions;
  for (const int precision : info.precisions()) {
    absl::StrAppend(
        &precisions, precisions.empty() ? "" : ", ",
        EnumText(v1::Precision_Name(static_cast<v1::Precision>(precision)), "PRECISION_"));
  }
  add("precisions", precisions);
  const v1::Limits& limits = info.limits();
  add("limits",
      absl::StrCat("host ", LimitText(limits.host_memory_bytes()), ", device ",
                   LimitText(limits.device_memory_bytes()), ", mask ",
                   LimitText(limits.max_mask_bytes()), ", requests ",
                   limits.max_concurrent_requests(), ", connections ", limits.max_connections()));
  add("tenant", absl::StrCat(info.tenant(), ", tensors ", LimitText(limits.tensor_memory_bytes())));
  if (statistics == nullptr) {
    add("statistics", "for admins of the server only");
  } else {
    add("requests", absl::StrCat(statistics->requests_ok(), " ok, ", statistics->requests_failed(),
                                 " failed, ", statistics->requests_active(), " active, up ",
                                 statistics->uptime_ms() / 1000, " s"));
    add("payload",
        absl::StrCat(ByteText(static_cast<double>(statistics->payload_bytes_in())), " in, ",
                     ByteText(static_cast<double>(statistics->payload_bytes_out())), " out"));
  }
  PrintTable(rows, std::cout);
}

int PrintJson(const v1::ServerInfo& info, const v1::Statistics* statistics) {
  google::protobuf::util::JsonPrintOptions format;
  format.always_print_primitive_fields = true;
  format.preserve_proto_field_names = true;
  std::string info_text;
  std::string statistics_text = statistics == nullptr ? "null" : "";
  if (!google::protobuf::util::MessageToJsonString(info, &info_text, format).ok() ||
      (statistics != nullptr &&
       !google::protobuf::util::MessageToJsonString(*statistics, &statistics_text, format).ok())) {
    return Fail(absl::InternalError("the server's answer has no JSON form"));
  }
  std::cout << R"({"info":)" << info_text << R"(,"statistics":)" << statistics_text << "}\n";
  return kSuccess;
}

int RunInfo(const InfoOptions& options) {
  absl::StatusOr<std::unique_ptr<Client>> client = Connect(options.server);
  if (!client.ok()) return RefuseUsage(client.status());
  absl::StatusOr<v1::ServerInfo> info = (*client)->GetInfo();
  if (!info.ok()) return Fail(info.status());
  absl::StatusOr<v1::Statistics> statistics = (*client)->GetStatistics();
  const bool for_us = !absl::IsPermissionDenied(statistics.status());
  if (for_us && !statistics.ok()) return Fail(statistics.status());
  const v1::Statistics* const shown = for_us ? &*statistics : nullptr;
  if (options.json) return PrintJson(*info, shown);
  PrintText((*client)->options().target, *info, shown);
  return kSuccess;
}

}  // namespace

void AddInfoCommand(CLI::App* app, int* exit_code) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command = app->add_subcommand("info", "What a server is, can do, and how it is doing");
  AddServerOptions(command, &options->server);
  command->add_flag("--json", options->json, "Print JSON");
  command->footer("Example: sagectl info --server 127.0.0.1:50051");
  command->callback([options, exit_code] { *exit_code = RunInfo(*options); });
}

}  // namespace sage::cli
