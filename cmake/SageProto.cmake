# sage_proto_library(NAME PROTOS file... [GRPC file...])
# Generates C++ for the .proto files (paths relative to proto/) and, for those under GRPC, service code;
# builds them as static library sage_NAME, alias sage::NAME. Generated headers are included as they lie
# under proto/, for instance "sage/v1/attention.pb.h". Target sage_NAME_sources only generates.

# Newer Protocol Buffers come with their own package file, which also names the libraries that they need.
find_package(Protobuf CONFIG QUIET)
if(NOT Protobuf_FOUND)
  find_package(Protobuf MODULE REQUIRED)
endif()
find_package(gRPC CONFIG REQUIRED)
find_program(SAGE_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

function(sage_proto_library name)
  cmake_parse_arguments(arg "" "" "PROTOS;GRPC" ${ARGN})
  set(root ${PROJECT_SOURCE_DIR}/proto)
  set(out ${PROJECT_BINARY_DIR}/proto_generated)
  file(MAKE_DIRECTORY ${out})
  set(sources)
  foreach(proto ${arg_PROTOS} ${arg_GRPC})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(generated ${out}/${stem}.pb.cc ${out}/${stem}.pb.h)
    set(options --cpp_out=${out})
    if(proto IN_LIST arg_GRPC)
      list(APPEND generated ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h)
      list(APPEND options --grpc_out=${out} --plugin=protoc-gen-grpc=${SAGE_GRPC_CPP_PLUGIN})
    endif()
    set(inputs ${arg_PROTOS} ${arg_GRPC})
    list(TRANSFORM inputs PREPEND ${root}/)
    add_custom_command(
      OUTPUT ${generated}
      COMMAND protobuf::protoc -I ${root} ${options} ${root}/${proto}
      DEPENDS ${inputs}
      COMMENT "protoc ${proto}" VERBATIM)
    list(APPEND sources ${generated})
  endforeach()
  add_custom_target(sage_${name}_sources DEPENDS ${sources})
  add_library(sage_${name} STATIC ${sources})
  # Messages' code has the same names in every file.
  set(messages ${sources})
  list(FILTER messages EXCLUDE REGEX "\\.grpc\\.pb\\.cc$")
  set_source_files_properties(${messages} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  add_library(sage::${name} ALIAS sage_${name})
  set_target_properties(sage_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(sage_${name} SYSTEM PUBLIC
    $<BUILD_INTERFACE:${out}> $<INSTALL_INTERFACE:${SAGE_INCLUDE_DIR}>)
  target_link_libraries(sage_${name} PUBLIC protobuf::libprotobuf gRPC::grpc++)
endfunction()
