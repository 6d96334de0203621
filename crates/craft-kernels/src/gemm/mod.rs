//! Matrix products: a register-blocked microkernel, a block routine on top of it, and the driver
//! for plain matrices.

pub(crate) mod block;
pub(crate) mod driver;
pub(crate) mod micro;
pub(crate) mod operands;
pub(crate) mod pack;
mod panels;
mod tiles;

pub(crate) use block::{Block, Init};
pub(crate) use driver::{Bias, Left, Product, Right, product};
