// Tensor files by their extension: .npy holds one tensor, .safetensors any number, by name.
#ifndef SAGE_CLIENT_IO_TENSOR_FILE_H_
#define SAGE_CLIENT_IO_TENSOR_FILE_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/io/mapped_file.h"
#include "client/io/safetensors.h"
#include "client/io/tensor_view.h"

namespace sage {

// An open file of tensors, memory-mapped; its views are valid while it lives. Move-only.
class TensorFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT, beginning with the file's name and saying what to do.
  static absl::StatusOr<TensorFile> Open(const std::string& path);

  // The tensor of that name; in a .npy file the only tensor, whatever the name. NOT_FOUND, listing
  // what there is.
  absl::StatusOr<TensorView> Find(const std::string& name) const;
  bool Has(const std::string& name) const { return tensors_.count(name) > 0; }

 private:
  std::string path_;
  MappedFile file_;
  bool unnamed_ = false;
  std::map<std::string, TensorView> tensors_;
};

// A new file of tensors, memory-mapped at full size, zeroed; see OutputFile. Move-only.
class TensorWriter {
 public:
  // INVALID_ARGUMENT, beginning with the file's name, where the format cannot hold these tensors or
  // the file cannot be made; RESOURCE_EXHAUSTED where the disk is full.
  static absl::StatusOr<TensorWriter> Create(const std::string& path,
                                             const std::vector<NamedTensor>& tensors);

  // Elements of tensor `index` of those given to Create().
  std::byte* data(std::size_t index) const { return file_.bytes().data() + offsets_[index]; }

  absl::Status Commit() { return file_.Commit(); }

 private:
  OutputFile file_;
  std::vector<std::size_t> offsets_;
};

}  // namespace sage

#endif  // SAGE_CLIENT_IO_TENSOR_FILE_H_
