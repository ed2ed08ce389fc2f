#include "tests/support/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

namespace sage::testing {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const std::string& what, int error) {
  std::cerr << what << ": " << std::strerror(error) << '\n';
  std::abort();
}

// Pointers to `words`, which must outlive them, ended by a null pointer as exec wants them.
std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

ScratchFolder::ScratchFolder() {
  std::string name = std::filesystem::temp_directory_path() / "sage_test_XXXXXX";
  if (mkdtemp(name.data()) == nullptr) Die(name, errno);
  path_ = name;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

ChildProcess::ChildProcess(const std::string& program, const std::vector<std::string>& arguments,
                           std::optional<std::vector<std::string>> environment) {
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = Pointers(words);
  std::vector<char*> own_environment;
  if (environment.has_value()) own_environment = Pointers(*environment);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  const std::string out = folder_.File("stdout");
  const std::string err = folder_.File("stderr");
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), flags, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), flags, 0600);
  const int error = posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(),
                                environment.has_value() ? own_environment.data() : environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Die(program, error);
  pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  if (pidfd_ < 0) Die("pidfd_open", errno);
}

ChildProcess::~ChildProcess() {
  if (!status_.has_value()) {
    kill(pid_, SIGKILL);
    Wait();
  }
  close(pidfd_);
}

void ChildProcess::Signal(int signal) const { kill(pid_, signal); }

bool ChildProcess::EndsWithin(std::chrono::milliseconds timeout) const {
  pollfd ended{pidfd_, POLLIN, 0};
  return poll(&ended, 1, static_cast<int>(timeout.count())) == 1;
}

bool ChildProcess::Await(const std::function<bool()>& ready) {
  const Clock::time_point give_up = Clock::now() + kPatience;
  while (!ready()) {
    if (EndsWithin(std::chrono::milliseconds(2)) || Clock::now() > give_up) return false;
  }
  return true;
}

std::optional<int> ChildProcess::Wait() {
  if (!status_.has_value() && EndsWithin(kPatience)) {
    int status = 0;
    waitpid(pid_, &status, 0);
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  return status_;
}

std::string ChildProcess::out() const { return ReadFile(folder_.File("stdout")); }
std::string ChildProcess::err() const { return ReadFile(folder_.File("stderr")); }

}  // namespace sage::testing
