//! Fast `f32` kernels for the CPU, with hand-written backward passes, over plain row-major slices.
//! Linear maps, attention and those convolutions that do not go Winograd's way can multiply in bf16
//! ([`set_precision`]).
//!
//! Every element of a result is computed in one fixed order, with fused multiply-adds in the tails
//! too: it does not depend on the batch size, the number of threads or its place in a tile. It does
//! depend, within rounding, on the instruction set ([`simd_level`]).
//!
//! Functions panic where a slice does not have the length that the shape says.

#![allow(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod activation;
mod attention;
mod buffer;
mod conv;
mod feed_forward;
mod fused_attention;
mod gemm;
mod group_norm;
mod layer_norm;
mod layout;
mod linear;
mod linear_gradients;
mod memory;
mod optimizer;
mod parallel;
mod pool;
mod precision;
mod probe;
mod reduce;
mod rows;
mod simd;
mod widen;

pub use activation::{
    geglu, geglu_backward, gelu, gelu_backward, quick_gelu, quick_gelu_backward, silu,
    silu_backward,
};
pub use attention::{AttentionShape, attention, attention_backward};
pub use conv::{
    Added, ConvShape, NormConv, NormConvGradients, conv2d, conv2d_backward_bias,
    conv2d_backward_input, conv2d_backward_weight, fuses_norm_conv, norm_conv, norm_conv_backward,
    set_winograd,
};
pub use feed_forward::{FeedForward, feed_forward, feed_forward_backward, fuses_feed_forward};
pub use fused_attention::{
    FusedAttention, FusedAttentionGradients, FusedAttentionShape, fused_attention,
    fused_attention_backward, fuses_attention,
};
pub use group_norm::{GroupNormSilu, group_norm, group_norm_backward};
pub use layer_norm::{Norm, layer_norm, layer_norm_backward};
pub use layout::{
    add, add_channel, add_channel_backward, concat_channels, split_channels, transpose,
    upsample_nearest2x, upsample_nearest2x_backward,
};
pub use linear::{
    linear, linear_backward_bias, linear_backward_input, linear_backward_weight, matmul,
};
pub use linear_gradients::linear_gradients;
pub use memory::keep_freed_memory;
pub use optimizer::{AdamW, adamw_step};
pub use precision::{Precision, bf16_supported, precision, set_precision};
pub use probe::multiply_add_probe;
pub use reduce::sum_squares;
pub use simd::bf16::{amx_active, set_amx};
pub use simd::{SimdLevel, set_simd_level, simd_level, simd_supported};
pub use widen::widen;
