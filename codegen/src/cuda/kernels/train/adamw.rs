//! AdamW over many tensors at once.

use rabitc_rbx::SmArch;

use super::{builder, finish};
use crate::cuda::source::{CudaSpec, Source};

/// One launch updates every tensor and clears its gradient; a block a chunk of [`CHUNK`] elements.
/// Parameters: the tensors, the chunks, and the step, as [`TENSOR`], [`CHUNKS`] and [`STEP`] have
/// them; then gradients and both moments, one buffer each for all tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW;

/// Elements of a chunk.
pub const CHUNK: usize = 16384;

/// `[weight address u64, first element in the three buffers u64, elements u64, bf16? u32, group
/// u32, decay f32, number u32]`, 40 bytes a tensor.
pub const TENSOR: usize = 40;
/// `[tensor u32, chunk u32]`, 8 bytes a chunk.
pub const CHUNKS: usize = 8;
/// `[beta1, beta2, 1 − beta1^step, 1 − beta2^step, eps, gradient factor]` f32, `[seed, step]` u64,
/// then a learning rate a group, f32.
pub const STEP: usize = 40;

impl CudaSpec for AdamW {
    fn name(&self) -> String {
        "adamw".into()
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("CHUNK", CHUNK)
            .helper(RECORDS)
            .param("const Tensor", "tensors")
            .param("const uint2", "chunks")
            .param("const Step", "step")
            .param("float", "gradients")
            .param("float", "moments1")
            .param("float", "moments2");
        finish(b, BODY)
    }
}

const RECORDS: &str = r#"
struct Tensor { u64 weight, first, elements; u32 bf16, group; float decay; u32 number; };
struct Step { float beta1, beta2, bias1, bias2, eps, factor; u64 seed, number; float rates[1]; };
// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
__device__ __forceinline__ u64 mix(u64 x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
"#;

const BODY: &str = r#"
  const uint2 chunk = chunks[blockIdx.x];
  const Tensor tensor = tensors[chunk.x];
  const Step now = *step;
  const float rate = step->rates[tensor.group];
  const u64 first = (u64)chunk.y * CHUNK, end = min(tensor.elements, first + CHUNK);
  const u64 noise = mix(mix(now.seed ^ mix(now.number)) ^ tensor.number);
  for (u64 i = first + threadIdx.x; i < end; i += 256) {
    const u64 at = tensor.first + i;
    const float gradient = gradients[at] * now.factor;
    const float m = now.beta1 * moments1[at] + (1.0f - now.beta1) * gradient;
    const float v = now.beta2 * moments2[at] + (1.0f - now.beta2) * gradient * gradient;
    gradients[at] = 0.0f;
    moments1[at] = m;
    moments2[at] = v;
    float w = tensor.bf16 ? bf16_to_f32(((u16*)tensor.weight)[i]) : ((float*)tensor.weight)[i];
    w -= rate * ((m / now.bias1) / (sqrtf(v / now.bias2) + now.eps) + tensor.decay * w);
    if (tensor.bf16) {
      // Stochastic rounding: up with the probability that the part cut off is of a unit.
      const u32 bits = __float_as_uint(w), random = (u32)mix(noise ^ i) & 0xffffu;
      const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
      ((u16*)tensor.weight)[i] = (u16)((finite ? bits + random : bits) >> 16);
    } else {
      ((float*)tensor.weight)[i] = w;
    }
  }
"#;
