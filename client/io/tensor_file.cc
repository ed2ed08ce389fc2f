#include "client/io/tensor_file.h"

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/io/npy.h"

namespace sage {
namespace {

absl::Status UnknownExtension(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": the name must end in .npy or .safetensors"));
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return {status.code(), absl::StrCat(path, ": ", status.message())};
}

}  // namespace

absl::StatusOr<TensorFile> TensorFile::Open(const std::string& path) {
  TensorFile opened;
  opened.path_ = path;
  opened.unnamed_ = absl::EndsWith(path, ".npy");
  if (!opened.unnamed_ && !absl::EndsWith(path, ".safetensors")) return UnknownExtension(path);
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  opened.file_ = *std::move(file);
  if (opened.unnamed_) {
    absl::StatusOr<TensorView> tensor = ParseNpy(opened.file_.bytes());
    if (!tensor.ok()) return InFile(path, tensor.status());
    opened.tensors_[""] = *std::move(tensor);
  } else {
    absl::StatusOr<std::map<std::string, TensorView>> tensors =
        ParseSafetensors(opened.file_.bytes());
    if (!tensors.ok()) return InFile(path, tensors.status());
    opened.tensors_ = *std::move(tensors);
  }
  return opened;
}

absl::StatusOr<TensorView> TensorFile::Find(const std::string& name) const {
  const auto found = tensors_.find(unnamed_ ? "" : name);
  if (found != tensors_.end()) return found->second;
  const std::string names = absl::StrJoin(
      tensors_, ", ", [](std::string* out, const auto& entry) { out->append(entry.first); });
  return absl::NotFoundError(absl::StrCat(path_, ": no tensor '", name, "' of a readable type; ",
                                          names.empty() ? "there is none" : "there are: ", names));
}

absl::StatusOr<TensorWriter> TensorWriter::Create(const std::string& path,
                                                  const std::vector<NamedTensor>& tensors) {
  std::string header;
  if (absl::EndsWith(path, ".safetensors")) {
    header = SafetensorsHeader(tensors);
  } else if (!absl::EndsWith(path, ".npy")) {
    return UnknownExtension(path);
  } else if (tensors.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": .npy holds one tensor; name a .safetensors file"));
  } else if (tensors[0].type == ElementType::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": .npy has no bfloat16; name a .safetensors file"));
  } else {
    header = NpyHeader(tensors[0].type, tensors[0].shape);
  }

  TensorWriter writer;
  std::size_t end = header.size();
  for (const NamedTensor& tensor : tensors) {
    writer.offsets_.push_back(end);
    end += TensorBytes(tensor.type, tensor.shape).value_or(0);
  }
  absl::StatusOr<OutputFile> file = OutputFile::Create(path, static_cast<std::int64_t>(end));
  if (!file.ok()) return file.status();
  writer.file_ = *std::move(file);
  std::memcpy(writer.file_.bytes().data(), header.data(), header.size());
  return writer;
}

}  // namespace sage
