# Target `portable`: the programs and the libraries that they need, but for glibc's, in one folder,
# ${CMAKE_BINARY_DIR}/dist, that runs on any machine with the same glibc or a newer one. The preset of
# the same name links the programs so that they look in lib/ beside themselves first.

add_custom_target(portable
  COMMAND ${CMAKE_COMMAND} -DPROGRAMS=$<TARGET_FILE:sage-server>,$<TARGET_FILE:sagectl>
          -DFOLDER=${PROJECT_BINARY_DIR}/dist -P ${CMAKE_CURRENT_LIST_DIR}/copy_portable.cmake
  DEPENDS sage-server sagectl
  COMMENT "Copying programs and libraries to dist" VERBATIM)
