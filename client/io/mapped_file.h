// Files as memory.
#ifndef SAGE_CLIENT_IO_MAPPED_FILE_H_
#define SAGE_CLIENT_IO_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sage {

// Lets go of the resident pages within [data, data + size) of a mapped file: they stay in the page
// cache, or in the file, and come back when touched.
void DropPages(const void* data, std::size_t size);

// A file, mapped read-only. Move-only. Must not be made shorter by others meanwhile: reading past
// its end ends the process.
class MappedFile {
 public:
  // NOT_FOUND, or INVALID_ARGUMENT where `path` cannot be read or is no regular file.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// A new file of a known size, mapped for writing, zeroed. Nothing appears at its path before
// Commit(); what is not committed vanishes. Move-only.
class OutputFile {
 public:
  // INVALID_ARGUMENT where the file cannot be made there, RESOURCE_EXHAUSTED where the disk is
  // full: all of it is reserved here.
  static absl::StatusOr<OutputFile> Create(const std::string& path, std::int64_t size);

  OutputFile() = default;
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  std::span<std::byte> bytes() const { return {data_, size_}; }

  // Puts the file in place, replacing one that was there.
  absl::Status Commit();

 private:
  void Unmap();

  std::string path_;
  std::string temporary_path_;  // empty once committed
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Makes a file of `content`, replacing one that was there. Errors as OutputFile::Create.
absl::Status WriteFile(const std::string& path, std::span<const std::byte> content);

}  // namespace sage

#endif  // SAGE_CLIENT_IO_MAPPED_FILE_H_
