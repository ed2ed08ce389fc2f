// Certificates for tests, made on the spot.
#ifndef SAGE_TESTS_SUPPORT_CERTIFICATE_AUTHORITY_H_
#define SAGE_TESTS_SUPPORT_CERTIFICATE_AUTHORITY_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace sage::testing {

// Whose a certificate is to be, and when it is good.
struct Subject {
  std::string common_name;
  std::vector<std::string> alternative_names = {};  // "DNS:...", "URI:...", "IP:..."
  std::chrono::seconds begins{-60};                 // from now
  std::chrono::seconds ends{3600};
};

// Both as PEM.
struct Identity {
  std::string certificate;
  std::string key;
};

// Ends the test program where OpenSSL fails.
class CertificateAuthority {
 public:
  CertificateAuthority();
  ~CertificateAuthority();

  const std::string& certificate() const;  // its own, as PEM
  Identity Issue(const Subject& subject) const;
  // For servers on 127.0.0.1.
  Identity IssueForLoopback() const { return Issue({"server", {"IP:127.0.0.1"}}); }

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_CERTIFICATE_AUTHORITY_H_
