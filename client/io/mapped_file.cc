#include "client/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sage {
namespace {

absl::Status FileError(const std::string& path, const std::string& what, int error) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::InvalidArgumentError(message);
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

void DropPages(const void* data, std::size_t size) {
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::size_t skipped = (page - reinterpret_cast<std::uintptr_t>(data) % page) % page;
  if (size < skipped + page) return;  // only whole pages go
  void* begin = const_cast<std::byte*>(static_cast<const std::byte*>(data) + skipped);
  // A failure leaves the pages resident, which is harmless.
  madvise(begin, (size - skipped) / page * page, MADV_DONTNEED);
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Without O_NONBLOCK, opening a FIFO would wait for a writer.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return FileError(path, "cannot open", errno);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return FileError(path, "cannot read", errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  MappedFile mapped;
  if (info.st_size == 0) return mapped;
  void* data = mmap(nullptr, info.st_size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return FileError(path, "cannot map", errno);
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = info.st_size;
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path, std::int64_t size) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": exists and is not a regular file"));
  }
  OutputFile output;
  std::string temporary = absl::StrCat(path, ".XXXXXX");
  const FileDescriptor file(mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) return FileError(path, "cannot create", errno);
  output.path_ = path;
  output.temporary_path_ = std::move(temporary);
  const mode_t mask = umask(0);  // as a plain open() would have made it
  umask(mask);
  fchmod(file.get(), 0666 & ~mask);
  if (const int error = posix_fallocate(file.get(), 0, size); error != 0) {
    return FileError(path, absl::StrCat("cannot reserve ", size, " bytes"), error);
  }
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return FileError(path, "cannot map", errno);
  output.data_ = static_cast<std::byte*>(data);
  output.size_ = size;
  return output;
}

OutputFile::OutputFile(OutputFile&& other) noexcept { *this = std::move(other); }

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_path_, other.temporary_path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

OutputFile::~OutputFile() {
  Unmap();
  if (!temporary_path_.empty()) unlink(temporary_path_.c_str());
}

absl::Status OutputFile::Commit() {
  Unmap();
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return FileError(path_, "cannot put the file in place", errno);
  }
  temporary_path_.clear();
  return absl::OkStatus();
}

void OutputFile::Unmap() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
}

absl::Status WriteFile(const std::string& path, std::span<const std::byte> content) {
  absl::StatusOr<OutputFile> file =
      OutputFile::Create(path, static_cast<std::int64_t>(content.size()));
  if (!file.ok()) return file.status();
  std::copy(content.begin(), content.end(), file->bytes().begin());
  return file->Commit();
}

}  // namespace sage
