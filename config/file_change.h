// Files that are read again when they have changed.
#ifndef SAGE_CONFIG_FILE_CHANGE_H_
#define SAGE_CONFIG_FILE_CHANGE_H_

#include <sys/stat.h>

#include <string>
#include <utility>

namespace sage {

// One reader's view of a file. Externally synchronised.
class FileChange {
 public:
  explicit FileChange(std::string path) : path_(std::move(path)) {}

  // Whether the file may differ from what it was at the last call, and at the first call. To be
  // asked before reading, so that a change meanwhile shows next time. A file that goes, or comes,
  // has changed.
  bool Poll();

 private:
  const std::string path_;
  struct stat seen_ {};
  bool settled_ = false;  // any change since then shows in the file's times
};

}  // namespace sage

#endif  // SAGE_CONFIG_FILE_CHANGE_H_
