// Leads what gRPC and protobuf have to say into the server's own log.
#ifndef SAGE_SERVER_LIBRARY_LOGS_H_
#define SAGE_SERVER_LIBRARY_LOGS_H_

namespace sage::server {

// To be called once, before either of them is used. Lines that anybody may cause, by malformed
// messages say, are a few each second.
void TakeLibraryLogs();

}  // namespace sage::server

#endif  // SAGE_SERVER_LIBRARY_LOGS_H_
