// Every field of a header that can be wrong: the code, the text and the details that both methods
// answer with, and that the next request is served as if nothing had happened.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/plain_client.h"
#include "tests/support/server_fixture.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;

// A valid header, for SmallProblem(), and what makes it wrong.
struct HeaderCase {
  const char* name;
  std::function<void(v1::AttendHeader&)> spoil;
  StatusCode code;
  const char* message;
  Details details = Details::kNone;
};

HeaderCase Bad(const char* name, const char* message,
               std::function<void(v1::AttendHeader&)> spoil) {
  return {name, std::move(spoil), StatusCode::INVALID_ARGUMENT, message, Details::kBadRequest};
}

HeaderCase Unserved(const char* name, const char* message,
                    std::function<void(v1::AttendHeader&)> spoil) {
  return {name, std::move(spoil), StatusCode::UNIMPLEMENTED, message};
}

HeaderCase Unknown(const char* name, const char* message,
                   std::function<void(v1::AttendHeader&)> spoil) {
  return {name, std::move(spoil), StatusCode::NOT_FOUND, message};
}

using Header = v1::AttendHeader;
constexpr std::int64_t kTooLarge = (std::int64_t{1} << 31) + 1;

v1::MaskPattern& Pattern(Header& header) { return *header.mutable_mask()->mutable_pattern(); }

v1::PackedBlockMask& Packed(Header& header, std::size_t bytes) {
  v1::PackedBlockMask& packed = *header.mutable_mask()->mutable_packed();
  packed.set_batch(1);
  packed.set_num_heads(4);
  packed.set_bits(std::string(bytes, '\3'));
  return packed;
}

// Valid scales of SmallProblem(), as if q or k travelled as int8.
v1::QuantizedOperand& QuantizedQ(Header& header) {
  const std::string zeros(SmallProblem().lse_elements() * sizeof(float), '\0');
  v1::QuantizedOperand& q = *header.mutable_q()->mutable_quantized();
  q.set_scales(zeros);
  q.set_dot_smoothing(zeros);
  return q;
}
v1::QuantizedOperand& QuantizedK(Header& header) {
  const AttentionProblem problem = SmallProblem();
  const std::int64_t heads = problem.batch * problem.num_heads_kv;
  v1::QuantizedOperand& k = *header.mutable_k()->mutable_quantized();
  k.set_scales(std::string(heads * problem.blocks_k() * sizeof(float), '\0'));
  k.set_smoothing(std::string(heads * problem.head_dim * sizeof(float), '\0'));
  return k;
}
void SetFloat(std::string& floats, std::size_t index, float value) {
  std::memcpy(floats.data() + index * sizeof(float), &value, sizeof(float));
}

const HeaderCase kShapes[] = {
    Bad("Empty",
        "header.dtype: got DATA_TYPE_UNSPECIFIED (0), allowed FLOAT16, BFLOAT16 and, for "
        "output, FLOAT32",
        [](Header& h) { h.Clear(); }),
    Bad("NoShape", "header.shape.batch: got 0, allowed 1 to 2147483648",
        [](Header& h) { h.clear_shape(); }),
    Bad("Batch0", "header.shape.batch: got 0, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_batch(0); }),
    Bad("BatchNegative", "header.shape.batch: got -1, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_batch(-1); }),
    Bad("BatchHuge", "header.shape.batch: got 2147483649, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_batch(kTooLarge); }),
    Bad("BatchOverUnits", "header.shape.batch: got 65537, allowed at most 65536",
        [](Header& h) { h.mutable_shape()->set_batch(65537); }),
    Bad("HeadsQ0", "header.shape.num_heads_q: got 0, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_num_heads_q(0); }),
    Bad("HeadsQNotAMultiple",
        "header.shape.num_heads_q: got 3, allowed a multiple of num_heads_kv = 2",
        [](Header& h) { h.mutable_shape()->set_num_heads_q(3); }),
    Bad("HeadsKv0", "header.shape.num_heads_kv: got 0, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_num_heads_kv(0); }),
    Bad("SeqlenQ0", "header.shape.seqlen_q: got 0, allowed 1 to 2147483648",
        [](Header& h) { h.mutable_shape()->set_seqlen_q(0); }),
    Bad("SeqlenKHuge", "header.shape.seqlen_k: got 9223372036854775807, allowed 1 to 2147483648",
        [](Header& h) {
          h.mutable_shape()->set_seqlen_k(std::numeric_limits<std::int64_t>::max());
        }),
    Bad("HeadDim0", "header.shape.head_dim: got 0, allowed a multiple of 8 from 8 to 128",
        [](Header& h) { h.mutable_shape()->set_head_dim(0); }),
    Bad("HeadDim12", "header.shape.head_dim: got 12, allowed a multiple of 8 from 8 to 128",
        [](Header& h) { h.mutable_shape()->set_head_dim(12); }),
    Bad("HeadDim136", "header.shape.head_dim: got 136, allowed a multiple of 8 from 8 to 128",
        [](Header& h) { h.mutable_shape()->set_head_dim(136); }),
    Bad("ElementsOverflow",
        "header.q: got [2147483648, 2147483648, 129, 64], allowed fewer than 2^62 elements",
        [](Header& h) {
          h.mutable_shape()->set_batch(kTooLarge - 1);
          h.mutable_shape()->set_num_heads_q(kTooLarge - 1);
        }),
    Bad("KeyElementsOverflow",
        "header.k: got [1, 2147483648, 2147483648, 64], allowed fewer than 2^62 elements",
        [](Header& h) {
          h.mutable_shape()->set_seqlen_q(1);
          h.mutable_shape()->set_head_dim(64);
          h.mutable_shape()->set_num_heads_q(kTooLarge - 1);
          h.mutable_shape()->set_num_heads_kv(kTooLarge - 1);
          h.mutable_shape()->set_seqlen_k(kTooLarge - 1);
        }),
};

const HeaderCase kTypes[] = {
    Bad("DtypeFloat32", "header.dtype: got fp32, allowed fp16, bf16",
        [](Header& h) { h.set_dtype(v1::DATA_TYPE_FLOAT32); }),
    Bad("DtypeInt8",
        "header.dtype: got DATA_TYPE_INT8 (4), allowed FLOAT16, BFLOAT16 and, for "
        "output, FLOAT32",
        [](Header& h) { h.set_dtype(v1::DATA_TYPE_INT8); }),
    Bad("DtypeUnknown",
        "header.dtype: got  (99), allowed FLOAT16, BFLOAT16 and, for output, "
        "FLOAT32",
        [](Header& h) { h.set_dtype(static_cast<v1::DataType>(99)); }),
    Bad("OutputDtypeInt8",
        "header.output_dtype: got DATA_TYPE_INT8 (4), allowed FLOAT16, BFLOAT16 "
        "and, for output, FLOAT32",
        [](Header& h) { h.set_output_dtype(v1::DATA_TYPE_INT8); }),
    Bad("NoLayout", "header.layout: got 0, allowed HND (1), NHD (2)",
        [](Header& h) { h.clear_layout(); }),
    Bad("LayoutUnknown", "header.layout: got 9, allowed HND (1), NHD (2)",
        [](Header& h) { h.set_layout(static_cast<v1::Layout>(9)); }),
    Bad("PrecisionUnknown", "header.precision: got 9, allowed 0 to 3",
        [](Header& h) { h.set_precision(static_cast<v1::Precision>(9)); }),
    Bad("Scale0", "header.softmax_scale: got 0, allowed finite and positive",
        [](Header& h) { h.set_softmax_scale(0); }),
    Bad("ScaleNegative", "header.softmax_scale: got -1, allowed finite and positive",
        [](Header& h) { h.set_softmax_scale(-1); }),
    Bad("ScaleInfinite", "header.softmax_scale: got inf, allowed finite and positive",
        [](Header& h) { h.set_softmax_scale(INFINITY); }),
    Bad("ScaleNan", "header.softmax_scale: got nan, allowed finite and positive",
        [](Header& h) { h.set_softmax_scale(NAN); }),
    Bad("TooManyLengthsQ", "header.seqlens_q: got 2 entries, allowed none or 1 (batch)",
        [](Header& h) {
          h.add_seqlens_q(1);
          h.add_seqlens_q(1);
        }),
    Bad("LengthQNegative", "header.seqlens_q[0]: got -1, allowed 0 to 129",
        [](Header& h) { h.add_seqlens_q(-1); }),
    Bad("LengthKTooLong", "header.seqlens_k[0]: got 66, allowed 0 to 65",
        [](Header& h) { h.add_seqlens_k(66); }),
    Bad("PriorityHigh", "header.priority: got 11, allowed -10 to 10",
        [](Header& h) { h.set_priority(11); }),
    Bad("PriorityLow", "header.priority: got -11, allowed -10 to 10",
        [](Header& h) { h.set_priority(-11); }),
    Bad("RequestIdLong", "header.request_id: allowed up to 64 printable ASCII characters",
        [](Header& h) { h.set_request_id(std::string(65, 'a')); }),
    Bad("RequestIdControl", "header.request_id: allowed up to 64 printable ASCII characters",
        [](Header& h) { h.set_request_id("a\nb"); }),
};

// SmallProblem() has 2 query tiles and 2 key blocks, so 8 bytes of mask for 4 heads.
const HeaderCase kMasks[] = {
    Bad("NoKind", "header.mask.kind: got none; leave mask out for full attention",
        [](Header& h) { h.mutable_mask(); }),
    Bad("PackedShort", "header.mask.packed.bits: got 7 bytes, allowed 8 for blocks [1, 4, 2, 2]",
        [](Header& h) { Packed(h, 7); }),
    Bad("PackedLong", "header.mask.packed.bits: got 9 bytes, allowed 8 for blocks [1, 4, 2, 2]",
        [](Header& h) { Packed(h, 9); }),
    Bad("PackedEmpty", "header.mask.packed.bits: got 0 bytes, allowed 8 for blocks [1, 4, 2, 2]",
        [](Header& h) { Packed(h, 0); }),
    Bad("PackedBatch", "header.mask.packed.batch: got 2, allowed 1 or 1",
        [](Header& h) { Packed(h, 8).set_batch(2); }),
    Bad("PackedHeads", "header.mask.packed.num_heads: got 2, allowed 1 or 4 (num_heads_q)",
        [](Header& h) { Packed(h, 8).set_num_heads(2); }),
    Bad("PackedHeadsNegative", "header.mask.packed.num_heads: got -4, allowed 1 or 4 (num_heads_q)",
        [](Header& h) { Packed(h, 8).set_num_heads(-4); }),
    Bad("NoPattern", "header.mask.pattern.kind: got none, allowed one of the patterns",
        [](Header& h) { Pattern(h); }),
    Bad("WindowLeft", "header.mask.pattern.left_blocks: got -1, allowed 0 or more",
        [](Header& h) { Pattern(h).mutable_sliding_window()->set_left_blocks(-1); }),
    Bad("WindowRight", "header.mask.pattern.right_blocks: got -1, allowed 0 or more",
        [](Header& h) { Pattern(h).mutable_sliding_window()->set_right_blocks(-1); }),
    Bad("Sink", "header.mask.pattern.sink_blocks: got -1, allowed 0 or more",
        [](Header& h) { Pattern(h).mutable_sink_window()->set_sink_blocks(-1); }),
    Bad("Stride", "header.mask.pattern.stride_blocks: got 0, allowed 1 or more",
        [](Header& h) { Pattern(h).mutable_strided()->set_stride_blocks(0); }),
    Bad("Phase", "header.mask.pattern.phase_blocks: got 3, allowed 0 to 2",
        [](Header& h) {
          Pattern(h).mutable_strided()->set_stride_blocks(3);
          Pattern(h).mutable_strided()->set_phase_blocks(3);
        }),
    Bad("Band", "header.mask.pattern.upper_blocks: got -2, allowed -1 (lower_blocks) or more",
        [](Header& h) {
          Pattern(h).mutable_band()->set_lower_blocks(-1);
          Pattern(h).mutable_band()->set_upper_blocks(-2);
        }),
    Bad("DocumentsNotSelfAttention",
        "header.mask.pattern.seqlen_q: got 129, allowed 65 (seqlen_k) with document lengths",
        [](Header& h) { Pattern(h).mutable_documents()->add_lengths(65); }),
    Bad("DocumentsSum", "header.mask.pattern.lengths: got a sum of 64, allowed 65 (seqlen_k)",
        [](Header& h) {
          h.mutable_shape()->set_seqlen_q(65);
          Pattern(h).mutable_documents()->add_lengths(64);
        }),
    Unserved("PerElement",
             "header.mask.pattern.per_element: only per-block patterns are served by this server",
             [](Header& h) {
               Pattern(h).mutable_sliding_window();
               Pattern(h).set_per_element(true);
             }),
    Unserved("Predicted", "header.mask.predicted: not served by this server",
             [](Header& h) { h.mutable_mask()->mutable_predicted(); }),
    Unknown("UnknownHandle", "header.mask.handle: no such tensor",
            [](Header& h) { h.mutable_mask()->mutable_handle()->set_id(std::string(16, 'x')); }),
    Bad("MalformedHandle", "header.mask.handle.id: got 3 bytes, allowed 16",
        [](Header& h) { h.mutable_mask()->mutable_handle()->set_id("abc"); }),
};

const HeaderCase kOperands[] = {
    Unknown("UnknownQ", "header.q.handle: no such tensor",
            [](Header& h) { h.mutable_q()->mutable_handle()->set_id(std::string(16, 'x')); }),
    Unknown("UnknownK", "header.k.handle: no such tensor",
            [](Header& h) { h.mutable_k()->mutable_handle()->set_id(std::string(16, '\0')); }),
    Unknown("OtherServersV", "header.v.handle: no such tensor",
            [](Header& h) {
              h.mutable_v()->mutable_handle()->set_id(std::string(16, 'x'));
              h.mutable_v()->mutable_handle()->set_server_id("another");
            }),
    Unknown("UnknownOutput", "header.output.handle: no such tensor",
            [](Header& h) { h.mutable_output()->mutable_handle()->set_id(std::string(16, 'x')); }),
    Bad("MalformedQ", "header.q.handle.id: got 0 bytes, allowed 16",
        [](Header& h) { h.mutable_q()->mutable_handle(); }),
    Bad("MalformedOutput", "header.output.handle.id: got 17 bytes, allowed 16",
        [](Header& h) { h.mutable_output()->mutable_handle()->set_id(std::string(17, 'x')); }),
    Bad("QuantizedQWithoutScales",
        "header.q.quantized.scales: got 0 bytes, allowed 2064 for this shape",
        [](Header& h) { h.mutable_q()->mutable_quantized(); }),
    Bad("QuantizedKWithoutSmoothing",
        "header.k.quantized.smoothing: got 0 bytes, allowed 512 for this shape",
        [](Header& h) { QuantizedK(h).clear_smoothing(); }),
    Bad("QuantizedKWithOddScales",
        "header.k.quantized.scales: got 17 bytes, allowed 16 for this shape",
        [](Header& h) { QuantizedK(h).mutable_scales()->push_back('x'); }),
    Bad("QuantizedQWithoutDotForLse",
        "header.q.quantized.dot_smoothing: got 0 bytes, allowed 2064 for this shape",
        [](Header& h) { QuantizedQ(h).clear_dot_smoothing(); }),
    Bad("QuantizedQWithSmoothing", "header.q.quantized.smoothing: allowed for k only",
        [](Header& h) { QuantizedQ(h).set_smoothing("x"); }),
    Bad("QuantizedKWithDot", "header.k.quantized.dot_smoothing: allowed for q only",
        [](Header& h) { QuantizedK(h).set_dot_smoothing("x"); }),
    Bad("NegativeScale",
        "header.q.quantized.scales: got -1 at index 3, allowed finite values from 0 on, or NaN for "
        "a group with a non-finite value",
        [](Header& h) { SetFloat(*QuantizedQ(h).mutable_scales(), 3, -1.0F); }),
    Bad("InfiniteScale",
        "header.k.quantized.scales: got inf at index 1, allowed finite values from 0 on, or NaN "
        "for a group with a non-finite value",
        [](Header& h) {
          SetFloat(*QuantizedK(h).mutable_scales(), 1, std::numeric_limits<float>::infinity());
        }),
    Bad("QuantizedV", "header.v.quantized: allowed for q and k only",
        [](Header& h) { h.mutable_v()->mutable_quantized(); }),
    Bad("QuantizedWithFp16", "header.k.quantized: not allowed with precision fp16",
        [](Header& h) {
          h.set_precision(v1::PRECISION_FP16);
          h.mutable_k()->mutable_quantized();
        }),
};

class HeaderErrors : public ServerFixture {
 protected:
  void SetUp() override {
    StartServer();
    stub_ = v1::Attention::NewStub(NewChannel());
  }

  void Check(std::span<const HeaderCase> cases) {
    for (const HeaderCase& c : cases) {
      SCOPED_TRACE(c.name);
      v1::AttendRequest request = UnaryRequest(sample_);
      c.spoil(*request.mutable_header());
      grpc::ClientContext context;
      v1::AttendResponse response;
      EXPECT_TRUE(
          IsError(stub_->Attend(&context, request, &response), c.code, c.message, c.details));
      PlainStream stream(*stub_, sample_);
      EXPECT_FALSE(stream.Open(request.header()));
      EXPECT_TRUE(IsError(stream.Finish(), c.code, c.message, c.details));

      EXPECT_TRUE(AttendsRightly(*stub_, sample_));
      EXPECT_TRUE(StreamsRightly(*stub_, sample_));
    }
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  std::unique_ptr<v1::Attention::Stub> stub_;
};

TEST_F(HeaderErrors, NameTheDimension) { Check(kShapes); }
TEST_F(HeaderErrors, NameTheType) { Check(kTypes); }
TEST_F(HeaderErrors, NameWhatIsWrongWithTheMask) { Check(kMasks); }
TEST_F(HeaderErrors, NameTheOperand) { Check(kOperands); }

}  // namespace
}  // namespace sage::testing
