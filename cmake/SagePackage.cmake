# cpack --preset package: Debian packages of the four components, in build/package/packages.
#
# A server with CUDA is a package of its own, sage-server-cuda, that stands for sage-server: the CUDA runtime is linked
# statically, the driver is the machine's. The packages' programs look for their files below /usr, so build them with
# the preset of that name (package, package-cuda), which sets the prefix.

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME sage-serve)
set(CPACK_PACKAGE_VENDOR sage-serve)
set(CPACK_PACKAGE_CONTACT "sage-serve maintainers <root@localhost>")
set(CPACK_OUTPUT_FILE_PREFIX ${PROJECT_BINARY_DIR}/packages)
set(CPACK_COMPONENTS_ALL server client dev python)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_STRIP_FILES ON)
set(CPACK_SET_DESTDIR ON)  # for /etc
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(deb ${PROJECT_SOURCE_DIR}/deploy/deb)

set(CPACK_COMPONENT_SERVER_DESCRIPTION "Server of block-sparse attention over gRPC")
set(CPACK_DEBIAN_SERVER_PACKAGE_NAME sage-server)
if(SAGE_WITH_CUDA)
  set(CPACK_DEBIAN_SERVER_PACKAGE_NAME sage-server-cuda)
  set(CPACK_DEBIAN_SERVER_PACKAGE_PROVIDES "sage-server (= ${PROJECT_VERSION})")
  set(CPACK_DEBIAN_SERVER_PACKAGE_CONFLICTS sage-server)
  set(CPACK_DEBIAN_SERVER_PACKAGE_REPLACES sage-server)
  set(CPACK_DEBIAN_SERVER_PACKAGE_SUGGESTS libcuda1)
endif()
set(CPACK_DEBIAN_SERVER_PACKAGE_SECTION net)
set(CPACK_DEBIAN_SERVER_PACKAGE_SHLIBDEPS ON)
# A container takes the small one; where systemd is, it is there already.
set(CPACK_DEBIAN_SERVER_PACKAGE_DEPENDS "systemd-standalone-sysusers | systemd | systemd-sysusers")
file(WRITE ${PROJECT_BINARY_DIR}/deb/server/conffiles "/etc/sage/server.toml\n")

set(CPACK_COMPONENT_CLIENT_DESCRIPTION "Command line of sage-serve: attention, benchmarks, load tests")
set(CPACK_DEBIAN_CLIENT_PACKAGE_NAME sage-client)
set(CPACK_DEBIAN_CLIENT_PACKAGE_SECTION net)
set(CPACK_DEBIAN_CLIENT_PACKAGE_SHLIBDEPS ON)

set(CPACK_COMPONENT_DEV_DESCRIPTION "C++ client library of sage-serve, and its wire contract")
set(CPACK_DEBIAN_DEV_PACKAGE_NAME libsage-client-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
  "libabsl-dev, libgrpc++-dev, libprotobuf-dev, libtomlplusplus-dev, protobuf-compiler, protobuf-compiler-grpc")

set(CPACK_COMPONENT_PYTHON_DESCRIPTION "Python client of sage-serve, for numpy arrays and torch tensors")
set(CPACK_DEBIAN_PYTHON_PACKAGE_NAME python3-sage-client)
set(CPACK_DEBIAN_PYTHON_PACKAGE_SECTION python)
set(CPACK_DEBIAN_PYTHON_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PYTHON_PACKAGE_DEPENDS "python3:any (>= 3.9), python3-grpcio, python3-numpy, python3-protobuf")

# dpkg's names for its scripts, in a folder for each component.
foreach(script server.postinst server.prerm server.postrm python.postinst python.prerm)
  string(REPLACE "." ";" parts ${script})
  list(GET parts 0 component)
  list(GET parts 1 name)
  configure_file(${deb}/${script} ${PROJECT_BINARY_DIR}/deb/${component}/${name} COPYONLY)
endforeach()
foreach(component server python)
  string(TOUPPER ${component} name)
  file(GLOB CPACK_DEBIAN_${name}_PACKAGE_CONTROL_EXTRA ${PROJECT_BINARY_DIR}/deb/${component}/*)
endforeach()

# Debian wants the licence of each package beside it.
foreach(component server client dev python)
  string(TOUPPER ${component} name)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE RENAME copyright COMPONENT ${component}
          DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${name}_PACKAGE_NAME})
endforeach()
include(CPack)
