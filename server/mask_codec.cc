#include "server/mask_codec.h"

#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/errors.h"

namespace sage::server {
namespace {

absl::StatusOr<MaskPattern> DecodePattern(const v1::MaskPattern& pattern,
                                          const std::string& field) {
  if (pattern.per_element()) {
    return absl::UnimplementedError(absl::StrCat(
        field, ".pattern.per_element: only per-block patterns are served by this server"));
  }
  switch (pattern.kind_case()) {
    case v1::MaskPattern::kSlidingWindow:
      return SlidingWindowPattern{pattern.sliding_window().left_blocks(),
                                  pattern.sliding_window().right_blocks()};
    case v1::MaskPattern::kSinkWindow:
      return SinkWindowPattern{pattern.sink_window().sink_blocks(),
                               pattern.sink_window().left_blocks()};
    case v1::MaskPattern::kStrided:
      return StridedPattern{pattern.strided().stride_blocks(), pattern.strided().phase_blocks(),
                            pattern.strided().local_blocks()};
    case v1::MaskPattern::kBand:
      return BandPattern{pattern.band().lower_blocks(), pattern.band().upper_blocks()};
    case v1::MaskPattern::kDocuments:
      return DocumentPattern{
          {pattern.documents().lengths().begin(), pattern.documents().lengths().end()}};
    case v1::MaskPattern::KIND_NOT_SET:
      break;
  }
  return InvalidField(absl::StrCat(field, ".pattern.kind"),
                      "got none, allowed one of the patterns");
}

absl::StatusOr<BlockMask> MakePacked(const v1::PackedBlockMask& packed,
                                     const AttentionProblem& problem, const std::string& field) {
  absl::StatusOr<BlockMask> mask = BlockMask::FromPacked(
      problem, packed.batch(), packed.num_heads(),
      std::span(reinterpret_cast<const std::uint8_t*>(packed.bits().data()), packed.bits().size()));
  if (mask.ok()) return mask;
  // BlockMask's errors speak of one mask; a request has a field for each of its parts.
  const std::pair<absl::string_view, absl::string_view> error =
      absl::StrSplit(mask.status().message(), absl::MaxSplits(": ", 1));
  const char* const part = error.first == "mask batch"   ? "batch"
                           : error.first == "mask heads" ? "num_heads"
                                                         : "bits";
  return InvalidField(absl::StrCat(field, ".packed.", part), error.second);
}

absl::StatusOr<BlockMask> MakePattern(const MaskPattern& pattern, const AttentionProblem& problem,
                                      const std::string& field) {
  absl::StatusOr<BlockMask> mask = BlockMask::FromPattern(problem, pattern);
  if (!mask.ok()) return WithFieldPath(mask.status(), absl::StrCat(field, ".pattern"));
  return mask;
}

}  // namespace

absl::StatusOr<DecodedMask> DecodeMask(const v1::BlockMask& mask, const AttentionProblem& problem,
                                       std::uint64_t max_mask_bytes, const std::string& field) {
  DecodedMask decoded;
  // The problem is valid, so sizes do not overflow.
  decoded.bytes = problem.tiles_q() * CeilDiv(problem.blocks_k(), 8);
  switch (mask.kind_case()) {
    case v1::BlockMask::kPacked:
      // Any other number of bits is refused, so their number is the size.
      decoded.bytes = mask.packed().bits().size();
      decoded.make = [packed = mask.packed(), problem, field] {
        return MakePacked(packed, problem, field);
      };
      break;
    case v1::BlockMask::kPattern: {
      absl::StatusOr<MaskPattern> pattern = DecodePattern(mask.pattern(), field);
      if (!pattern.ok()) return pattern.status();
      decoded.make = [pattern = *std::move(pattern), problem, field] {
        return MakePattern(pattern, problem, field);
      };
      break;
    }
    case v1::BlockMask::kHandle:
      return InvalidField(absl::StrCat(field, ".handle"), "not allowed here");
    case v1::BlockMask::kPredicted:
      return absl::UnimplementedError(absl::StrCat(field, ".predicted: not served by this server"));
    case v1::BlockMask::KIND_NOT_SET:
      return InvalidField(absl::StrCat(field, ".kind"),
                          "got none; leave mask out for full attention");
  }
  if (decoded.bytes > max_mask_bytes) {
    return NeverFits(
        "server.max_mask_bytes",
        absl::StrCat("the mask has ", decoded.bytes, " bytes, the limit is ", max_mask_bytes));
  }
  return decoded;
}

}  // namespace sage::server
