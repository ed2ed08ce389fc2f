// File descriptors with an owner.
#ifndef SAGE_SERVER_FILE_DESCRIPTOR_H_
#define SAGE_SERVER_FILE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace sage::server {

// A file descriptor that is closed with its owner. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_FILE_DESCRIPTOR_H_
