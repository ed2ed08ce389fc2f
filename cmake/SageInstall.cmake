# cmake --install BUILD [--prefix PREFIX] [--component server|client|dev|python]
#
#   server  sage-server with its manual page, its systemd unit, its user and a sample of its settings
#   client  sagectl with its manual pages and completions
#   dev     the C++ client library: headers, static libraries, package file `sage-client`, the wire contract
#   python  the Python package sage_client
#
# SagePackage.cmake makes a package of each.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(folder ${PROJECT_BINARY_DIR}/install)
set(deploy ${PROJECT_SOURCE_DIR}/deploy)
set(files)  # that are made for the installation only

# sage_print(FILE PROGRAM ARGUMENTS...): a file of what the program prints.
function(sage_print file program)
  get_filename_component(parent ${folder}/${file} DIRECTORY)
  add_custom_command(
    OUTPUT ${folder}/${file}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${parent}
    COMMAND ${program} ${ARGN} > ${folder}/${file}
    DEPENDS ${program}
    COMMENT "Generating ${file}" VERBATIM)
  set(files ${files} ${folder}/${file} PARENT_SCOPE)
endfunction()

# Server
install(TARGETS sage-server RUNTIME COMPONENT server)
sage_print(server-help sage-server --help)
add_custom_command(
  OUTPUT ${folder}/sage-server.8
  COMMAND ${CMAKE_COMMAND} -DPAGE=${deploy}/sage-server.8.in -DHELP=${folder}/server-help
          -DOUT=${folder}/sage-server.8 -P ${CMAKE_CURRENT_LIST_DIR}/server_page.cmake
  DEPENDS ${folder}/server-help ${deploy}/sage-server.8.in ${CMAKE_CURRENT_LIST_DIR}/server_page.cmake VERBATIM)
list(APPEND files ${folder}/sage-server.8)
install(FILES ${folder}/sage-server.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8 COMPONENT server)
configure_file(${deploy}/systemd/sage-server.service.in ${folder}/sage-server.service @ONLY)
install(FILES ${folder}/sage-server.service DESTINATION lib/systemd/system COMPONENT server)
install(FILES ${deploy}/systemd/sysusers.conf DESTINATION lib/sysusers.d RENAME sage.conf COMPONENT server)
# Below /usr it is /etc that counts, which is no folder of the prefix.
set(settings ${CMAKE_INSTALL_SYSCONFDIR})
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(settings ${CMAKE_INSTALL_FULL_SYSCONFDIR})
endif()
install(FILES ${deploy}/systemd/server.toml DESTINATION ${settings}/sage COMPONENT server)

# Client
install(TARGETS sagectl RUNTIME COMPONENT client)
sage_print(man/sagectl.1 sagectl man)
foreach(command info attend verify bench load mask)
  sage_print(man/sagectl-${command}.1 sagectl man ${command})
endforeach()
sage_print(bash/sagectl sagectl completion bash)
sage_print(zsh/_sagectl sagectl completion zsh)
install(DIRECTORY ${folder}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT client)
install(FILES ${folder}/bash/sagectl DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        COMPONENT client)
# Where zsh looks: packages' in one folder, all others' in another.
set(zsh_functions site-functions)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(zsh_functions vendor-completions)
endif()
install(FILES ${folder}/zsh/_sagectl DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/${zsh_functions} COMPONENT client)

# C++ library
set(libraries client attention config crc32c enums frame proto random_id)
list(TRANSFORM libraries PREPEND sage_)
install(TARGETS ${libraries} EXPORT sage-client ARCHIVE COMPONENT dev)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/sage-client)
install(EXPORT sage-client NAMESPACE sage:: DESTINATION ${package} FILE sage-clientTargets.cmake COMPONENT dev)
write_basic_package_version_file(${folder}/sage-clientConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/sage-clientConfig.cmake ${folder}/sage-clientConfigVersion.cmake
        DESTINATION ${package} COMPONENT dev)
foreach(header client/attend_request.h client/client.h client/convert.h client/merge.h client/remote_tensor.h
        kernels/attention.h kernels/block_mask.h kernels/float16.h)
  get_filename_component(parent ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${SAGE_INCLUDE_DIR}/${parent} COMPONENT dev)
endforeach()
install(DIRECTORY ${PROJECT_BINARY_DIR}/proto_generated/ DESTINATION ${SAGE_INCLUDE_DIR} COMPONENT dev
        FILES_MATCHING PATTERN "*.pb.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/proto/ DESTINATION ${CMAKE_INSTALL_DATADIR}/sage-serve/proto COMPONENT dev
        FILES_MATCHING PATTERN "*.proto" PATTERN wire EXCLUDE)

# Python package: its files and the wire contract as one descriptor set, as setup.py makes it.
set(python ${PROJECT_SOURCE_DIR}/client/python/sage_client)
file(GLOB_RECURSE contract CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/proto ${PROJECT_SOURCE_DIR}/proto/*.proto)
list(TRANSFORM contract PREPEND ${PROJECT_SOURCE_DIR}/proto/ OUTPUT_VARIABLE contract_files)
add_custom_command(
  OUTPUT ${folder}/sage_v1.binpb
  COMMAND protobuf::protoc -I ${PROJECT_SOURCE_DIR}/proto --include_imports
          --descriptor_set_out=${folder}/sage_v1.binpb ${contract_files}
  DEPENDS ${contract_files} VERBATIM)
list(APPEND files ${folder}/sage_v1.binpb)
set(SAGE_PYTHON_DIR lib/python3/dist-packages CACHE STRING "Where Python packages are installed")
install(DIRECTORY ${python} DESTINATION ${SAGE_PYTHON_DIR} COMPONENT python
        FILES_MATCHING PATTERN "*.py" PATTERN py.typed)
install(FILES ${folder}/sage_v1.binpb DESTINATION ${SAGE_PYTHON_DIR}/sage_client COMPONENT python)

add_custom_target(install_files ALL DEPENDS ${files})
