# cmake --install BUILD [--prefix PREFIX] [--component programs|docs]: the two programs; manual pages of
# sagectl and its completion for bash, as sagectl prints them.

include(GNUInstallDirs)
install(TARGETS sage-server sagectl RUNTIME COMPONENT programs)

set(folder ${PROJECT_BINARY_DIR}/docs)
set(pages)
function(sage_page file)  # what `sagectl ARGUMENTS...` prints
  add_custom_command(
    OUTPUT ${folder}/${file}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${folder}
    COMMAND sagectl ${ARGN} > ${folder}/${file}
    DEPENDS sagectl
    COMMENT "sagectl ${ARGN}" VERBATIM)
  set(pages ${pages} ${folder}/${file} PARENT_SCOPE)
endfunction()
set(manuals sagectl.1)
sage_page(sagectl.1 man)
foreach(command info attend verify bench load mask)
  list(APPEND manuals sagectl-${command}.1)
  sage_page(sagectl-${command}.1 man ${command})
endforeach()
sage_page(sagectl completion bash)
add_custom_target(docs ALL DEPENDS ${pages})

list(TRANSFORM manuals PREPEND ${folder}/)
install(FILES ${manuals} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT docs)
install(FILES ${folder}/sagectl DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT docs)
