// Identifiers that nobody can guess.
#ifndef SAGE_SERVER_RANDOM_ID_H_
#define SAGE_SERVER_RANDOM_ID_H_

#include <string>

namespace sage::server {

// 128 bits from the system's random source, as 16 bytes. Thread-safe.
std::string RandomBits();

// Likewise, as 32 hexadecimal digits.
std::string RandomId();

}  // namespace sage::server

#endif  // SAGE_SERVER_RANDOM_ID_H_
