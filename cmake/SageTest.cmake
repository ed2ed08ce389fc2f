# Target tsan_tests builds the tests that ThreadSanitizer is to judge, see CONTRIBUTING.md.
add_custom_target(tsan_tests)

# sage_test(NAME LABELS unit|golden|integration|gpu|grpc|accuracy|slow... SOURCES file... DEPS target...
#           [TIMEOUT seconds])
# A GoogleTest program tests/NAME registered with ctest, labelled, with the project's warnings.
function(sage_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "LABELS;SOURCES;DEPS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} GTest::gmock_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  sage_warnings(${name})
  # Compiled sooner; what they test is optimised as ever.
  target_compile_options(${name} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-O1>)
  if(SAGE_SANITIZER)
    target_compile_definitions(${name} PRIVATE SAGE_SANITIZED)  # they try less
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
                       SKIP_RETURN_CODE 77)
  if(NOT arg_LABELS MATCHES "integration|gpu|grpc|accuracy|slow")
    add_dependencies(tsan_tests ${name})
  endif()
endfunction()
