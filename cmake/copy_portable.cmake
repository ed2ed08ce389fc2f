# cmake -DPROGRAMS=file,file -DFOLDER=folder -P copy_portable.cmake
# Makes `folder` anew with the programs in it and their shared libraries in lib/.

string(REPLACE "," ";" PROGRAMS "${PROGRAMS}")
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${PROGRAMS}
  RESOLVED_DEPENDENCIES_VAR libraries
  UNRESOLVED_DEPENDENCIES_VAR missing
  # What belongs to the machine: glibc and the GPU's driver.
  PRE_EXCLUDE_REGEXES
    "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|anl|nsl|util)\\.so" "^libcuda\\.so" "^libnvidia")
if(missing)
  message(FATAL_ERROR "not found: ${missing}")
endif()
file(REMOVE_RECURSE ${FOLDER})
file(COPY ${PROGRAMS} DESTINATION ${FOLDER})
file(COPY ${libraries} DESTINATION ${FOLDER}/lib FOLLOW_SYMLINK_CHAIN)
list(LENGTH libraries count)
message(STATUS "${FOLDER}: programs and ${count} libraries")
