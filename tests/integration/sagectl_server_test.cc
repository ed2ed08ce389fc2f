// How sagectl finds its server, and what it shows of it.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/token_file.h"
#include "tests/integration/sagectl_fixture.h"
#include "tests/support/certificate_authority.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(SagectlWithServerTest, ShowsInfo) {
  EXPECT_THAT(Run({"info"}).out, AllOf(HasSubstr("backend:  cpu"), HasSubstr("qk_int8_pv_fp16")));
  EXPECT_THAT(Run({"info", "--json"}).out, HasSubstr("\"requests_ok\""));
}

TEST_F(SagectlTest, SaysThatNoServerIsThere) {
  UseServer("127.0.0.1:1");
  for (const char* command : {"info", "verify", "bench", "load"}) {
    const Outcome outcome = Run({command});
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.err,
                AllOf(HasSubstr("cannot reach 127.0.0.1:1"), HasSubstr("is sage-server running?")));
  }
}

TEST_F(SagectlWithServerTest, KnowsServersByName) {
  std::filesystem::create_directories(Path("sagectl"));
  const std::string config = Path("sagectl/config.toml");
  std::ofstream(config) << "default = \"lab\"\n[server.lab]\ntarget = \"" << target()
                        << "\"\ntimeout = 30\n[server.away]\ntarget = \"127.0.0.1:1\"\n";
  const std::string home = "XDG_CONFIG_HOME=" + Path("");
  EXPECT_THAT(RunWith({home}, {"info"}).out, HasSubstr(target()));
  EXPECT_THAT(RunWith({"SAGE_CONFIG=" + config}, {"info", "--server", "lab"}).out,
              HasSubstr(target()));
  EXPECT_EQ(RunWith({home}, {"load", "--server", "lab,lab", "--count", "2", "--seqlen", "64",
                             "--concurrency", "1"})
                .exit_code,
            0);
  // The flag wins over the environment, the environment over the file.
  EXPECT_THAT(RunWith({home, "SAGE_SERVER=away"}, {"info"}).err, HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(RunWith({home, "SAGE_SERVER=away"}, {"info", "--server", target()}).exit_code, 0);

  const struct {
    const char* content;
    const char* message;
  } kCases[] = {
      {"", "no server 'home': give HOST:PORT"},
      {"[server.lab]\ntarget = \"a:1\"\n", "which has lab"},
      {"[server.lab]\ntarget = \"a\"\n", "config.toml:2: target: must be HOST:PORT"},
      {"[server.lab]\ntarget = \"a:0\"\n", "config.toml:2: target: ports are 1 to 65535"},
      {"[server.lab]\ntarget = 5\n", "config.toml:2: target: must be a string"},
      {"[server.lab]\ntarget = \"a:1\"\nport = 5\n", "config.toml:3: unknown key 'port'"},
      {"server = 5\n", "must be tables, each under [server.NAME]"},
      {"[server", "config.toml:1"},
  };
  for (const auto& test : kCases) {
    std::ofstream(config) << test.content;
    const Outcome outcome = RunWith({home}, {"info", "--server", "home"});
    EXPECT_EQ(outcome.exit_code, 2) << test.content;
    EXPECT_THAT(outcome.err, HasSubstr(test.message));
  }
  EXPECT_THAT(RunWith({"SAGE_CONFIG=" + Path("missing")}, {"info"}).err,
              HasSubstr("there is no such file"));
}

TEST_F(SagectlTest, ShowsItsCredentials) {
  const CertificateAuthority authority;
  const Identity identity = authority.IssueForLoopback();
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
    std::filesystem::permissions(Path(name), std::filesystem::perms(0600));
  };
  write("ca.pem", authority.certificate());
  write("server.pem", identity.certificate);
  write("server.key", identity.key);
  const std::string token = *server::AddToken(Path("tokens.toml"), "team-a");
  write("a.token", token + "\n");
  server::ServerOptions options = TestServerOptions();
  options.tls_certificate = Path("server.pem");
  options.tls_key = Path("server.key");
  options.tokens = Path("tokens.toml");
  StartServer(options);
  UseServer(target());
  const auto is_team_a = AllOf(HasSubstr("tenant:  team-a"), HasSubstr("for admins of the server"));

  const std::vector<std::string> flags = {"--ca", Path("ca.pem"), "--token-file", Path("a.token")};
  const auto with_flags = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return Run(arguments);
  };
  EXPECT_THAT(with_flags({"info"}).out, is_team_a);
  EXPECT_THAT(with_flags({"info", "--json"}).out, HasSubstr("\"statistics\":null"));
  EXPECT_EQ(with_flags({"verify", "--seqlen", "64", "--heads", "1"}).exit_code, 0);
  EXPECT_EQ(with_flags({"load", "--count", "2", "--seqlen", "64", "--concurrency", "1"}).exit_code,
            0);
  const std::vector<std::string> environment = {"SAGE_SERVER=" + target(),
                                                "SAGE_CA=" + Path("ca.pem"), "SAGE_TOKEN=" + token};
  EXPECT_THAT(RunWith(environment, {"info"}).out, is_team_a);
  write("config.toml",
        "[server.lab]\ntarget = \"" + target() + "\"\nca = \"ca.pem\"\ntoken_file = \"a.token\"\n");
  const std::string config = "SAGE_CONFIG=" + Path("config.toml");
  EXPECT_THAT(RunWith({config}, {"info", "--server", "lab"}).out, is_team_a);
  write("config.toml", "[server.lab]\ntarget = \"" + target() + "\"\nca = \"ca.pem\"\ntoken = \"" +
                           token + "\"\n");
  EXPECT_THAT(RunWith({config}, {"info", "--server", "lab"}).out, is_team_a);

  std::filesystem::permissions(Path("config.toml"), std::filesystem::perms(0644));
  Outcome refused = RunWith({config}, {"info", "--server", "lab"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("config.toml:4: token: every user of this machine may read"));
  EXPECT_THAT(refused.err, Not(HasSubstr(token)));
  std::filesystem::permissions(Path("a.token"), std::filesystem::perms(0604));
  refused = with_flags({"info"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("chmod 600 " + Path("a.token")));
  refused = RunWith({"SAGE_TOKEN=" + token}, {"info", "--server", "192.0.2.1:1"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("token: not sent unencrypted to 192.0.2.1:1"));
  const Outcome without = Run({"info", "--ca", Path("ca.pem")});
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_THAT(without.err, HasSubstr("UNAUTHENTICATED: authorization: missing"));
}

}  // namespace
}  // namespace sage::testing
