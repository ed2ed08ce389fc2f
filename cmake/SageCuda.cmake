# Finds the CUDA compiler, or leaves the CUDA backend out. Sets SAGE_WITH_CUDA.
#
# CMAKE_CUDA_ARCHITECTURES defaults to sm_80 with its PTX, which newer GPUs translate at start: one quick
# compile that runs everywhere. Name the architectures of your GPUs for programs that start at once.

set(SAGE_WITH_CUDA OFF)
if(NOT SAGE_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(SAGE_NVCC nvcc PATHS /usr/local/cuda/bin)
    if(SAGE_NVCC)
      set(CMAKE_CUDA_COMPILER ${SAGE_NVCC})
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80)
    endif()
    # For kernels with e4m3: sm_89 and its PTX in place of those before, whose PTX other devices might need.
    set(SAGE_CUDA_E4M3_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})
    list(FILTER SAGE_CUDA_E4M3_ARCHITECTURES EXCLUDE REGEX "^(7[0-9]|8[0-8])([^0-9]|$)")
    if(NOT SAGE_CUDA_E4M3_ARCHITECTURES)
      set(SAGE_CUDA_E4M3_ARCHITECTURES 89)
    elseif(NOT SAGE_CUDA_E4M3_ARCHITECTURES STREQUAL "${CMAKE_CUDA_ARCHITECTURES}")
      list(APPEND SAGE_CUDA_E4M3_ARCHITECTURES 89-virtual)
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know nvcc's C++20 flag and would drop the standard silently.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    # CMake 3.25 takes a library for granted that CUDA 13 has no longer, and that nothing here links.
    add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
    find_package(CUDAToolkit REQUIRED)
    set(SAGE_WITH_CUDA ON)
  elseif(SAGE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SAGE_CUDA=ON, but no nvcc was found; set CMAKE_CUDA_COMPILER")
  endif()
endif()
message(STATUS "CUDA backend: ${SAGE_WITH_CUDA}")
