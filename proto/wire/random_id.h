// Identifiers that nobody can guess: of requests, tensors and tokens.
#ifndef SAGE_PROTO_WIRE_RANDOM_ID_H_
#define SAGE_PROTO_WIRE_RANDOM_ID_H_

#include <string>

namespace sage {

// 128 bits from the system's random source, as 16 bytes. Thread-safe. Throws std::system_error
// where that fails.
std::string RandomBits();

// Likewise, as 32 hexadecimal digits.
std::string RandomId();

}  // namespace sage

#endif  // SAGE_PROTO_WIRE_RANDOM_ID_H_
