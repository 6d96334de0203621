//! Convolution without im2col. 3 by 3 kernels at stride 1 mostly go the way of [`winograd`], all
//! others this one:
//!
//! For each column `kx` of the kernel (and each phase of the stride) the image is copied once into
//! a plane whose rows are exactly as long as the output's. Then output position `p = y * width + x`
//! reads plane position `p + offset` for every tap, so the products run over whole vectors, and the
//! microkernel finds its operand through a table of offsets.

mod backward;
mod forward;
mod image;
mod norm_conv;
mod planes;
mod pointwise;
mod shape;
mod taps;
mod weight;
mod weight_tiles;
mod winograd;

pub use backward::{conv2d_backward_bias, conv2d_backward_input};
pub use forward::conv2d;
pub use norm_conv::{
    Added, NormConv, NormConvGradients, fuses_norm_conv, norm_conv, norm_conv_backward,
};
pub use shape::ConvShape;
pub use weight::conv2d_backward_weight;
pub use winograd::set_winograd;
