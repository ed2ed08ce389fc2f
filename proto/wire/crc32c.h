// crc32c (Castagnoli), the checksum of chunks on the wire.
#ifndef SAGE_PROTO_WIRE_CRC32C_H_
#define SAGE_PROTO_WIRE_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace sage {

// crc32c of a byte string whose beginning has crc32c `crc`, extended by `size` bytes at `data`.
// Start with 0. Uses the SSE4.2 instruction where the processor has it. Thread-safe.
// Source: RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected, inverted at both ends).
std::uint32_t ExtendCrc32c(std::uint32_t crc, const void* data, std::size_t size);

}  // namespace sage

#endif  // SAGE_PROTO_WIRE_CRC32C_H_
