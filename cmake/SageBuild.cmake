# Language level, output folders, warnings and sanitizers, for every target of the project.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(SAGE_CCACHE ccache)
if(SAGE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SAGE_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${SAGE_CCACHE})
endif()

if(SAGE_SANITIZER)
  add_compile_options(
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SAGE_SANITIZER}>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=${SAGE_SANITIZER})
  find_program(SAGE_LLD ld.lld DOC "LLVM's linker: a quarter of the time, where it is there")
  if(SAGE_LLD)
    add_link_options(-fuse-ld=lld)
  endif()
endif()
if(SAGE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

# sage_library(NAME [SOURCES ...] [PUBLIC deps...] [PRIVATE deps...])
# A static library `sage_NAME` with alias sage::NAME, includes rooted at the repository and the
# project's warnings. Without SOURCES it is an interface library. Where it is installed, its headers lie in
# SAGE_INCLUDE_DIR.
set(SAGE_INCLUDE_DIR include/sage-serve)
function(sage_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  if(arg_SOURCES)
    add_library(sage_${name} STATIC ${arg_SOURCES})
    target_include_directories(sage_${name} PUBLIC
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${SAGE_INCLUDE_DIR}>)
    target_link_libraries(sage_${name} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE})
    sage_warnings(sage_${name})
  else()
    add_library(sage_${name} INTERFACE)
    target_include_directories(sage_${name} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(sage_${name} INTERFACE ${arg_PUBLIC})
  endif()
  add_library(sage::${name} ALIAS sage_${name})
  set_target_properties(sage_${name} PROPERTIES EXPORT_NAME ${name})
endfunction()

# The warnings of the project; errors where SAGE_WARNINGS_AS_ERRORS is set, as the presets do.
option(SAGE_WARNINGS_AS_ERRORS "Treat warnings as errors" OFF)
function(sage_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SAGE_WARNINGS_AS_ERRORS}>>:-Werror>)
endfunction()
