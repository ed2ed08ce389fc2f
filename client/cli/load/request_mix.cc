#include "client/cli/load/request_mix.h"

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/generated_inputs.h"
#include "config/toml_reader.h"

namespace sage::cli {
namespace {

// Reads the name of an enum's value.
template <typename Enum>
void ReadName(const std::string& key, std::optional<Enum> (*parse)(std::string_view),
              const char* names, TomlTable* table, Enum* value) {
  std::string text(Name(*value));
  table->Read(key, &text);
  if (const std::optional<Enum> parsed = parse(text)) {
    *value = *parsed;
  } else {
    table->Refuse(key, absl::StrCat("'", text, "' is none of ", names));
  }
}

MixEntry ReadEntry(std::size_t index, TomlTable* table) {
  MixEntry entry;
  entry.name = absl::StrCat("shape ", index + 1);
  table->Read("name", &entry.name);
  table->Read("weight", &entry.weight);
  if (!(entry.weight > 0)) table->Refuse("weight", "must be positive");
  GeneratedShape& shape = entry.generated.shape;
  table->Read("batch", &shape.batch);
  table->Read("heads", &shape.num_heads_q);
  shape.num_heads_kv = shape.num_heads_q;
  table->Read("kv_heads", &shape.num_heads_kv);
  std::optional<std::int64_t> seqlen;
  table->Read("seqlen", &seqlen);
  shape.seqlen_q = shape.seqlen_k = seqlen.value_or(shape.seqlen_q);
  table->Read("seqlen_q", &shape.seqlen_q);
  table->Read("seqlen_k", &shape.seqlen_k);
  table->Read("head_dim", &shape.head_dim);
  ReadName("dtype", ParseDType, "fp16, bf16", table, &entry.generated.dtype);
  ReadName("layout", ParseLayout, "HND, NHD", table, &entry.generated.layout);
  ReadName("precision", ParsePrecision, "qk_int8_pv_fp16, qk_int8_pv_fp8, fp16", table,
           &entry.generated.precision);
  table->Read("causal", &entry.generated.is_causal);
  table->Read("resident", &entry.generated.resident_kv);
  table->Read("pattern", &entry.generated.pattern);
  double sparsity = 0;
  table->Read("sparsity", &sparsity);
  if (!(sparsity >= 0 && sparsity < 1)) table->Refuse("sparsity", "must be at least 0 and below 1");
  if (sparsity > 0 && !entry.generated.pattern.empty()) {
    table->Refuse("sparsity", "give this or pattern, not both");
  }
  shape.density = 1 - sparsity;
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<MixEntry>> ReadMix(const std::string& path) {
  absl::StatusOr<TomlTable> file = TomlTable::Open(path);
  if (!file.ok()) return file.status();
  std::vector<MixEntry> mix;
  std::vector<TomlTable> tables = file->Tables("shape");
  if (absl::Status status = file->Finish(); !status.ok()) return status;
  for (TomlTable& table : tables) {
    mix.push_back(ReadEntry(mix.size(), &table));
    if (absl::Status status = table.Finish(); !status.ok()) return status;
  }
  if (mix.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has no [[shape]] table"));
  }
  return mix;
}

absl::StatusOr<std::vector<MixedInputs>> MakeInputs(const std::vector<MixEntry>& mix,
                                                    std::uint64_t seed) {
  std::vector<MixedInputs> all;
  for (const MixEntry& entry : mix) {
    GeneratedShape shape = entry.generated.shape;
    shape.seed = seed;
    absl::StatusOr<ProblemInputs> inputs = GenerateInputs(shape, entry.generated.problem_options());
    if (!inputs.ok()) {
      return absl::Status(inputs.status().code(),
                          absl::StrCat(entry.name, ": ", inputs.status().message()));
    }
    inputs->problem.precision = entry.generated.precision;
    all.push_back({*std::move(inputs), entry.weight, entry.generated.resident_kv});
  }
  return all;
}

}  // namespace sage::cli
