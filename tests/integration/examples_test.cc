// The examples of the client library run, and show what they say.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child_process.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

using ::testing::HasSubstr;

class Examples : public ServerFixture {};

TEST_F(Examples, AskADocument) {
  StartServer();
  ChildProcess child(ASK_A_DOCUMENT_PROGRAM, {target()});
  EXPECT_EQ(child.Wait(), 0) << child.err();
  EXPECT_THAT(child.out(), HasSubstr("question 3: 131072 bytes sent, 2228224 with the document; "
                                     "the same answer"));
}

TEST_F(Examples, SayWhatWentWrong) {
  ChildProcess nobody(ASK_A_DOCUMENT_PROGRAM, {"unix:/nowhere.sock"});
  EXPECT_EQ(nobody.Wait(), 1);
  EXPECT_THAT(nobody.err(), HasSubstr("/nowhere.sock"));
  ChildProcess without(ASK_A_DOCUMENT_PROGRAM, {});
  EXPECT_EQ(without.Wait(), 2);
}

}  // namespace
}  // namespace sage::testing
