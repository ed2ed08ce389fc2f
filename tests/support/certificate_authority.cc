#include "tests/support/certificate_authority.h"

#include <cstdlib>
#include <iostream>
#include <numeric>

#include "openssl/err.h"
#include "openssl/evp.h"
#include "openssl/pem.h"
#include "openssl/rand.h"
#include "openssl/x509.h"
#include "openssl/x509v3.h"

namespace sage::testing {
namespace {

void Must(bool done) {
  if (done) return;
  ERR_print_errors_fp(stderr);
  std::abort();
}

using Certificate = std::shared_ptr<X509>;
using Key = std::shared_ptr<EVP_PKEY>;

Certificate Own(X509* certificate) { return {certificate, X509_free}; }
Key NewKey() {
  Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  Must(key != nullptr);
  return key;
}

template <typename Write>
std::string ToPem(Write write) {
  const std::shared_ptr<BIO> bio(BIO_new(BIO_s_mem()), BIO_free_all);
  Must(write(bio.get()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

void AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  Must(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

// Unsigned.
Certificate Make(const Subject& subject, EVP_PKEY* key) {
  Certificate made = Own(X509_new());
  Must(X509_set_version(made.get(), 2) == 1);
  std::uint64_t serial = 0;
  Must(RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial)) == 1);
  Must(ASN1_INTEGER_set_uint64(X509_get_serialNumber(made.get()), serial >> 1) == 1);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), subject.begins.count());
  X509_gmtime_adj(X509_getm_notAfter(made.get()), subject.ends.count());
  Must(X509_set_pubkey(made.get(), key) == 1);
  if (!subject.common_name.empty()) {
    Must(X509_NAME_add_entry_by_txt(
             X509_get_subject_name(made.get()), "CN", MBSTRING_UTF8,
             reinterpret_cast<const unsigned char*>(subject.common_name.c_str()), -1, -1, 0) == 1);
  }
  return made;
}

}  // namespace

struct CertificateAuthority::State {
  Key key = NewKey();
  Certificate certificate = Make({"test authority", {}}, key.get());
  std::string pem;
};

CertificateAuthority::CertificateAuthority() : state_(std::make_unique<State>()) {
  X509* const self = state_->certificate.get();
  Must(X509_set_issuer_name(self, X509_get_subject_name(self)) == 1);
  AddExtension(self, self, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(self, self, NID_subject_key_identifier, "hash");
  Must(X509_sign(self, state_->key.get(), EVP_sha256()) > 0);
  state_->pem = ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, self); });
}

CertificateAuthority::~CertificateAuthority() = default;

const std::string& CertificateAuthority::certificate() const { return state_->pem; }

Identity CertificateAuthority::Issue(const Subject& subject) const {
  X509* const issuer = state_->certificate.get();
  const Key key = NewKey();
  const Certificate made = Make(subject, key.get());
  Must(X509_set_issuer_name(made.get(), X509_get_subject_name(issuer)) == 1);
  AddExtension(made.get(), issuer, NID_authority_key_identifier, "keyid");
  if (!subject.alternative_names.empty()) {
    AddExtension(made.get(), issuer, NID_subject_alt_name,
                 std::accumulate(std::next(subject.alternative_names.begin()),
                                 subject.alternative_names.end(), subject.alternative_names.front(),
                                 [](const std::string& list, const std::string& name) {
                                   return list + "," + name;
                                 }));
  }
  Must(X509_sign(made.get(), state_->key.get(), EVP_sha256()) > 0);
  return {ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, made.get()); }),
          ToPem([&](BIO* bio) {
            return PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

}  // namespace sage::testing
