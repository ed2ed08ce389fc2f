// A program that a test runs: started without a shell, awaited with a limit, never left behind.
#ifndef SAGE_TESTS_SUPPORT_CHILD_PROCESS_H_
#define SAGE_TESTS_SUPPORT_CHILD_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sage::testing {

// An empty folder of its own, removed with all that is in it on destruction.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Not thread-safe. Destruction kills a child that still runs.
class ChildProcess {
 public:
  static constexpr std::chrono::seconds kPatience{60};

  // Runs `program` with `arguments`; what it writes goes to files. `environment` holds NAME=VALUE
  // entries; absent: that of the test. Ends the test program where it cannot be started.
  ChildProcess(const std::string& program, const std::vector<std::string>& arguments,
               std::optional<std::vector<std::string>> environment = std::nullopt);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;

  // Waits until `ready` holds; false where the child ends, or patience does, before.
  bool Await(const std::function<bool()>& ready);

  // Waits for the end: the exit status, or minus the signal that ended it; nothing where patience
  // ends before.
  std::optional<int> Wait();

  // What it has written so far.
  std::string out() const;
  std::string err() const;

 private:
  bool EndsWithin(std::chrono::milliseconds timeout) const;

  const ScratchFolder folder_;  // of the two files
  pid_t pid_ = -1;
  int pidfd_ = -1;
  std::optional<int> status_;
};

std::string ReadFile(const std::string& path);  // empty where there is none

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_CHILD_PROCESS_H_
