// Who may talk to a server: TLS, client certificates, tokens, tenants and their limits.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "grpc/grpc_security_constants.h"
#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "server/tenant_name.h"
#include "server/token_file.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/child_process.h"
#include "tests/support/plain_client.h"
#include "tests/support/server_fixture.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Security : public ServerFixture {
 protected:
  std::string Write(const std::string& name, const std::string& text, mode_t mode = 0600) {
    const std::string path = folder_.File(name);
    std::ofstream(path) << text;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }

  // Files of an identity; `name` is unique.
  TlsOptions Files(const std::string& name, const Identity& identity) {
    return {.root_certificates = Write(name + ".ca", authority_.certificate()),
            .certificate = Write(name + ".pem", identity.certificate),
            .key = Write(name + ".key", identity.key)};
  }

  server::ServerOptions TlsServer() {
    const TlsOptions files = Files("server", authority_.IssueForLoopback());
    server::ServerOptions options = TestServerOptions();
    options.tls_certificate = files.certificate;
    options.tls_key = files.key;
    return options;
  }
  server::ServerOptions MutualTlsServer() {
    server::ServerOptions options = TlsServer();
    options.tls_client_ca = Write("clients.ca", authority_.certificate());
    return options;
  }

  std::string AddToken(const std::string& tenant) {
    const absl::StatusOr<std::string> token = server::AddToken(folder_.File("tokens.toml"), tenant);
    EXPECT_TRUE(token.ok()) << token.status();
    return token.value_or("");
  }
  server::ServerOptions TokenServer() {
    server::ServerOptions options = TestServerOptions();
    options.tokens = folder_.File("tokens.toml");
    return options;
  }

  // One that shows a new certificate of the subject.
  std::unique_ptr<Client> ClientOf(const Subject& subject) {
    return Connect(
        {.target = target(), .tls = Files(subject.common_name, authority_.Issue(subject))});
  }
  std::unique_ptr<Client> ClientWith(const std::string& token) {
    return Connect({.target = target(), .token = token});
  }
  static std::unique_ptr<Client> Connect(ClientOptions options) {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(std::move(options));
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  // Whom the server takes the client for, or the error's code.
  static std::string TenantOf(Client& client) {
    const absl::StatusOr<v1::ServerInfo> info = client.GetInfo(absl::Seconds(20));
    return info.ok() ? info->tenant() : absl::StatusCodeToString(info.status().code());
  }

  ::testing::AssertionResult AttendsRightly(Client& client) const {
    PoisonedOutput output(sample_.problem);
    AttendRequest request;
    request.problem = sample_.problem;
    request.q = sample_.data.q.data();
    request.k = sample_.data.k.data();
    request.v = sample_.data.v.data();
    request.out = output.out.data();
    if (sample_.problem.return_lse) request.lse = output.lse.data();
    const absl::StatusOr<AttendReport> report = client.Attend(request);
    if (!report.ok()) return ::testing::AssertionFailure() << report.status();
    return IsRight(sample_, output);
  }

  const ScratchFolder folder_;
  const CertificateAuthority authority_;
  const Sample sample_ = MakeSample(SmallProblem(), 1);
};

TEST_F(Security, TlsServesWhoTrustsTheServer) {
  StartServer(TlsServer());
  const std::string ca = Write("roots.ca", authority_.certificate());
  const auto client = Connect({.target = target(), .tls = TlsOptions{.root_certificates = ca}});
  EXPECT_EQ(TenantOf(*client), "default");
  EXPECT_TRUE(AttendsRightly(*client));
  EXPECT_TRUE(client->GetStatistics().ok());

  const std::string other_ca = Write("other.ca", CertificateAuthority().certificate());
  const auto distrusting =
      Connect({.target = target(), .tls = TlsOptions{.root_certificates = other_ca}});
  EXPECT_EQ(distrusting->GetInfo().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(Security, PlaintextToATlsPortFailsAndSaysWhatMayBeWrong) {
  StartServer(TlsServer());
  const auto client = Connect({.target = target()});
  const absl::Status status = client->GetInfo().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("do both sides use TLS"));
  const std::string ca = Write("roots.ca", authority_.certificate());
  EXPECT_TRUE(
      AttendsRightly(*Connect({.target = target(), .tls = TlsOptions{.root_certificates = ca}})));
}

TEST_F(Security, ACertificateIsATenant) {
  StartServer(MutualTlsServer());
  const auto alice = ClientOf({"alice", {"DNS:alice.example", "DNS:other.example"}});
  EXPECT_EQ(TenantOf(*alice), "alice.example");
  EXPECT_TRUE(AttendsRightly(*alice));
  EXPECT_EQ(TenantOf(*ClientOf({"bob", {}})), "bob");
  EXPECT_EQ(TenantOf(*ClientOf({"carol", {"URI:spiffe://lab/carol"}})), "spiffe://lab/carol");
  // Nobody becomes a user of this machine, or breaks a line of the log, by a certificate.
  for (const char* name : {"uid:0", "two words", "x\ny"}) {
    SCOPED_TRACE(name);
    const auto client =
        Connect({.target = target(), .tls = Files("odd", authority_.Issue({name, {}}))});
    EXPECT_EQ(TenantOf(*client), "PERMISSION_DENIED");
  }
}

TEST_F(Security, OnlyGoodCertificatesPassTheHandshake) {
  StartServer(MutualTlsServer());
  const std::string ca = Write("roots.ca", authority_.certificate());
  const auto without = Connect({.target = target(), .tls = TlsOptions{.root_certificates = ca}});
  EXPECT_EQ(TenantOf(*without), "UNAVAILABLE");
  using std::chrono::seconds;
  EXPECT_EQ(TenantOf(*ClientOf({"expired", {}, seconds(-60), seconds(-5)})), "UNAVAILABLE");
  EXPECT_EQ(TenantOf(*ClientOf({"early", {}, seconds(600), seconds(1200)})), "UNAVAILABLE");
  TlsOptions foreign = Files("foreign", CertificateAuthority().Issue({"foreign", {}}));
  foreign.root_certificates = ca;
  EXPECT_EQ(TenantOf(*Connect({.target = target(), .tls = foreign})), "UNAVAILABLE");
  EXPECT_EQ(TenantOf(*ClientOf({"good", {}})), "good");
}

TEST_F(Security, CertificatesOfListedTenantsOnlyWhereAnyIsListed) {
  server::ServerOptions options = MutualTlsServer();
  options.tenants["team"].certificates = {"alice.example", "bob"};
  StartServer(options);
  EXPECT_EQ(TenantOf(*ClientOf({"alice", {"DNS:x.example", "DNS:alice.example"}})), "team");
  EXPECT_EQ(TenantOf(*ClientOf({"bob", {}})), "team");
  const absl::Status status = ClientOf({"carol", {}})->GetInfo().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message(), "the client's certificate is no tenant's of this server");
}

TEST_F(Security, ATokenIsATenant) {
  const std::string token = AddToken("team-a");
  StartServer(TokenServer());
  const auto client = ClientWith(token);
  EXPECT_EQ(TenantOf(*client), "team-a");
  EXPECT_TRUE(AttendsRightly(*client));

  std::string almost = token;
  almost.back() = almost.back() == '0' ? '1' : '0';
  for (const std::string& bad : {almost, token.substr(0, token.size() - 1), std::string("x"),
                                 token + "0", "sage__" + token.substr(22)}) {
    const absl::Status status = ClientWith(bad)->GetInfo().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << bad;
    EXPECT_EQ(status.message(), "authorization: no such token");
  }
  const auto nobody = Connect({.target = target()});
  EXPECT_EQ(TenantOf(*nobody), "UNAUTHENTICATED");
  EXPECT_FALSE(AttendsRightly(*nobody));
  EXPECT_EQ(nobody->Put(TensorRole::kQ, sample_.problem, sample_.data.q.data()).status().code(),
            absl::StatusCode::kUnauthenticated);
}

TEST_F(Security, EveryMethodAsksForCredentials) {
  AddToken("team-a");
  StartServer(TokenServer());
  const auto channel = NewChannel();
  for (const char* method :
       {"Attention/Attend", "Attention/AttendStream", "Tensors/Put", "Tensors/Get", "Tensors/Stat",
        "Tensors/Renew", "Tensors/Release", "Server/GetInfo", "Server/GetStatistics"}) {
    const RawAnswer answer = RawExchange(channel, std::string("/sage.v1.") + method, {""});
    EXPECT_TRUE(IsError(answer.status, grpc::StatusCode::UNAUTHENTICATED,
                        StartsWith("authorization: missing; this server wants 'Bearer TOKEN'"),
                        Details::kNone))
        << method;
  }
}

TEST_F(Security, AuthorizationIsOneBearerToken) {
  const std::string token = AddToken("team-a");
  StartServer(TokenServer());
  const auto stub = v1::Server::NewStub(NewChannel());
  const auto call = [&](const std::vector<std::string>& values) {
    grpc::ClientContext context;
    for (const std::string& value : values) context.AddMetadata("authorization", value);
    v1::ServerInfo info;
    return stub->GetInfo(&context, {}, &info);
  };
  EXPECT_TRUE(call({"bearer " + token}).ok());
  EXPECT_TRUE(IsError(call({token}), grpc::StatusCode::UNAUTHENTICATED,
                      "authorization: allowed 'Bearer TOKEN'", Details::kNone));
  EXPECT_TRUE(IsError(call({"Basic " + token}), grpc::StatusCode::UNAUTHENTICATED,
                      "authorization: allowed 'Bearer TOKEN'", Details::kNone));
  EXPECT_TRUE(IsError(call({"Bearer " + token, "Bearer " + token}),
                      grpc::StatusCode::UNAUTHENTICATED, "authorization: given more than once",
                      Details::kNone));
}

TEST_F(Security, TokensAreRevokedAndAddedWhileItServes) {
  const std::string first = AddToken("team-a");
  StartServer(TokenServer());
  const auto client = ClientWith(first);
  EXPECT_EQ(TenantOf(*client), "team-a");
  const std::string second = AddToken("team-b");
  EXPECT_EQ(TenantOf(*ClientWith(second)), "team-b");
  const std::string file = folder_.File("tokens.toml");
  const std::string both = ReadFile(file);

  const std::string entry_of_second = both.substr(both.rfind("\n[token."));
  std::ofstream(file) << entry_of_second;
  EXPECT_EQ(TenantOf(*client), "UNAUTHENTICATED");
  EXPECT_EQ(TenantOf(*ClientWith(second)), "team-b");

  // A file that cannot be read changes nothing.
  std::ofstream(file) << "[token.x]\ntenant =";
  EXPECT_EQ(TenantOf(*ClientWith(second)), "team-b");
  ASSERT_TRUE(std::filesystem::remove(file));
  EXPECT_EQ(TenantOf(*ClientWith(second)), "team-b");
  EXPECT_EQ(TenantOf(*client), "UNAUTHENTICATED");
  std::ofstream(file) << both;
  EXPECT_EQ(TenantOf(*client), "team-a");
}

TEST_F(Security, AServerWithoutTokensTakesNone) {
  StartServer();
  EXPECT_EQ(TenantOf(*Connect({.target = target()})), "default");
  EXPECT_EQ(TenantOf(*ClientWith("sage_guess")), "UNAUTHENTICATED");
}

TEST_F(Security, ACertificateOrATokenWhereBothAreTaken) {
  const std::string token = AddToken("by-token");
  server::ServerOptions options = MutualTlsServer();
  options.tokens = folder_.File("tokens.toml");
  StartServer(options);
  const std::string ca = Write("roots.ca", authority_.certificate());
  const TlsOptions roots{.root_certificates = ca};
  EXPECT_EQ(TenantOf(*ClientOf({"by-certificate", {}})), "by-certificate");
  EXPECT_EQ(TenantOf(*Connect({.target = target(), .tls = roots, .token = token})), "by-token");
  EXPECT_EQ(TenantOf(*Connect({.target = target(), .tls = roots})), "UNAUTHENTICATED");
  const TlsOptions identity = Files("both", authority_.Issue({"both", {}}));
  EXPECT_EQ(TenantOf(*Connect({.target = target(), .tls = identity, .token = token})), "by-token");
  EXPECT_EQ(TenantOf(*Connect({.target = target(), .tls = identity, .token = "sage_bad"})),
            "UNAUTHENTICATED");
}

TEST_F(Security, OnAUnixSocketAUserNeedsNoToken) {
  const std::string token = AddToken("team-a");
  server::ServerOptions options = TokenServer();
  const std::string socket = "unix:" + folder_.File("s");
  options.listen.push_back(socket);
  StartServer(options);
  const auto user = Connect({.target = socket});
  EXPECT_EQ(TenantOf(*user), server::TenantOfUser(geteuid()));
  EXPECT_TRUE(user->GetStatistics().ok());
  EXPECT_EQ(TenantOf(*Connect({.target = socket, .token = token})), "team-a");
  EXPECT_EQ(TenantOf(*Connect({.target = socket, .token = "sage_bad"})), "UNAUTHENTICATED");
}

TEST_F(Security, StatisticsAreForAdmins) {
  server::ServerOptions options = TokenServer();
  const auto admin_token = AddToken("operations");
  const auto user_token = AddToken("team-a");
  options.admins = {"operations"};
  StartServer(options);
  EXPECT_TRUE(ClientWith(admin_token)->GetStatistics().ok());
  const absl::Status status = ClientWith(user_token)->GetStatistics().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message(), "GetStatistics: tenant team-a is not one of this server's admins");
}

TEST_F(Security, AnotherTenantsHandleIsAsUnknownAsAnyOther) {
  const auto a = AddToken("a");
  const auto b = AddToken("b");
  StartServer(TokenServer());
  const auto client = ClientWith(a);
  absl::StatusOr<RemoteTensor> mine =
      client->Put(TensorRole::kQ, sample_.problem, sample_.data.q.data());
  ASSERT_TRUE(mine.ok()) << mine.status();
  const auto stub = v1::Tensors::NewStub(NewChannel());
  const auto stat = [&](const std::string& token, const v1::TensorHandle& handle) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    v1::StatRequest request;
    *request.mutable_handle() = handle;
    v1::StatResponse response;
    return stub->Stat(&context, request, &response);
  };
  v1::TensorHandle unknown;
  unknown.set_id(std::string(16, 'x'));
  v1::TensorHandle handle;
  {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + a);
    v1::PutRequest put;
    v1::TensorSpec& spec = *put.mutable_spec();
    spec.set_role(v1::TENSOR_ROLE_OUTPUT);
    spec.set_dtype(v1::DATA_TYPE_FLOAT16);
    spec.set_layout(v1::LAYOUT_HND);
    spec.set_batch(1);
    spec.set_num_heads(1);
    spec.set_seqlen(1);
    spec.set_head_dim(64);
    v1::PutResponse response;
    const auto writer = stub->Put(&context, &response);
    writer->Write(put);
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    handle = response.handle();
  }
  EXPECT_TRUE(stat(a, handle).ok());
  const grpc::Status theirs = stat(b, handle);
  const grpc::Status none = stat(b, unknown);
  EXPECT_EQ(theirs.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(theirs.error_code(), none.error_code());
  EXPECT_EQ(theirs.error_message(), none.error_message());
  EXPECT_EQ(theirs.error_details(), none.error_details());

  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + a);
  v1::ReleaseRequest release;
  *release.add_handles() = handle;
  v1::ReleaseResponse released;
  EXPECT_TRUE(stub->Release(&context, release, &released).ok());
}

TEST_F(Security, LimitsAreATenantsOwn) {
  server::ServerOptions options = TokenServer();
  options.tenant_streams = 2;
  options.tenants["small"] = {.tensor_memory_bytes = 4096, .tensors = 3, .streams = 1};
  options.tenants["free"] = {.tensor_memory_bytes = 0, .streams = 0};
  const std::string small = AddToken("small");
  const std::string free = AddToken("free");
  const std::string large = AddToken("large");
  StartServer(options);
  const absl::StatusOr<v1::ServerInfo> info = ClientWith(small)->GetInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->limits().tensor_memory_bytes(), 4096U);
  EXPECT_EQ(info->limits().max_tensors(), 3U);
  EXPECT_EQ(info->limits().max_streams(), 1U);
  const absl::StatusOr<v1::ServerInfo> others = ClientWith(large)->GetInfo();
  ASSERT_TRUE(others.ok()) << others.status();
  EXPECT_GT(others->limits().tensor_memory_bytes(), 4096U);
  EXPECT_EQ(others->limits().max_tensors(), 0U);
  EXPECT_EQ(others->limits().max_streams(), 2U);
  const absl::StatusOr<v1::ServerInfo> unlimited = ClientWith(free)->GetInfo();
  ASSERT_TRUE(unlimited.ok()) << unlimited.status();
  EXPECT_EQ(unlimited->limits().tensor_memory_bytes(), others->limits().tensor_memory_bytes())
      << "0 says what it says of all tenants";
  EXPECT_EQ(unlimited->limits().max_streams(), 0U);
  EXPECT_TRUE(AttendsRightly(*ClientWith(free)));

  const auto stub = v1::Attention::NewStub(NewChannel());
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + small);
  const auto stream = stub->AttendStream(&context);
  v1::AttendStreamRequest request;
  *request.mutable_header() = HeaderFor(sample_.problem);
  ASSERT_TRUE(stream->Write(request));
  v1::AttendStreamResponse response;
  ASSERT_TRUE(stream->Read(&response));
  // The one place is taken.
  for (const char* method :
       {"Attention/Attend", "Attention/AttendStream", "Tensors/Put", "Tensors/Get"}) {
    SCOPED_TRACE(method);
    grpc::ClientContext second;
    second.AddMetadata("authorization", "Bearer " + small);
    grpc::Status status;
    if (std::string(method) == "Attention/Attend") {
      v1::AttendResponse answer;
      status = stub->Attend(&second, UnaryRequest(sample_), &answer);
    } else if (std::string(method) == "Attention/AttendStream") {
      const auto another = stub->AttendStream(&second);
      while (another->Read(&response)) {
      }
      status = another->Finish();
    } else if (std::string(method) == "Tensors/Put") {
      v1::PutResponse answer;
      const auto tensors = v1::Tensors::NewStub(NewChannel());
      status = tensors->Put(&second, &answer)->Finish();
    } else {
      v1::GetResponse answer;
      const auto tensors = v1::Tensors::NewStub(NewChannel());
      status = tensors->Get(&second, {})->Finish();
    }
    EXPECT_TRUE(IsError(status, grpc::StatusCode::RESOURCE_EXHAUSTED,
                        "tenant.streams: all 1 are in use", Details::kQuotaAndRetry));
  }
  EXPECT_TRUE(AttendsRightly(*ClientWith(large)));
  context.TryCancel();
  stream->Finish();
  AwaitIdle();
  const auto client = ClientWith(small);
  // One after the other, each finds its place free at once.
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(AttendsRightly(*client));
}

// New connections see new certificates, and no call fails meanwhile.
TEST_F(Security, CertificatesRotateUnderLoad) {
  const CertificateAuthority next_authority;
  const std::string link = folder_.File("current");
  const auto install = [&](const std::string& version, const std::string& ca,
                           const CertificateAuthority& issuer) {
    const std::string folder = folder_.File(version);
    std::filesystem::create_directory(folder);
    const Identity server = issuer.IssueForLoopback();
    const Identity client = issuer.Issue({"load", {}});
    std::ofstream(folder + "/ca.pem") << ca;
    std::ofstream(folder + "/server.pem") << server.certificate;
    std::ofstream(folder + "/server.key") << server.key;
    std::ofstream(folder + "/client.pem") << client.certificate;
    std::ofstream(folder + "/client.key") << client.key;
    // At once, so that nobody sees the key of one beside the certificate of the other.
    std::filesystem::create_directory_symlink(folder, folder_.File("next"));
    std::filesystem::rename(folder_.File("next"), link);
  };
  // Both authorities are trusted, so that old and new get along.
  const std::string both = authority_.certificate() + next_authority.certificate();
  install("v1", both, authority_);
  // gRPC tells by whole seconds of the files' times that they changed while it read them.
  for (const auto& file : std::filesystem::directory_iterator(folder_.File("v1"))) {
    std::filesystem::last_write_time(file, file.last_write_time() - std::chrono::hours(1));
  }
  server::ServerOptions options = TestServerOptions();
  options.tls_certificate = link + "/server.pem";
  options.tls_key = link + "/server.key";
  options.tls_client_ca = link + "/ca.pem";
  StartServer(options);
  const TlsOptions tls{.root_certificates = link + "/ca.pem",
                       .certificate = link + "/client.pem",
                       .key = link + "/client.key"};

  std::atomic<bool> stop = false;
  std::atomic<int> calls = 0;
  std::vector<std::thread> load;
  for (const bool reconnect : {false, true}) {
    load.emplace_back([&, reconnect] {
      std::unique_ptr<Client> client = Connect({.target = target(), .tls = tls});
      while (!stop) {
        EXPECT_TRUE(AttendsRightly(*client));
        ++calls;
        if (reconnect) client = Connect({.target = target(), .tls = tls});
      }
    });
  }
  install("v2", both, next_authority);
  // Until a connection is made with the new authority's certificate.
  const std::string next_only = Write("next.ca", next_authority.certificate());
  const TlsOptions next_tls{.root_certificates = next_only,
                            .certificate = folder_.File("v2/client.pem"),
                            .key = folder_.File("v2/client.key")};
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (TenantOf(*Connect({.target = target(), .tls = next_tls})) != "load" &&
         std::chrono::steady_clock::now() < give_up) {
    std::this_thread::yield();
  }
  EXPECT_LT(std::chrono::steady_clock::now(), give_up);
  stop = true;
  for (std::thread& thread : load) thread.join();
  EXPECT_GT(calls, 0);
}

TEST_F(Security, BadOptionsAreRefusedAtTheStart) {
  const auto refusal = [&](const server::ServerOptions& options) {
    const auto server = server::Server::Start(options, TestBackends());
    EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(server.status().message());
  };
  server::ServerOptions options = TlsServer();
  options.tls_key = "";
  EXPECT_EQ(refusal(options), "tls-key: got none, allowed the key of tls-cert");
  options = TlsServer();
  options.tls_certificate = "";
  EXPECT_EQ(refusal(options), "tls-cert: got none, allowed the certificate of tls-key");
  options = TestServerOptions();
  options.tls_client_ca = Write("roots.ca", authority_.certificate());
  EXPECT_EQ(refusal(options), "tls-client-ca: got no tls-cert, allowed both");

  options = TlsServer();
  options.tls_certificate = folder_.File("nowhere");
  EXPECT_EQ(refusal(options),
            "tls-cert: " + options.tls_certificate + ": No such file or directory");
  options = TlsServer();
  options.tls_key = options.tls_certificate;
  EXPECT_THAT(refusal(options), HasSubstr("holds no private key without a pass phrase in PEM"));
  options = TlsServer();
  options.tls_key = Write("another.key", authority_.IssueForLoopback().key);
  EXPECT_EQ(refusal(options),
            "tls-key: " + options.tls_key + ": is not the key of " + options.tls_certificate);
  options = TlsServer();
  options.tls_client_ca = Write("empty.ca", "");
  EXPECT_THAT(refusal(options), HasSubstr("empty.ca: holds no certificate in PEM"));
  const TlsOptions expired = Files(
      "old", authority_.Issue({"old", {}, std::chrono::seconds(-60), std::chrono::seconds(-5)}));
  options.tls_certificate = expired.certificate;
  options.tls_key = expired.key;
  EXPECT_THAT(refusal(options), HasSubstr("old.pem: has expired"));

  options = TestServerOptions();
  options.tokens = Write("bad.toml", "[token.x]\ntenant = \"a\"\nsha256 = \"abc\"\n");
  EXPECT_EQ(refusal(options),
            options.tokens + ":3: sha256: must have 64 hexadecimal digits, in lower case");
  options.tokens = ::testing::TempDir();
  EXPECT_EQ(refusal(options), options.tokens + ": is a directory, not a file");
  options.tokens = Write("bad.toml", "[token.x]\ntenant = \"uid:0\"\n");
  EXPECT_THAT(refusal(options), StartsWith(options.tokens + ":2: tenant: a tenant's name has"));

  options = TestServerOptions();
  options.tenants["a"].certificates = {"x"};
  options.tenants["b"].certificates = {"x"};
  EXPECT_EQ(refusal(options), "tenant: got certificate x of b, allowed one tenant, and it is a's");
  options.tenants.erase("b");
  EXPECT_EQ(refusal(options),
            "tls-client-ca: got none, allowed the authority of the certificates of tenants");
}

TEST_F(Security, TheClientKeepsItsTokenToItself) {
  const auto refusal = [](ClientOptions options) {
    const absl::Status status = Client::Connect(std::move(options)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  for (const char* target : {"10.0.0.5:1", "example.com:1", "dns:///127.0.0.1:1", "0.0.0.0:1"}) {
    EXPECT_THAT(refusal({.target = target, .token = "t"}),
                StartsWith(std::string("token: not sent unencrypted to ") + target));
  }
  for (const char* target : {"127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/x"}) {
    EXPECT_TRUE(Client::Connect({.target = target, .token = "t"}).ok()) << target;
  }
  EXPECT_TRUE(Client::Connect({.target = "example.com:1", .tls = TlsOptions{}, .token = "t"}).ok());
  const std::string open_file = Write("open", "t", 0644);
  EXPECT_EQ(refusal({.token_file = open_file}),
            "token_file: " + open_file + ": every user of this machine may read it; chmod 600 " +
                open_file);
  EXPECT_THAT(refusal({.token_file = Write("two", "a b")}), HasSubstr("must be one token"));
  EXPECT_THAT(refusal({.token_file = folder_.File("none")}), HasSubstr("No such file"));
  EXPECT_THAT(refusal({.token = "t\r\nx: y"}), HasSubstr("must be one token"));
  EXPECT_THAT(refusal({.token = "t", .token_file = Write("one", "t\n")}),
              HasSubstr("allowed one of them"));
  EXPECT_THAT(refusal({.tls = TlsOptions{.certificate = open_file}}), HasSubstr("go together"));
  EXPECT_THAT(refusal({.tls = TlsOptions{.root_certificates = folder_.File("none")}}),
              AllOf(StartsWith("tls.root_certificates: cannot read"), HasSubstr("No such file")));
}

TEST_F(Security, TheClientReadsItsTokenAgain) {
  const std::string file = Write("token", AddToken("team-a") + "\n");
  StartServer(TokenServer());
  const auto client = Connect({.target = target(), .token_file = file});
  EXPECT_EQ(TenantOf(*client), "team-a");
  Write("token", AddToken("team-b"));
  EXPECT_EQ(TenantOf(*client), "team-b");
}

}  // namespace
}  // namespace sage::testing
