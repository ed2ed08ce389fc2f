# cmake -DPAGE=file -DHELP=file -DOUT=file -P server_page.cmake
# The manual page of sage-server: PAGE with @HELP@ replaced by what `sage-server --help` prints.

file(READ ${HELP} text)
string(REPLACE "\\" "\\e" text "${text}")
string(REPLACE "-" "\\-" text "${text}")
string(REGEX REPLACE "\n\n+" "\n\n" text "${text}")
string(REGEX REPLACE "(^|\n)([.'])" "\\1\\\\&\\2" HELP "${text}")
configure_file(${PAGE} ${OUT} @ONLY)
