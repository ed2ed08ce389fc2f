# find_package(sage-client): target sage::client, the C++ client library of sage-serve.

include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(absl)
find_package(Protobuf CONFIG QUIET)
if(NOT Protobuf_FOUND)
  find_dependency(Protobuf MODULE)
endif()
find_dependency(gRPC CONFIG)
find_dependency(tomlplusplus)
include(${CMAKE_CURRENT_LIST_DIR}/sage-clientTargets.cmake)
