#include "client/io/safetensors.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace sage {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxRank = 32;

absl::Status DamagedSafetensors(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("not a usable .safetensors file: ", what));
}

struct FileType {
  std::string_view name;
  ElementType type;
};
// Types that are read; of two names for one type the first is written.
constexpr FileType kFileTypes[] = {
    {"F16", ElementType::kFloat16}, {"BF16", ElementType::kBFloat16},
    {"F32", ElementType::kFloat32}, {"U8", ElementType::kUInt8},
    {"I8", ElementType::kUInt8},    {"BOOL", ElementType::kBool},
};

std::optional<std::uint64_t> Unsigned(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<std::uint64_t>();
}

struct Range {
  std::uint64_t begin;
  std::uint64_t end;
};

absl::StatusOr<Range> ParseOffsets(const std::string& name, const json& entry,
                                   std::uint64_t data_size) {
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return DamagedSafetensors(absl::StrCat("tensor '", name, "' lacks its data_offsets"));
  }
  const std::optional<std::uint64_t> begin = Unsigned((*offsets)[0]);
  const std::optional<std::uint64_t> end = Unsigned((*offsets)[1]);
  if (!begin || !end || *begin > *end || *end > data_size) {
    return DamagedSafetensors(absl::StrCat("tensor '", name, "' lies outside of the file"));
  }
  return Range{*begin, *end};
}

absl::StatusOr<std::vector<std::int64_t>> ParseShape(const std::string& name, const json& entry) {
  const absl::Status bad = DamagedSafetensors(absl::StrCat("tensor '", name, "' has a bad shape"));
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() || shape->size() > kMaxRank) return bad;
  std::vector<std::int64_t> dimensions;
  for (const json& value : *shape) {
    const std::optional<std::uint64_t> dimension = Unsigned(value);
    if (!dimension || *dimension > (std::uint64_t{1} << 62)) return bad;
    dimensions.push_back(static_cast<std::int64_t>(*dimension));
  }
  return dimensions;
}

}  // namespace

absl::StatusOr<std::map<std::string, TensorView>> ParseSafetensors(
    std::span<const std::byte> file) {
  if (file.size() < kLengthBytes) return DamagedSafetensors("it ends in its first bytes");
  std::uint64_t header_size = 0;
  for (std::uint64_t i = 0; i < kLengthBytes; ++i) {
    header_size |= static_cast<std::uint64_t>(file[i]) << (8 * i);
  }
  if (header_size > kMaxHeaderBytes || header_size > file.size() - kLengthBytes) {
    return DamagedSafetensors(
        absl::StrCat("header of ", header_size, " bytes in a file of ", file.size()));
  }
  const auto* header = reinterpret_cast<const char*>(file.data() + kLengthBytes);
  std::set<std::string> names;
  bool repeated = false;
  const auto watch_names = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      repeated = repeated || !names.insert(parsed.get<std::string>()).second;
    }
    return true;
  };
  const json root = json::parse(header, header + header_size, watch_names, false);
  if (!root.is_object()) return DamagedSafetensors("its header is no JSON object");
  if (repeated) return DamagedSafetensors("a tensor's name comes twice");

  const std::span<const std::byte> data = file.subspan(kLengthBytes + header_size);
  std::map<std::string, TensorView> tensors;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") continue;
    if (!entry.is_object())
      return DamagedSafetensors(absl::StrCat("tensor '", name, "' is no JSON object"));
    absl::StatusOr<Range> range = ParseOffsets(name, entry, data.size());
    if (!range.ok()) return range.status();
    ranges.push_back(*range);
    absl::StatusOr<std::vector<std::int64_t>> shape = ParseShape(name, entry);
    if (!shape.ok()) return shape.status();
    const auto dtype = entry.find("dtype");
    if (dtype == entry.end() || !dtype->is_string()) {
      return DamagedSafetensors(absl::StrCat("tensor '", name, "' lacks its dtype"));
    }
    const auto* known = std::find_if(
        std::begin(kFileTypes), std::end(kFileTypes),
        [&](const FileType& type) { return type.name == dtype->get_ref<const std::string&>(); });
    if (known == std::end(kFileTypes)) continue;

    const std::optional<std::int64_t> bytes = TensorBytes(known->type, *shape);
    const auto available = static_cast<std::int64_t>(range->end - range->begin);
    if (!bytes || *bytes != available) {
      return DamagedSafetensors(absl::StrCat("tensor '", name, "' of shape ", ShapeText(*shape),
                                             " has ", available, " bytes"));
    }
    const std::byte* begin = data.data() + range->begin;
    if (reinterpret_cast<std::uintptr_t>(begin) % SizeOf(known->type) != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor '", name, "' is not aligned; save the file again with a current safetensors"));
    }
    tensors[name] = TensorView{known->type, *std::move(shape), begin, available};
  }

  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin != end) return DamagedSafetensors("its tensors overlap, or leave gaps");
    end = range.end;
  }
  if (end != data.size()) return DamagedSafetensors("it goes on after its tensors");
  return tensors;
}

std::string SafetensorsHeader(const std::vector<NamedTensor>& tensors) {
  json root = json::object();
  std::int64_t begin = 0;
  for (const NamedTensor& tensor : tensors) {
    const auto* type =
        std::find_if(std::begin(kFileTypes), std::end(kFileTypes),
                     [&](const FileType& candidate) { return candidate.type == tensor.type; });
    const std::int64_t end = begin + TensorBytes(tensor.type, tensor.shape).value_or(0);
    root[tensor.name] = {
        {"dtype", type->name}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = root.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string header;
  for (std::uint64_t i = 0; i < kLengthBytes; ++i) {
    header.push_back(static_cast<char>(text.size() >> (8 * i)));
  }
  return header + text;
}

}  // namespace sage
