#!/bin/sh
# Prints a software bill of materials of this system, an SPDX 2.3 document: every package that dpkg knows of.
#
#   sbom.sh NAME
#
# Needs no more than a minimal Debian or Ubuntu has.
set -eu

name=$1
# shellcheck source=/dev/null
distribution=$(. /etc/os-release && echo "$ID")
created=$(date -u ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"} +%Y-%m-%dT%H:%M:%SZ)
id=$(cat /proc/sys/kernel/random/uuid)

dpkg-query -W -f '${binary:Package}\t${Version}\t${Architecture}\t${Maintainer}\t${db:Status-Status}\n' |
  awk -F '\t' -v name="$name" -v distribution="$distribution" -v created="$created" -v id="$id" '
function quoted(text) {
  gsub(/\\/, "\\\\", text)
  gsub(/"/, "\\\"", text)
  return "\"" text "\""
}
function escaped(text) { # for a package URL
  gsub(/%/, "%25", text)
  gsub(/\+/, "%2B", text)
  gsub(/:/, "%3A", text)
  gsub(/~/, "%7E", text)
  return text
}
BEGIN {
  print "{"
  print "  \"spdxVersion\": \"SPDX-2.3\", \"dataLicense\": \"CC0-1.0\", \"SPDXID\": \"SPDXRef-DOCUMENT\","
  print "  \"name\": " quoted(name) ", \"documentNamespace\": \"https://spdx.org/spdxdocs/" name "-" id "\","
  print "  \"creationInfo\": {\"created\": \"" created "\", \"creators\": [\"Tool: sbom.sh\"]},"
  print "  \"packages\": ["
}
$5 == "installed" {
  package = $1
  sub(/:.*/, "", package)
  ref = "SPDXRef-" NR "-" package
  gsub(/[^A-Za-z0-9.-]/, "-", ref)
  url = "pkg:deb/" distribution "/" escaped(package) "@" escaped($2) "?arch=" $3
  print (count++ ? "    ," : "    ") "{\"SPDXID\": " quoted(ref) ", \"name\": " quoted(package) ", \"versionInfo\": " quoted($2) ","
  print "     \"supplier\": " quoted("Organization: " $4) ", \"downloadLocation\": \"NOASSERTION\", \"filesAnalyzed\": false,"
  print "     \"licenseConcluded\": \"NOASSERTION\", \"licenseDeclared\": \"NOASSERTION\", \"copyrightText\": \"NOASSERTION\","
  print "     \"externalRefs\": [{\"referenceCategory\": \"PACKAGE-MANAGER\", \"referenceType\": \"purl\","
  print "                       \"referenceLocator\": " quoted(url) "}]}"
  refs[count] = ref
}
END {
  print "  ],"
  print "  \"relationships\": ["
  for (i = 1; i <= count; ++i) {
    print (i > 1 ? "    ," : "    ") "{\"spdxElementId\": \"SPDXRef-DOCUMENT\", \"relationshipType\": \"DESCRIBES\", \"relatedSpdxElement\": " quoted(refs[i]) "}"
  }
  print "  ]"
  print "}"
}'
