//! craft-kernels
